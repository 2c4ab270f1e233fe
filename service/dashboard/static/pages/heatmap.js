/* The results as a heat map: means with intervals by row and column, and the jobs that have not succeeded. */

import { isFraction, metricName, metricValue } from "../format.js";
import { toParameters, withValue } from "../request.js";
import { statusMark } from "../status.js";
import { h } from "../view.js";
import { signed } from "./comparisons.js";

/** The key of a cell in the address. */
export const cellKey = (cell) => `${cell.row}~${cell.column}`;

/** Half the width of a symmetric interval, shown after ±. */
export function margin(metric, cell) {
  if (!cell.interval) return null;
  const half = (cell.interval[1] - cell.interval[0]) / 2;
  return isFraction(metric) ? (100 * half).toFixed(2) : metricValue(metric, half);
}

/** The table. `chosen` are keys of cells, `toggle(key)` chooses or drops one, `shares(cell)` is the progress of each of
 * its running jobs. Cells show their difference to the row `baseline`, if there is one. */
export function heatmap(results, { metric, chosen, toggle, shares, baseline }) {
  const { rows, columns, cells } = results;
  const at = new Map(cells.map((cell) => [cellKey(cell), cell]));
  const means = cells.map((cell) => cell.mean).filter((mean) => mean !== null);
  const [least, most] = [Math.min(...means), Math.max(...means)];
  const heat = (mean) => (mean === null || most === least ? 0 : (mean - least) / (most - least));
  return h(
    "div",
    { class: "scroll body", tabindex: "0", role: "region", "aria-label": "Results", key: "heat" },
    h(
      "table",
      { class: "heat", vars: { "--columns": String(columns.values.length) } },
      h(
        "caption",
        { class: "visually-hidden" },
        `${metricName(metric)} by ${words(rows.field)} and ${words(columns.field)}`,
      ),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("td", { class: "corner" }, `${words(rows.field)} \\ ${words(columns.field)}`),
          columns.values.map(({ label }) => h("th", { scope: "col", key: label }, label)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.values.map((row) =>
          h(
            "tr",
            { key: row.label },
            h("th", { scope: "row" }, row.label),
            columns.values.map((column) =>
              h(
                "td",
                { key: column.label },
                tableCell(at.get(cellKey({ row: row.label, column: column.label })), row, column),
              ),
            ),
          ),
        ),
      ),
    ),
  );

  function tableCell(cell, row, column) {
    if (!cell)
      return h(
        "a",
        {
          class: "none",
          href: submitAddress(results, row, column),
          "aria-label": `No run of ${row.label} at ${column.label}: submit one`,
        },
        "no run",
        h("span", {}, "submit"),
      );
    const key = cellKey(cell);
    const half = margin(metric, cell);
    return h(
      "button",
      {
        type: "button",
        class: "cell",
        "aria-pressed": String(chosen.includes(key)),
        title: cell.note ?? `${cell.n} seeds`,
        onclick: () => toggle(key),
        vars: { "--heat": heat(cell.mean).toFixed(3) },
      },
      h("strong", {}, metricValue(metric, cell.mean)),
      h("span", {}, half === null ? "" : `± ${half} · `, `n = ${cell.n}`),
      baseline && baseline !== cell.row ? difference(cell) : null,
      cellState(cell),
    );
  }

  /** The difference of a cell to that of the baseline in its column, over their common seeds. */
  function difference({ row, column }) {
    const pair = results.comparisons.find(
      (one) => one.column === column && [one.row_a, one.row_b].every((name) => name === row || name === baseline),
    );
    if (!pair) return null;
    const value = pair.row_a === row || pair.difference === null ? pair.difference : -pair.difference;
    return h("span", { class: "difference" }, signed(metric, value), pair.resolved ? " significant" : "");
  }

  /** The jobs of a cell that have not succeeded: the two most important statuses, and the progress of running jobs. */
  function cellState(cell) {
    const parts = UNFINISHED.filter((status) => cell.counts[status]).slice(0, 2);
    return h(
      "span",
      { class: "state" },
      parts.map((status) => stateOf(status, cell.counts[status], status === "running" ? shares(cell) : [])),
    );
  }
}

const UNFINISHED = ["running", "starting", "pausing", "cancelling", "queued", "paused", "lost", "failed", "cancelled"];

function stateOf(status, count, done) {
  const mark = statusMark(status);
  const mean = done.reduce((sum, share) => sum + share, 0) / done.length;
  const words = done.length ? `${count} ${status} ${Math.round(100 * mean)} %` : `${count} ${status}`;
  return { ...mark, props: { ...mark.props, key: status }, children: [mark.children[0], words] };
}

const words = (field) => field.replaceAll("_", " ");

function submitAddress({ rows, columns }, row, column) {
  const request = withValue(withValue({}, rows.field, row.value), columns.field, column.value);
  return `/new?${new URLSearchParams(toParameters(request))}`;
}
