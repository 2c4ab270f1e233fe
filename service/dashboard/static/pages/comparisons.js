/* The comparisons: pairs of rows within a column, with intervals and p values. */

import { isFraction, metricName, metricValue, plain, significant } from "../format.js";
import { choice, notice } from "../parts.js";
import { shape } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { metricOf } from "../vocabulary.js";

const YES = "M3 8.5 6.5 12 13 4.5";
const OPEN = "M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5Z";

/** A difference with its sign; of fractions in percentage points. */
export function signed(metric, value) {
  if (value === null) return "–";
  const text = isFraction(metric) ? (100 * Math.abs(value)).toFixed(2) : metricValue(metric, Math.abs(value));
  return `${value < 0 ? "−" : "+"}${text}`;
}

/** The pairwise comparisons, all of them or only the resolved ones. `exported` is the menu of their table. */
export function comparisonsCard(results, metric, exported) {
  const only = url.get("pairs", "all");
  const all = results.comparisons;
  const resolved = all.filter((one) => one.resolved);
  const shown = only === "resolved" ? resolved : all;
  const unit = isFraction(metric) ? "percentage points" : metricName(metric);
  return h(
    "section",
    { class: "card", key: "comparisons" },
    h(
      "header",
      {},
      h("h2", {}, "Pairwise comparisons"),
      h(
        "small",
        {},
        `paired over seeds, ${Math.round(100 * results.confidence)} % intervals, p adjusted for ${results.family_size} comparisons (Holm)`,
      ),
      h(
        "div",
        { class: "actions" },
        choice(
          "Comparisons",
          [
            ["all", `All (${all.length})`],
            ["resolved", `Significant (${resolved.length})`],
          ],
          only,
          (value) => url.change({ pairs: value === "all" ? null : value }),
        ),
        shown.length > 0 && exported,
      ),
    ),
    shown.length
      ? h(
          "div",
          { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Comparisons" },
          h(
            "table",
            { class: "compact differences" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                h("th", { scope: "col" }, results.columns.field.replaceAll("_", " ")),
                h("th", { scope: "col" }, "a − b"),
                h("th", { scope: "col" }, "Significant (Holm)"),
                ["Difference", "Interval", "p adjusted"].map((name) =>
                  h(
                    "th",
                    { key: name, scope: "col", class: "number", title: name === "Difference" ? unit : null },
                    name,
                  ),
                ),
              ),
            ),
            h(
              "tbody",
              {},
              shown.map((one) =>
                h(
                  "tr",
                  { key: `${one.column} ${one.row_a} ${one.row_b}` },
                  h("td", {}, plain(one.column)),
                  h("th", { scope: "row" }, `${one.row_a} − ${one.row_b}`),
                  h("td", {}, verdict(one, metric)),
                  h(
                    "td",
                    { class: "number", title: `over ${one.n} seeds${one.failed ? `; ${one.failed} failed` : ""}` },
                    signed(metric, one.difference),
                  ),
                  h(
                    "td",
                    { class: "number" },
                    one.interval ? `${signed(metric, one.interval[0])} to ${signed(metric, one.interval[1])}` : "–",
                  ),
                  h(
                    "td",
                    { class: "number" },
                    one.p_adjusted === null ? "–" : one.p_adjusted < 0.001 ? "< 0.001" : significant(one.p_adjusted, 2),
                  ),
                ),
              ),
            ),
          ),
        )
      : h(
          "div",
          { class: "body muted" },
          all.length
            ? "No difference is significant yet."
            : "There is nothing to compare yet: a comparison needs two rows with at least two common seeds.",
        ),
    interaction(results),
  );
}

/** Whether a comparison is significant, and which row has less; else how many seeds might resolve it. */
export function verdict(one, metric) {
  if (!one.resolved) {
    const needed =
      one.seeds_needed === null ? "open" : `${one.seeds_needed} more ${one.seeds_needed === 1 ? "seed" : "seeds"}`;
    return h("span", { class: "status" }, shape(OPEN), needed);
  }
  const less = one.difference < 0 ? one.row_a : one.row_b;
  return h(
    "span",
    { class: "status status-succeeded" },
    shape(YES),
    metricOf(metric).better === "higher" ? "significant" : `${less} has less`,
  );
}

function interaction({ interaction: it, rows, columns }) {
  if (!it) return null;
  const [a, b] = [rows.field.replaceAll("_", " "), columns.field.replaceAll("_", " ")];
  const text = it.resolved
    ? `The effect of the ${a} depends on the ${b}`
    : `The effect of the ${a} is not shown to depend on the ${b}`;
  const tested = it.contrasts.filter((one) => one.p_adjusted !== null);
  if (!tested.length) return h("div", { class: "body muted", key: "interaction" }, `${text}.`);
  const least = tested.reduce((a, b) => (b.p_adjusted < a.p_adjusted ? b : a));
  const p = least.p_adjusted < 0.001 ? "p < 0.001" : `p = ${significant(least.p_adjusted, 2)}`;
  return h(
    "div",
    { class: "body muted", key: "interaction" },
    `${text}: ${least.row_a} − ${least.row_b}, from ${least.column_first} to ${least.column_last} (adjusted ${p}).`,
  );
}

/** What the statistics assume, and these jobs do not meet: a card with all warnings; null without any. */
export const assumptions = (warnings) =>
  warnings.length > 0 &&
  h(
    "section",
    { class: "card", key: "assumptions", "aria-label": "Assumptions" },
    h(
      "header",
      {},
      h("h2", {}, "Assumptions"),
      h("small", {}, "what besides rows and columns may explain a difference"),
    ),
    h("div", { class: "body live" }, confounds(warnings)),
  );

/** A text with a capital. */
export const capital = (text) => text.replace(/^./, (c) => c.toUpperCase());

/** Warnings as notices. */
export function confounds(warnings) {
  return warnings.map((one) =>
    h(
      "div",
      { key: `${one.code} ${one.detail}` },
      notice(
        one.severity === "note" ? "info" : "warn",
        capital(one.code.replaceAll("_", " ")),
        one.detail.replaceAll("`", ""),
      ),
    ),
  );
}
