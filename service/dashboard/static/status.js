/* The status of a job or an experiment as a word and a shape, so that colour alone never says it. */

import { h } from "./view.js";
import { jobStatus } from "./vocabulary.js";

const SHAPES = {
  queued: "M8 4.5V8l2.5 1.5M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5Z",
  starting: "M8 1.75a6.25 6.25 0 1 1-6.25 6.25",
  running: "M5.5 3.5v9l7-4.5z",
  pausing: "M8 1.75a6.25 6.25 0 1 1-6.25 6.25M6.5 6v4M9.5 6v4",
  paused: "M5.5 3.5v9M10.5 3.5v9",
  cancelling: "M8 1.75a6.25 6.25 0 1 1-6.25 6.25M6 6l4 4",
  lost: "M8 2 14.5 13.5h-13zM8 6.5v3M8 11.5v.2",
  succeeded: "M3 8.5 6.5 12 13 4.5",
  failed: "M4 4l8 8M12 4l-8 8",
  cancelled: "M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5ZM3.6 3.6l8.8 8.8",
};

/** The icon and the name of a status, with its meaning as a tooltip. */
export function statusMark(status, meaning = jobStatus(status).description) {
  return h(
    "span",
    { class: `status status-${status}`, title: meaning },
    shape(SHAPES[status] ?? SHAPES.queued),
    status,
  );
}

/** An icon of 16 by 16 units. */
export function shape(path, label = null) {
  const name = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  return h("svg", { class: "icon", viewBox: "0 0 16 16", ...name }, h("path", { d: path }));
}
