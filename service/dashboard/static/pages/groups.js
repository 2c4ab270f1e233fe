/* Jobs in groups: means with intervals, from /v1/results. */

import { get } from "../api.js";
import { tableExport } from "../exports.js";
import { metricName, metricValue, plain, whole } from "../format.js";
import { problemNotice } from "../parts.js";
import { h } from "../view.js";
import { confounds } from "./comparisons.js";
import { quantitiesOf } from "./quantities.js";

/** What these jobs can be grouped by, `[name, title]`: fields that differ, the usual ones, and labels. */
export const groupsOf = (jobs, chosen) => {
  const all = [...quantitiesOf(jobs).values()].filter(({ kind }) => ["part", "field", "label"].includes(kind));
  const missing = chosen.filter((name) => all.every((one) => one.name !== name));
  return [...all.map(({ name, title }) => [name, title]), ...missing.map((name) => [name, name])];
};

/** Load the results of the filtered jobs, by one or two fields. */
export function loadGroups(
  filter,
  [rows, columns = rows === "batch_size" ? "normalization" : "batch_size"],
  metric,
  signal,
) {
  return get("/v1/results", { ...filter, metric, rows, columns }, { signal });
}

/** The table of groups: n, mean, interval, standard deviation and range. */
export function groupedTable(groups, metric, say) {
  if (groups.problem)
    return h(
      "section",
      { class: "card", key: "groups" },
      h(
        "div",
        { class: "body" },
        problemNotice(groups.problem, () => groups.reload()),
      ),
    );
  const cells = groups.data?.cells ?? [];
  const { rows, columns, confidence = 0.95, warnings = [], datasets = [] } = groups.data ?? {};
  const level = `${Number((100 * confidence).toPrecision(6))} %`;
  const rowName = rows?.field ?? "";
  return h(
    "section",
    { class: "card", key: "groups", "aria-busy": String(groups.pending) },
    h(
      "header",
      {},
      h("h2", {}, `Mean ${metricName(metric)} by group`),
      h("small", {}, ["mean over the jobs of a group, with its interval", ...datasets].join(" · ")),
      cells.length > 0 && h("div", { class: "actions" }, tableExport({ name: `groups-${metric}`, say })),
    ),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Groups" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            [String(rowName || "row"), String(columns?.field || "column")].map((name) =>
              h("th", { key: name, scope: "col" }, name.replaceAll("_", " ")),
            ),
            ["n", "mean", `${level} interval`, "sd", "min", "max"].map((name) =>
              h("th", { key: name, class: "number", scope: "col" }, name),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          cells.map((cell) =>
            h(
              "tr",
              { key: `${cell.row} ${cell.column}` },
              h("th", { scope: "row" }, plain(cell.row)),
              h("td", {}, plain(cell.column)),
              h("td", { class: "number" }, whole(cell.n)),
              h("td", { class: "number" }, metricValue(metric, cell.mean)),
              h(
                "td",
                { class: "number" },
                cell.interval
                  ? `${metricValue(metric, cell.interval[0])} to ${metricValue(metric, cell.interval[1])}`
                  : h("span", { title: cell.note }, cell.n > 1 ? "none: equal values" : "needs 2 jobs"),
              ),
              ["sd", "min", "max"].map((name) =>
                h("td", { class: "number", key: name }, metricValue(metric, cell[name])),
              ),
            ),
          ),
        ),
      ),
    ),
    warnings.length ? h("div", { class: "body live", key: "warnings" }, confounds(warnings)) : null,
  );
}
