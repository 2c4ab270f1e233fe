/* Curves from rows of metrics. */

import { duration, isFraction, metricName, metricValue, significant, whole } from "./format.js";
import { choice } from "./parts.js";
import { url } from "./url.js";
import { h } from "./view.js";
import { metricOf } from "./vocabulary.js";

const X_AXES = [
  ["step", "Step"],
  ["epoch", "Epoch"],
  ["time", "Time"],
];

/** Maximum number of points of a smoothed curve, which has no spikes that thinning could hide. */
const DRAWN = 2000;

/** The display options of curves, from the address. */
export function drawing() {
  const smooth = Number(url.get("smooth", "0"));
  const chosen = url.get("x", "epoch");
  return {
    x: X_AXES.some(([name]) => name === chosen) ? chosen : "epoch",
    smooth: smooth > 0 && smooth < 1 ? smooth : 0,
    logX: url.get("logx") === "1",
    logY: url.get("logy") === "1",
  };
}

/** The controls of the display options. */
export function drawingControls() {
  const { x, smooth, logX, logY } = drawing();
  const check = (text, name, on) =>
    h(
      "label",
      { class: "inline" },
      h("input", {
        type: "checkbox",
        checked: on,
        onchange: () => url.change({ [name]: on ? null : "1" }, { replace: true }),
      }),
      text,
    );
  return h(
    "div",
    { class: "chart-controls", key: "controls" },
    choice("Horizontal axis", X_AXES, x, (value) => url.change({ x: value === "epoch" ? null : value })),
    h(
      "label",
      { class: "range" },
      "Smoothing",
      h("input", {
        type: "range",
        min: "0",
        max: "0.99",
        step: "0.01",
        value: String(smooth),
        oninput: (event) => url.change({ smooth: Number(event.target.value) || null }, { replace: true }),
      }),
      h("span", { class: "number" }, smooth.toFixed(2)),
    ),
    check("Log x", "logx", logX),
    check("Log y", "logy", logY),
  );
}

/** Bias-corrected exponential moving average, as in Adam (Kingma & Ba 2014). Nulls stay null. */
export function smoothed(values, weight) {
  let sum = 0;
  let mass = 0;
  return values.map((value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

/** The points of one metric of a job. `rows` are ordered by step. */
export function points(rows, metric, job, { x, smooth }) {
  const factor = isFraction(metric) ? 100 : 1;
  const { total_steps: total, epochs } = job.progress ?? {};
  const perEpoch = total && epochs ? total / epochs : null;
  const start = new Date(job.started_at ?? rows[0]?.time).getTime();
  const having = rows.filter((row) => metric in row);
  const values = having.map((row) => (row[metric] === null ? null : row[metric] * factor));
  const smooths = smooth ? smoothed(values, smooth) : values;
  const step = smooth ? Math.ceil(having.length / DRAWN) : 1;
  const points = having.map((row, n) => ({
    x:
      x === "step"
        ? row.step
        : x === "time"
          ? (new Date(row.time).getTime() - start) / 1000
          : perEpoch
            ? row.step / perEpoch
            : row.epoch,
    y: smooths[n],
    ...(smooth ? { raw: values[n] } : {}),
  }));
  return step > 1 ? points.filter((_, n) => n % step === 0 || n === points.length - 1) : points;
}

/** The axes of a chart of a metric. */
export function axesOf(metric, { x, logX, logY }) {
  const format = (value) =>
    value === null ? "not finite" : metricValue(metric, isFraction(metric) ? value / 100 : value);
  const words = { step: "optimizer step", epoch: "epoch", time: "seconds since the start" };
  const formatX = { step: whole, epoch: (value) => significant(value, 5), time: duration };
  return {
    x: words[x],
    y: metricName(metric, { unit: true }),
    logX,
    logY,
    fromZero: Boolean(metricOf(metric).from_zero),
    formatX: formatX[x],
    formatY: format,
  };
}

/** Insert a row into rows ordered by step. It replaces a row of the same step and kind. */
export function withRow(rows, row) {
  const next = rows.filter((one) => one.kind !== row.kind || one.step !== row.step);
  const at = next.findLastIndex((one) => one.step <= row.step);
  next.splice(at + 1, 0, row);
  return next;
}
