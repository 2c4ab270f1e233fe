/* The page for an unknown address. */

import { emptyState, linkButton } from "../parts.js";

export default function missing() {
  return {
    title: () => "Nothing here",
    view: () =>
      emptyState(
        "There is nothing here",
        "The address may be mistyped, or its job or experiment was deleted.",
        linkButton("All jobs", "/jobs", { kind: "primary" }),
      ),
  };
}
