/* An address that leads nowhere. */

import { emptyState, linkButton } from "../parts.js";

export default function missing() {
  return {
    title: () => "Nothing here",
    view: () =>
      emptyState(
        "There is nothing here",
        "The address may have been mistyped, or what it led to was removed.",
        linkButton("All jobs", "/jobs", { kind: "primary" }),
      ),
  };
}
