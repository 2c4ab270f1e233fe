/* A chart: its title, its legend, and a drawing, or the same numbers as a table. */

import { figureExport } from "./exports.js";
import { whole } from "./format.js";
import { LINES } from "./lines.js";
import { zoomOf, zoomTo } from "./linked.js";
import { button } from "./parts.js";
import { PLOT } from "./plot.js";
import { idOf, swatch } from "./series.js";
import { url } from "./url.js";
import { h } from "./view.js";

const TABLE_ROWS = 500;
/** The number of series that plotly.js draws fast enough for live updates; more are drawn on a canvas. */
const PLOTTED = 12;

/** A chart with its title, its legend and a switch to its table. `axes` are `{ x, y, logX, logY, categories, formatX,
 * formatY }`; `exported` is the figure that the service draws of it, as `figureExport` takes it; `brush` is what is
 * done with its points, `{ picked, pick(id), pointAt(id) }`; `reading`, whether its values are still read. */
export function chart({
  key,
  title,
  series,
  axes,
  height = 320,
  note = null,
  extra = null,
  exported = null,
  brush = null,
  reading = false,
}) {
  const asTable = url.list("tables").includes(key);
  const hidden = url.all("hidden");
  const without = (all, value) => (all.includes(value) ? all.filter((one) => one !== value) : [...all, value]);
  const toggle = (value) => url.change({ hidden: without(hidden, value) }, { replace: true });
  const toggleTable = () => url.change({ tables: without(url.list("tables"), key).join() }, { replace: true });
  const full = series.filter((one) => one.points.length);
  const shown = full.filter((one) => !hidden.includes(idOf(one)));
  const drawing = full.length > PLOTTED && !axes.categories ? LINES : PLOT;
  const zoom = zoomOf(axes);
  const named = [...new Map(series.map((one) => [idOf(one), one])).values()];
  const label = `${title}: ${axes.y} by ${axes.x}. ${full
    .map((one) => `${one.name} ends at ${axes.formatY(one.points.at(-1).y)}`)
    .slice(0, 12)
    .join("; ")}`;
  return h(
    "section",
    { class: "card", key: `chart ${key}`, "aria-busy": String(reading && !full.length) },
    h(
      "header",
      {},
      h("h2", {}, title),
      note && h("small", {}, note),
      h(
        "div",
        { class: "actions" },
        extra,
        zoom && button("Reset zoom", () => zoomTo(axes, null), { kind: "quiet" }),
        exported && shown.length > 0 && figureExport(exported),
        button(asTable ? "Show as chart" : "Show as table", toggleTable, {
          kind: "quiet",
          "aria-pressed": String(asTable),
        }),
      ),
    ),
    h(
      "div",
      { class: "body chart", vars: { "--height": `${height}px` } },
      h(
        "div",
        { class: "legend", key: "legend" },
        named.map((one) =>
          h(
            "button",
            {
              type: "button",
              key: idOf(one),
              "aria-pressed": String(!hidden.includes(idOf(one))),
              title: "Show or hide",
              onclick: () => toggle(idOf(one)),
              ...pointing(key, idOf(one)),
            },
            swatch(one),
            one.name,
          ),
        ),
      ),
      !full.length
        ? h("div", { class: "waiting", key: "waiting" }, reading ? "Reading the values…" : "No values yet")
        : asTable
          ? table(shown, axes)
          : h("div", {
              class: "drawing",
              key: "drawing",
              // Not role=img, because plotly's buttons in it must stay reachable by keyboard.
              role: "figure",
              "aria-label": label,
              "data-chart": key,
              hook: { ...drawing, series: shown, axes: { ...axes, zoom }, brush },
            }),
    ),
  );
}

/** Event handlers that highlight the curve of a series while its entry is hovered or focused. */
export function pointing(key, id) {
  const tell = (shown) => () => document.querySelector(`[data-chart="${key}"]`)?.highlight?.(shown);
  return { onpointerenter: tell(id), onfocus: tell(id), onpointerleave: tell(null), onblur: tell(null) };
}

function table(series, axes) {
  const byX = new Map();
  series.forEach((one, n) => one.points.forEach((point) => byX.set(point.x, { ...byX.get(point.x), [n]: point })));
  const rows = [...byX].sort(([a], [b]) => (typeof a === "number" ? a - b : 0));
  const step = Math.max(1, Math.ceil(rows.length / TABLE_ROWS));
  const shown = rows.filter((_, n) => n % step === 0 || n === rows.length - 1);
  const value = (point) =>
    point?.y === undefined || point.y === null
      ? "–"
      : axes.formatY(point.y) +
        (point.low === undefined ? "" : ` (${axes.formatY(point.low)} to ${axes.formatY(point.high)})`);
  return h(
    "div",
    { class: "as-table", key: "table", tabindex: "0", role: "region", "aria-label": `${axes.y} by ${axes.x}` },
    step > 1 && h("p", { class: "muted" }, `${whole(shown.length)} of ${whole(rows.length)} rows are shown.`),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { class: "number", scope: "col" }, axes.x),
          series.map((one, n) => h("th", { class: "number", scope: "col", key: n }, one.detail ?? one.name)),
        ),
      ),
      h(
        "tbody",
        {},
        shown.map(([x, points]) =>
          h(
            "tr",
            { key: x },
            h("th", { class: "number", scope: "row" }, axes.formatX(x)),
            series.map((_, n) => h("td", { class: "number", key: n }, value(points[n]))),
          ),
        ),
      ),
    ),
  );
}
