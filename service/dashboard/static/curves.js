/* How curves are drawn: the controls, the axes, and the points of rows. */

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

/** The query of a figure of curves that are drawn as `how` says. */
export const figureQuery = ({ x, smooth, logX, logY }) => ({
  x,
  smoothing: smooth || null,
  log_x: logX || null,
  log_y: logY || null,
});

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

/** The points of one metric of a job by epoch. `rows` are in the order of their steps. */
export function points(rows, metric, job) {
  const factor = isFraction(metric) ? 100 : 1;
  const { total_steps: total, epochs } = job.progress ?? {};
  const perEpoch = total && epochs ? total / epochs : null;
  return rows
    .filter((row) => metric in row)
    .map((row) => ({
      x: perEpoch ? row.step / perEpoch : row.epoch,
      y: row[metric] === null ? null : row[metric] * factor,
    }));
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
