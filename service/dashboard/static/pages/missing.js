/* The page for an unknown address. */

import { unavailable } from "../parts.js";

export default function missing() {
  return {
    title: () => "Nothing here",
    view: () => unavailable({ status: 404, detail: "There is nothing at this address." }, null, ["All jobs", "/jobs"]),
  };
}
