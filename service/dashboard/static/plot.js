/* A chart drawn by plotly.js, which is loaded with the first chart. */

import { isolated } from "./format.js";
import { link, unlink, zoomTo } from "./linked.js";
import { throttled } from "./resource.js";
import { colourOf, dashOf, idOf, resolved, symbolOf } from "./series.js";
import { onTheme } from "./themes.js";

const REDRAW_MS = 500;
const AGAIN_MS = 3000;

// The upload button is removed by name, so that no default of another release brings it back.
const CONFIG = {
  displaylogo: false,
  responsive: true,
  showSendToCloud: false,
  plotlyServerURL: "",
  displayModeBar: "hover",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud", "toImage", "resetScale2d"],
  doubleClick: "autosize",
  // It covers the buttons of the page; a chart that is zoomed has one to reset it.
  showTips: false,
};

let loading = null;

/** Load plotly.js once. */
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

/** The hook of a view that draws `series` within `axes`. */
export const PLOT = {
  mount(element, hook) {
    element.drawn = hook;
    element.redraw = throttled(() => draw(element), REDRAW_MS);
    // A chart outside of the viewport is not drawn, because each costs a frame.
    element.watch = new IntersectionObserver(
      ([entry]) => ((element.seen = entry.isIntersecting), element.seen && element.redraw()),
      { rootMargin: "200px" },
    );
    element.watch.observe(element);
    element.offTheme = onTheme(() => element.redraw());
    element.highlight = (id) => highlight(element, id);
    element.pointAt = (id) => mark(element, "pointed", (one) => one === id);
    link(element);
  },
  update(element, hook) {
    if (same(element.drawn, hook)) {
      element.drawn.brush = hook.brush;
      showPicked(element);
      return;
    }
    // plotly.js keeps a zoom of its own until this number changes.
    if (element.drawn.axes.zoom && !hook.axes.zoom) element.resets = (element.resets ?? 0) + 1;
    element.drawn = hook;
    if (element.seen) element.redraw();
  },
  unmount(element) {
    unlink(element);
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
      (one.stamp !== undefined ? one.points.length === b.series[n].points.length : one.points === b.series[n].points),
  );

async function draw(element) {
  try {
    if (!window.Plotly) waiting(element, "Loading the chart…");
    const Plotly = await plotly();
    if (!element.isConnected) return;
    waiting(element, null);
    const first = !element.data;
    await Plotly.react(element, traces(element), layout(element), CONFIG);
    element.scale = scaleOf(element);
    showPicked(element);
    if (!first) return;
    // Also after a zoom, or another width of the window.
    element.on("plotly_afterplot", () => ((element.scale = scaleOf(element)), showPicked(element)));
    element.on("plotly_relayout", (change) => zoomed(element, change));
    element.on("plotly_hover", ({ points: [{ data, pointNumber }] }) => {
      const { series, brush } = element.drawn;
      const one = series[Number.parseInt(data.uid)];
      if (brush) brush.pointAt(one.points[pointNumber].id);
      else highlight(element, idOf(one));
    });
    element.on("plotly_unhover", () =>
      element.drawn.brush ? element.drawn.brush.pointAt(null) : highlight(element, null),
    );
    element.on("plotly_click", ({ points: [{ data, pointNumber }] }) =>
      element.drawn.brush?.pick(element.drawn.series[Number.parseInt(data.uid)].points[pointNumber].id),
    );
  } catch (error) {
    if (!window.Plotly) return again(element);
    element.textContent = `The chart cannot be drawn: ${error.message}. The table has the same numbers.`;
  }
}

/** The scale from values to pixels and back, as linked charts need it. */
function scaleOf(element) {
  const outer = element.getBoundingClientRect();
  const inner = element.querySelector(".nsewdrag").getBoundingClientRect();
  const { range, type } = element.layout.xaxis;
  const [left, right] = [inner.left - outer.left, inner.right - outer.left];
  const factor = (right - left) / (range[1] - range[0]);
  const log = type === "log";
  return {
    left,
    right,
    toPixels: (x) => left + ((log ? Math.log10(x) : x) - range[0]) * factor,
    toValue: (pixels) => {
      const x = range[0] + (pixels - left) / factor;
      return log ? 10 ** x : x;
    },
  };
}

/** Zoom the linked charts as this one was zoomed, by a drag or by the buttons of plotly.js. */
function zoomed(element, change) {
  const { axes } = element.drawn;
  if (change["xaxis.autorange"]) return zoomTo(axes, null);
  const range = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
  if (range.includes(undefined)) return;
  zoomTo(
    axes,
    range.map((x) => (axes.logX ? 10 ** x : x)),
  );
}

/** Say what a chart waits for, in place of its curves; null: nothing. */
function waiting(element, text) {
  element.ariaBusy = text ? "true" : null;
  if (text) element.dataset.waiting = text;
  else delete element.dataset.waiting;
}

/** Draw a chart later, because plotly.js could not be fetched. */
function again(element) {
  waiting(element, "The chart cannot be loaded now. It is tried again; the table has the same numbers.");
  setTimeout(() => element.isConnected && element.redraw(), AGAIN_MS);
}

/** Highlight the curves of one series, or of none for null. Only a class is set, so nothing is drawn again. */
function highlight(element, id) {
  const chosen = id === null ? null : element.drawn.series.findIndex((one) => idOf(one) === id);
  for (const group of element.querySelectorAll(".scatterlayer .trace"))
    group.classList.toggle("behind", chosen !== null && numberOf(group) !== chosen);
}

/** The number of the series of a group of plotly.js. */
const numberOf = (group) =>
  Number(/trace(\d+)[a-z]+$/.exec(group.getAttribute("class").replace(" behind", ""))?.[1] ?? Number.NaN);

/** Set a class of the points whose ids `chosen` accepts, and remove it from the others. */
function mark(element, name, chosen) {
  const { logX, logY } = element.drawn.axes;
  for (const group of element.querySelectorAll(".scatterlayer .trace")) {
    // A logarithmic axis has no place for the others.
    const drawn = (element.drawn.series[numberOf(group)]?.points ?? []).filter(
      ({ x, y }) => !(logX && x <= 0) && !(logY && y <= 0),
    );
    group.querySelectorAll(".points path").forEach((path, n) => path.classList.toggle(name, chosen(drawn[n]?.id)));
  }
}

/** Fade the points that are not picked, if some are. */
function showPicked(element) {
  const ids = element.drawn.brush?.picked;
  if (ids) mark(element, "behind", (id) => ids.length > 0 && !ids.includes(id));
}

/** Escape a text for plotly.js, which interprets some tags and entities. */
const harmless = (character) => ({ "<": "‹", ">": "›", "&": "＆" })[character] ?? character;

function traces(element) {
  const { series, axes } = element.drawn;
  // Values of the same category are drawn side by side, so that their error bars do not overlap.
  const place = (x, n) =>
    axes.categories.indexOf(x) + (n - (series.length - 1) / 2) * Math.min(0.08, 0.6 / series.length);
  return series.flatMap((one, n) => {
    const name = colourOf(one);
    const colour = resolved(element, name);
    const x = one.points.map((point) => (axes.categories ? place(point.x, n) : point.x));
    const of = (part) => one.points.map((point) => point[part] ?? null);
    const line = {
      color: colour,
      width: 2,
      dash:
        dashOf(one)
          .map((length) => `${length}px`)
          .join() || "solid",
    };
    const shared = { type: "scatter", x, hoverinfo: "skip", showlegend: false, mode: "lines", connectgaps: false };
    const found = [];
    if (one.points.some((point) => point.raw !== undefined))
      found.push({ ...shared, uid: `${n}raw`, y: of("raw"), line: { color: resolved(element, name, 0.28), width: 1 } });
    const spread = one.points.some((point) => point.low !== undefined);
    if (spread && !one.markers) {
      found.push({ ...shared, uid: `${n}low`, y: of("low"), line: { width: 0 } });
      found.push({
        ...shared,
        uid: `${n}high`,
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
      `${isolated(point.label ?? one.name)}: ${axes.formatY(point.y)}${point.raw === undefined ? "" : ` (raw ${axes.formatY(point.raw)})`}`.replace(
        /./gu,
        harmless,
      ),
    );
    found.push({
      ...shared,
      ...bars,
      uid: `${n}line`,
      y: axes.categoriesY ? one.points.map(({ y }) => axes.categoriesY.indexOf(y)) : of("y"),
      line,
      mode: one.scatter ? "markers" : one.markers || one.points.length === 1 ? "lines+markers" : "lines",
      marker: {
        size: 7,
        color: colour,
        symbol: symbolOf(one),
      },
      hoverinfo: "text",
      text,
    });
    return found;
  });
}

/** The ticks of an axis of names, each at its number. */
const ticksOf = (names) => ({
  tickvals: names.map((_, n) => n),
  ticktext: names.map((one) => one.replace(/./gu, harmless)),
});

function layout(element) {
  const { zoom, ...axes } = element.drawn.axes;
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
    uirevision: JSON.stringify([axes, element.resets ?? 0]),
    xaxis: {
      ...axis,
      ...(zoom ? { range: axes.logX ? zoom.map(Math.log10) : zoom } : { autorange: true }),
      uirevision: JSON.stringify([axes, zoom]),
      title: title(axes.x),
      type: axes.logX && !axes.categories ? "log" : "linear",
      showgrid: false,
      zeroline: false,
      ...(axes.categories ? ticksOf(axes.categories) : {}),
    },
    yaxis: {
      ...axis,
      title: title(axes.y),
      type: axes.logY ? "log" : "linear",
      rangemode: axes.fromZero ? "tozero" : "normal",
      exponentformat: "power",
      ...(axes.categoriesY ? ticksOf(axes.categoriesY) : {}),
    },
  };
}
