/* Charts: a drawing by plotly.js, which is fetched with the first one, or the same numbers as a table.

A series is `{ name, points: [{x, y, raw?, low?, high?}], colour, dash, markers }`; where `raw` is given it is drawn
faintly behind, where `low` and `high` are, as a band or as bars. */

import { button } from "./parts.js";
import { throttled } from "./resource.js";
import { onTheme } from "./themes.js";
import { url } from "./url.js";
import { h } from "./view.js";

const REDRAW_MS = 500;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const COLOURS = 8;
const TABLE_ROWS = 500;

// The upload button is off by name too: a release that brings it back under another default does not bring it here.
const CONFIG = {
  displaylogo: false,
  responsive: true,
  showSendToCloud: false,
  plotlyServerURL: "",
  displayModeBar: "hover",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud"],
};

let loading = null;

/** Fetch plotly.js once. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.querySelector("meta[name=plotly]").content;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => ((loading = null), reject(new Error("plotly.js could not be fetched")));
    document.head.append(script);
  });
  return loading;
}

/** The colour and dash of a series, as variables of a style; by default dashes follow when the colours are used up. */
export const styleOf = (colour, dash = Math.floor(colour / COLOURS)) => ({
  "--series": `var(--series-${(colour % COLOURS) + 1})`,
  "--dash": ["solid", "dashed", "dotted", "double", "groove"][dash % DASHES.length],
});

/** A chart with its title, its legend and a switch to its table. `axes` are `{ x, y, logX, logY, categories, formatX,
 * formatY }`. */
export function chart({ key, title, series, axes, height = 320, note = null, extra = null }) {
  const asTable = url.list("tables").includes(key);
  const hidden = url.list("hidden");
  const toggle = (name, value) => {
    const chosen = url.list(name);
    url.change(
      { [name]: (chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value]).join(",") },
      { replace: true },
    );
  };
  const full = series.filter((one) => one.points.length);
  const shown = full.filter((one) => !hidden.includes(one.id ?? one.name));
  const label = `${title}: ${axes.y} by ${axes.x}. ${full
    .map((one) => `${one.name} ends at ${axes.formatY(one.points.at(-1).y)}`)
    .slice(0, 12)
    .join("; ")}`;
  return h(
    "section",
    { class: "card", key: `chart ${key}` },
    h(
      "header",
      {},
      h("h2", {}, title),
      note && h("small", {}, note),
      h(
        "div",
        { class: "actions" },
        extra,
        button(asTable ? "Show as chart" : "Show as table", () => toggle("tables", key), {
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
        series.map((one) =>
          h(
            "button",
            {
              type: "button",
              key: one.id ?? one.name,
              "aria-pressed": String(!hidden.includes(one.id ?? one.name)),
              title: "Show or hide",
              onclick: () => toggle("hidden", one.id ?? one.name),
            },
            h("span", { class: "swatch", vars: styleOf(one.colour, one.dash) }),
            one.name,
          ),
        ),
      ),
      !full.length
        ? h("div", { class: "waiting", key: "waiting" }, "No values yet")
        : asTable
          ? table(shown, axes)
          : h("div", {
              class: "drawing",
              key: "drawing",
              // Not an image: plotly's buttons in it are there for the keyboard too.
              role: "figure",
              "aria-label": label,
              hook: { ...DRAWING, series: shown, axes },
            }),
    ),
  );
}

function table(series, axes) {
  const byX = new Map();
  series.forEach((one, n) => one.points.forEach((point) => byX.set(point.x, { ...byX.get(point.x), [n]: point })));
  const rows = [...byX].sort(([a], [b]) => (typeof a === "number" ? a - b : 0));
  const step = Math.max(1, Math.ceil(rows.length / TABLE_ROWS));
  const value = (point) =>
    point?.y === undefined || point.y === null
      ? "–"
      : axes.formatY(point.y) +
        (point.low === undefined ? "" : ` (${axes.formatY(point.low)} to ${axes.formatY(point.high)})`);
  return h(
    "div",
    { class: "as-table", key: "table", tabindex: "0", role: "region", "aria-label": `${axes.y} by ${axes.x}` },
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
          series.map((one, n) => h("th", { class: "number", scope: "col", key: n }, one.name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows
          .filter((_, n) => n % step === 0 || n === rows.length - 1)
          .map(([x, points]) =>
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

const DRAWING = {
  mount(element, hook) {
    element.drawn = hook;
    element.redraw = throttled(() => draw(element), REDRAW_MS);
    // Charts that nobody sees are not drawn: each costs a frame.
    element.watch = new IntersectionObserver(
      ([entry]) => ((element.seen = entry.isIntersecting), element.seen && element.redraw()),
      { rootMargin: "200px" },
    );
    element.watch.observe(element);
    element.offTheme = onTheme(() => element.redraw());
  },
  update(element, hook) {
    if (same(element.drawn, hook)) return;
    element.drawn = hook;
    if (element.seen) element.redraw();
  },
  unmount(element) {
    element.redraw.cancel();
    element.watch.disconnect();
    element.offTheme();
    if (window.Plotly && element.data) window.Plotly.purge(element);
  },
  owns: true,
};

const same = (a, b) =>
  JSON.stringify(a.axes) === JSON.stringify(b.axes) &&
  a.series.length === b.series.length &&
  a.series.every(
    (one, n) =>
      one.id === b.series[n].id &&
      one.name === b.series[n].name &&
      one.stamp === b.series[n].stamp &&
      one.points.length === b.series[n].points.length,
  );

async function draw(element) {
  try {
    const Plotly = await plotly();
    if (element.isConnected) await Plotly.react(element, traces(element), layout(element), CONFIG);
  } catch (error) {
    element.textContent = `The chart cannot be drawn: ${error.message}. The table has the same numbers.`;
  }
}

/** plotly.js reads some tags and entities in texts, and makes links of them: names are to be names. */
const harmless = (character) => ({ "<": "‹", ">": "›", "&": "＆" })[character] ?? character;

/** The value of a colour of the style sheets, as plotly.js reads it. */
function resolved(element, name, opacity = 1) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  element.parentElement.append(probe);
  const rgb = getComputedStyle(probe).color;
  probe.remove();
  return opacity === 1 ? rgb : rgb.replace("rgb(", "rgba(").replace(")", `, ${opacity})`);
}

function traces(element) {
  const { series, axes } = element.drawn;
  // Values at the same category stand side by side, so that their bars do not cover one another.
  const place = (x, n) =>
    axes.categories.indexOf(x) + (n - (series.length - 1) / 2) * Math.min(0.08, 0.6 / series.length);
  return series.flatMap((one, n) => {
    const name = `series-${(one.colour % COLOURS) + 1}`;
    const colour = resolved(element, name);
    const x = one.points.map((point) => (axes.categories ? place(point.x, n) : point.x));
    const of = (part) => one.points.map((point) => point[part] ?? null);
    const line = {
      color: colour,
      width: 2,
      dash: DASHES[(one.dash ?? Math.floor(one.colour / COLOURS)) % DASHES.length],
    };
    const shared = { type: "scatter", x, hoverinfo: "skip", showlegend: false, mode: "lines", connectgaps: false };
    const found = [];
    if (one.points.some((point) => point.raw !== undefined))
      found.push({ ...shared, y: of("raw"), line: { color: resolved(element, name, 0.28), width: 1 } });
    const spread = one.points.some((point) => point.low !== undefined);
    if (spread && !one.markers) {
      found.push({ ...shared, y: of("low"), line: { width: 0 } });
      found.push({
        ...shared,
        y: of("high"),
        line: { width: 0 },
        fill: "tonexty",
        fillcolor: resolved(element, name, 0.16),
      });
    }
    const bars =
      spread && one.markers
        ? {
            error_y: {
              type: "data",
              symmetric: false,
              array: one.points.map((p) => (p.high ?? p.y) - p.y),
              arrayminus: one.points.map((p) => p.y - (p.low ?? p.y)),
              color: colour,
              thickness: 1.5,
              width: 4,
            },
          }
        : {};
    const text = one.points.map((point) =>
      `${one.name}: ${axes.formatY(point.y)}${point.raw === undefined ? "" : ` (raw ${axes.formatY(point.raw)})`}`.replace(
        /./gu,
        harmless,
      ),
    );
    found.push({
      ...shared,
      ...bars,
      y: of("y"),
      line,
      mode: one.markers || one.points.length === 1 ? "lines+markers" : "lines",
      marker: {
        size: 7,
        color: colour,
        symbol: ["circle", "square", "diamond", "triangle-up", "cross", "x"][one.colour % 6],
      },
      hoverinfo: "text",
      text,
    });
    return found;
  });
}

function layout(element) {
  const { axes } = element.drawn;
  const text = resolved(element, "muted");
  const grid = resolved(element, "line");
  const axis = {
    gridcolor: grid,
    linecolor: grid,
    zerolinecolor: grid,
    tickfont: { color: text, size: 11 },
    automargin: true,
  };
  const title = (words) => ({ text: words.replace(/./gu, harmless), font: { color: text, size: 12 }, standoff: 8 });
  return {
    margin: { l: 48, r: 12, t: 8, b: 40 },
    paper_bgcolor: "rgba(0, 0, 0, 0)",
    plot_bgcolor: "rgba(0, 0, 0, 0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: text },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: {
      bgcolor: resolved(element, "raised"),
      bordercolor: resolved(element, "line-strong"),
      font: { color: resolved(element, "text"), size: 12 },
    },
    modebar: { bgcolor: "rgba(0, 0, 0, 0)", color: text, activecolor: resolved(element, "accent") },
    uirevision: JSON.stringify(axes),
    xaxis: {
      ...axis,
      title: title(axes.x),
      type: axes.logX && !axes.categories ? "log" : "linear",
      showgrid: false,
      zeroline: false,
      ...(axes.categories
        ? {
            tickvals: axes.categories.map((_, n) => n),
            ticktext: axes.categories.map((one) => one.replace(/./gu, harmless)),
          }
        : {}),
    },
    yaxis: {
      ...axis,
      title: title(axes.y),
      type: axes.logY ? "log" : "linear",
      rangemode: axes.fromZero ? "tozero" : "normal",
      exponentformat: "power",
    },
  };
}
