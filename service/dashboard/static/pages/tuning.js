/* A tuned experiment: what was searched, chosen and spent, and the choice between its two tables. */

import { tableExport } from "../exports.js";
import { duration, metricName, metricValue, whole } from "../format.js";
import { choice, facts } from "../parts.js";
import { url } from "../url.js";
import { h } from "../view.js";

const STAGES = [
  ["tuned", "Tuned"],
  ["untuned", "Untuned"],
];
const ERROR = "holdout_error";

/** The choice between the tables of the results; null without another table. */
export const stageChoice = ({ tuning, stage }) =>
  tuning?.compare
    ? choice("Table", STAGES, stage, (value) => url.change({ stage: value === "tuned" ? null : value }))
    : null;

/** The card of the search. */
export function tuningCard({ tuning, rows, columns }, id, say) {
  if (!tuning) return null;
  const searched = tuning.over.map(
    ({ field, values }) => `${words(field)} ${values.map(({ label }) => label).join(", ")}`,
  );
  return h(
    "section",
    { class: "card", key: "tuning", "aria-label": "Tuning" },
    h(
      "header",
      {},
      h("h2", {}, `Chosen for each ${tuning.per}`),
      h("small", {}, `searched on ${whole(tuning.holdout)} held-out training images: ${searched.join("; ")}`),
      h("div", { class: "actions" }, tableExport({ name: `${id}-choices`, say })),
    ),
    h(
      "div",
      { class: "body live" },
      facts(
        [
          [
            "Search",
            h(
              "a",
              { href: `/jobs?experiment=${id}&label=tune:search` },
              `${whole(tuning.ended)} of ${whole(tuning.jobs)} jobs`,
            ),
          ],
          ["Cost of the search", duration(tuning.device_s)],
          ["Tuned jobs that wait for it", whole(tuning.missing)],
        ],
        { class: "facts big" },
      ),
    ),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Chosen values" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            [words(rows.field), words(columns.field), "Chosen", `Lowest ${metricName(ERROR)}`, "Note"].map((name) =>
              h("th", { key: name, scope: "col" }, name),
            ),
          ),
        ),
        h("tbody", {}, tuning.choices.map(choiceRow)),
      ),
    ),
  );
}

function choiceRow(one) {
  const errors = one.candidates.map(({ error }) => error).filter((error) => error !== null);
  const tried = one.candidates.map(
    ({ label, error, failed }) =>
      `${label}: ${error === null ? "–" : metricValue(ERROR, error)}${failed ? `, ${failed} failed` : ""}`,
  );
  return h(
    "tr",
    { key: `${one.row} ${one.column}`, title: tried.join("\n") },
    h("th", { scope: "row" }, one.row),
    h("td", {}, one.column ?? "all"),
    h("td", {}, one.label ?? (one.has_ended ? "none" : "still searched")),
    h("td", { class: "number" }, errors.length ? metricValue(ERROR, Math.min(...errors)) : "–"),
    h("td", {}, one.reason ?? (one.edges.length ? `at the edge: ${one.edges.map(words).join(", ")}` : "")),
  );
}

const words = (field) => field.replaceAll("_", " ");
