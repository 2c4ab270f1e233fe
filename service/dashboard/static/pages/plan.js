/* What a dry run says about an experiment: its jobs, their cost, and its confounds. */

import { duration, whole } from "../format.js";
import { facts, notice } from "../parts.js";
import { h } from "../view.js";

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
    warnings.map((warning) =>
      h(
        "div",
        { key: `${warning.code} ${warning.detail}` },
        notice(
          warning.severity === "note" ? "info" : "warn",
          warning.code.replaceAll("_", " "),
          warning.detail.replaceAll("`", ""),
        ),
      ),
    ),
  ];
}

const searched = (it) => [
  ["Of the search", `${whole(it.search_jobs)}, ${duration(it.search_device_s)}`],
  ["After it, tuned", whole(it.tuned_jobs)],
];
