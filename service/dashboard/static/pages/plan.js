/* What a dry run says about an experiment: its jobs, their cost, and its confounds. */

import { duration, whole } from "../format.js";
import { facts } from "../parts.js";
import { h } from "../view.js";
import { confounds } from "./comparisons.js";

/** How long the user waits; where the number of slots is unknown, as on one. */
export const secondsOf = ({ elapsed_s: elapsed, device_s: computing }) => elapsed ?? computing;

export function planOf({ jobs, cells, cost, tuning, precision, warnings }) {
  return [
    facts(
      [
        ["Jobs", whole(jobs.length)],
        ...(tuning ? searched(tuning) : []),
        ["Cells", whole(cells)],
        ["Computing time", duration(cost.device_s)],
        ["Done in about", cost.elapsed_s === null ? "not known" : duration(cost.elapsed_s)],
      ],
      { key: "facts" },
    ),
    h("p", { class: "muted", key: "basis" }, cost.basis),
    precision && h("p", { class: "muted", key: "precision" }, `Precision: ${precision.reason}.`),
    warnings.length > 0 && [h("h3", { key: "assumptions" }, "Assumptions"), confounds(warnings)],
  ];
}

const searched = (it) => [
  ["Of the search", `${whole(it.search_jobs)}, ${duration(it.search_device_s)}`],
  ["After it, tuned", whole(it.tuned_jobs)],
];
