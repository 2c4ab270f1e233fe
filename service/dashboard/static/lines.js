/* Many curves on one canvas: it draws some hundred within a frame, which plotly.js cannot.

The curves are on one canvas; the highlighted curve and its name are on a second one above it. */

import { isolated } from "./format.js";
import { link, unlink } from "./linked.js";
import { throttled } from "./resource.js";
import { colourOf, dashOf, idOf, resolved } from "./series.js";
import { onTheme } from "./themes.js";

const REDRAW_MS = 250;
const MARGIN = { left: 56, right: 14, top: 10, bottom: 42 };
const NEAR_PX = 24;

/** The hook of a view that draws `series` within `axes`. */
export const LINES = {
  mount(element, hook) {
    element.drawn = hook;
    element.layers = [document.createElement("canvas"), document.createElement("canvas")];
    element.tip = document.createElement("div");
    element.tip.className = "tip";
    element.tip.hidden = true;
    element.append(...element.layers, element.tip);
    element.redraw = throttled(() => draw(element), REDRAW_MS);
    element.watch = new ResizeObserver(() => element.redraw());
    element.watch.observe(element);
    element.sight = new IntersectionObserver(
      ([entry]) => ((element.seen = entry.isIntersecting), element.seen && element.redraw()),
    );
    element.sight.observe(element);
    element.offTheme = onTheme(() => element.redraw());
    link(element, { drags: true });
    element.onpointermove = (event) => point(element, event);
    element.onpointerleave = () => highlightLine(element, null);
    element.highlight = (id) =>
      highlightLine(element, id === null ? null : { one: element.drawn.series.filter((one) => idOf(one) === id) });
  },
  update(element, hook) {
    const before = element.drawn;
    element.drawn = hook;
    if (element.seen && changed(before, hook)) element.redraw();
  },
  unmount(element) {
    unlink(element);
    element.redraw.cancel();
    element.watch.disconnect();
    element.sight.disconnect();
    element.offTheme();
  },
  owns: true,
};

const changed = (a, b) =>
  a.series.length !== b.series.length ||
  a.axes.logX !== b.axes.logX ||
  a.axes.logY !== b.axes.logY ||
  a.axes.x !== b.axes.x ||
  String(a.axes.zoom) !== String(b.axes.zoom) ||
  a.series.some((one, n) => ["points", "colour", "dash"].some((part) => one[part] !== b.series[n][part]));

/** The range of the axes: that of all points, or of those in the zoom, with a margin. */
export function extent(series, { logX, logY, fromZero, zoom = null }) {
  const found = { x: [Infinity, -Infinity], y: [Infinity, -Infinity] };
  for (const { points } of series)
    for (const { x, y, raw, low, high } of zoom ? cut(points, zoom) : points) {
      if (y === null || (logX && x <= 0)) continue;
      if (x < found.x[0]) found.x[0] = x;
      if (x > found.x[1]) found.x[1] = x;
      for (const value of [y, raw ?? y, low ?? y, high ?? y]) {
        if (logY && value <= 0) continue;
        if (value < found.y[0]) found.y[0] = value;
        if (value > found.y[1]) found.y[1] = value;
      }
    }
  if (found.x[0] > found.x[1]) return { x: zoom ?? [logX ? 1 : 0, logX ? 10 : 1], y: [logY ? 1 : 0, logY ? 10 : 1] };
  if (fromZero && !logY) found.y[0] = Math.min(0, found.y[0]);
  return { x: zoom ?? widened(found.x, logX, 0), y: widened(found.y, logY, 0.04) };
}

/** The points in a range of x, and where the line between two points enters and leaves it. */
function cut(points, range) {
  const crossed = points.flatMap((point, n) => {
    const next = points[n + 1];
    if (!next || point.y === null || next.y === null) return [];
    return range
      .filter((x) => point.x < x && x < next.x)
      .map((x) => ({ x, y: point.y + ((next.y - point.y) * (x - point.x)) / (next.x - point.x) }));
  });
  return [...points.filter(({ x }) => x >= range[0] && x <= range[1]), ...crossed];
}

function widened([low, high], log, share) {
  if (low === high)
    return log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  if (log) return [low / (high / low) ** share, high * (high / low) ** share];
  const more = (high - low) * share;
  return [low === 0 ? 0 : low - more, high + more];
}

/** About `count` round numbers within an axis: 1, 2 or 5 times a power of ten. */
export function ticks([low, high], log, count) {
  if (log && high / low >= 10) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    const step = Math.max(1, Math.ceil((last - first + 1) / count));
    const powers = Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, n) => 10 ** (first + n * step));
    if (powers.length > 2) return powers;
    return powers
      .concat(10 ** (first - 1))
      .flatMap((power) => [power, 2 * power, 5 * power])
      .filter((value) => value >= low && value <= high)
      .sort((a, b) => a - b);
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let n = first; n * step <= high + step * 1e-9; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function draw(element) {
  const { series, axes } = element.drawn;
  const width = element.clientWidth;
  const height = element.clientHeight;
  if (!width || !height) return;
  const ratio = devicePixelRatio || 1;
  for (const layer of element.layers) {
    if (layer.width !== Math.round(width * ratio) || layer.height !== Math.round(height * ratio)) {
      layer.width = Math.round(width * ratio);
      layer.height = Math.round(height * ratio);
    }
  }
  const range = extent(series, axes);
  const place = placing(range, axes, width, height);
  element.place = place;
  element.scale = { toPixels: place.x, toValue: place.at, left: MARGIN.left, right: width - MARGIN.right };
  const pen = element.layers[0].getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  frame(pen, element, { range, axes, place, width, height });
  const colours = new Map();
  clip(pen, element);
  for (const one of series) {
    const name = colourOf(one);
    if (!colours.has(name)) colours.set(name, resolved(element, name));
    pen.strokeStyle = colours.get(name);
    pen.lineWidth = series.length > 60 ? 1 : 1.5;
    line(pen, one, place);
  }
  pen.restore();
  if (element.pointed) highlightLine(element, element.pointed);
}

/** Draw within the axes only, until the pen is restored: a zoom cuts curves off. */
function clip(pen, element) {
  pen.save();
  pen.beginPath();
  pen.rect(MARGIN.left, 0, element.clientWidth - MARGIN.left - MARGIN.right, element.clientHeight - MARGIN.bottom);
  pen.clip();
}

/** The scale from values to pixels, and for x back. */
function placing({ x, y }, { logX, logY }, width, height) {
  const scale = ([low, high], log, from, to) => {
    const [a, b] = log ? [Math.log(low), Math.log(high)] : [low, high];
    const factor = (to - from) / (b - a);
    return log ? (value) => from + (Math.log(value) - a) * factor : (value) => from + (value - a) * factor;
  };
  const across = scale(x, logX, MARGIN.left, width - MARGIN.right);
  const up = scale(y, logY, height - MARGIN.bottom, MARGIN.top);
  return {
    x: across,
    y: up,
    at: (pixels) => {
      const share = (pixels - MARGIN.left) / (width - MARGIN.right - MARGIN.left);
      return logX ? x[0] * (x[1] / x[0]) ** share : x[0] + (x[1] - x[0]) * share;
    },
    shown: (at, value) => value !== null && !(logX && at <= 0) && !(logY && value <= 0),
  };
}

function line(pen, one, place) {
  const { points } = one;
  const width = pen.lineWidth;
  if (points.some((point) => point.low !== undefined)) band(pen, points, place);
  if (points[0]?.raw !== undefined) {
    pen.globalAlpha = 0.28;
    pen.lineWidth = 1;
    path(pen, points, "raw", place);
    pen.globalAlpha = 1;
  }
  pen.lineWidth = width;
  pen.setLineDash(dashOf(one));
  path(pen, points, "y", place);
  pen.setLineDash([]);
}

function path(pen, points, part, place) {
  pen.beginPath();
  let broken = true;
  for (const point of points) {
    if (!place.shown(point.x, point[part])) {
      broken = true;
      continue;
    }
    const x = place.x(point.x);
    const y = place.y(point[part]);
    if (broken) pen.moveTo(x, y);
    else pen.lineTo(x, y);
    broken = false;
  }
  pen.stroke();
}

function band(pen, points, place) {
  const within = points.filter(({ x, low, high }) => place.shown(x, low ?? null) && place.shown(x, high));
  pen.globalAlpha = 0.14;
  pen.fillStyle = pen.strokeStyle;
  pen.beginPath();
  for (const { x, high } of within) pen.lineTo(place.x(x), place.y(high));
  for (const { x, low } of within.toReversed()) pen.lineTo(place.x(x), place.y(low));
  pen.fill();
  pen.globalAlpha = 1;
}

function frame(pen, element, { range, axes, place, width, height }) {
  const grid = resolved(element, "line");
  const text = resolved(element, "muted");
  pen.font = `11px ${getComputedStyle(element).fontFamily}`;
  pen.lineWidth = 1;
  pen.strokeStyle = grid;
  pen.fillStyle = text;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const value of ticks(range.y, axes.logY, Math.max(2, Math.floor(height / 45)))) {
    const y = Math.round(place.y(value)) + 0.5;
    pen.beginPath();
    pen.moveTo(MARGIN.left, y);
    pen.lineTo(width - MARGIN.right, y);
    pen.stroke();
    pen.fillText(String(value), MARGIN.left - 8, y);
  }
  pen.textAlign = "center";
  pen.textBaseline = "top";
  for (const value of ticks(range.x, axes.logX, Math.max(2, Math.floor(width / 110))))
    pen.fillText(String(value), place.x(value), height - MARGIN.bottom + 8);
  pen.font = `12px ${getComputedStyle(element).fontFamily}`;
  pen.fillText(axes.x, (MARGIN.left + width - MARGIN.right) / 2, height - 16);
  pen.save();
  pen.translate(10, (MARGIN.top + height - MARGIN.bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.textBaseline = "middle";
  pen.fillText(axes.y, 0, 0);
  pen.restore();
}

function point(element, event) {
  if (!element.place) return;
  const box = element.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const { zoom } = element.drawn.axes;
  let nearest = null;
  let least = NEAR_PX ** 2;
  for (const one of element.drawn.series)
    for (const candidate of one.points) {
      if (!element.place.shown(candidate.x, candidate.y)) continue;
      if (zoom && (candidate.x < zoom[0] || candidate.x > zoom[1])) continue;
      const distance = (element.place.x(candidate.x) - x) ** 2 + (element.place.y(candidate.y) - y) ** 2;
      if (distance < least) {
        least = distance;
        nearest = { one: [one], at: candidate };
      }
    }
  highlightLine(element, nearest);
}

/** Draw the highlighted curves over the others, which are dimmed, with the label of a point. */
function highlightLine(element, pointed) {
  if (pointed === null && !element.pointed) return;
  element.pointed = pointed;
  const [base, over] = element.layers;
  const pen = over.getContext("2d");
  const ratio = devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, element.clientWidth, element.clientHeight);
  base.classList.toggle("behind", pointed !== null);
  element.tip.hidden = !pointed?.at;
  if (!pointed || !element.place) return;
  clip(pen, element);
  for (const one of pointed.one) {
    pen.strokeStyle = resolved(element, colourOf(one));
    pen.lineWidth = 2.5;
    line(pen, one, element.place);
  }
  pen.restore();
  if (!pointed.at) return;
  const { axes } = element.drawn;
  const [x, y] = [element.place.x(pointed.at.x), element.place.y(pointed.at.y)];
  pen.fillStyle = resolved(element, colourOf(pointed.one[0]));
  pen.beginPath();
  pen.arc(x, y, 4, 0, 2 * Math.PI);
  pen.fill();
  const raw = pointed.at.raw === undefined ? "" : ` (raw ${axes.formatY(pointed.at.raw)})`;
  element.tip.textContent = `${isolated(pointed.one[0].detail ?? pointed.one[0].name)}: ${axes.formatY(pointed.at.y)}${raw} at ${axes.formatX(pointed.at.x)}`;
  element.tip.style.setProperty("--x", `${Math.min(x + 12, element.clientWidth - element.tip.offsetWidth - 4)}px`);
  element.tip.style.setProperty("--y", `${Math.max(4, y - 34)}px`);
}
