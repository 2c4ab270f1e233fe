/* Curves of metrics of jobs: read in one request, downsampled and smoothed by the service, then followed by events. */

import { get } from "./api.js";
import { isFraction } from "./format.js";
import { Resource, throttled } from "./resource.js";
import { t975 } from "./student.js";

const EMPTY = [];
const REREAD_MS = 1000;

export class CurveSet {
  #points = new Map();
  #missed = [];

  constructor(shell) {
    Object.assign(this, { curves: new Map(), metrics: [], smoothing: 0, most: Infinity });
    this.resource = new Resource(shell.refresh);
    this.reread = throttled(() => this.resource.reload(), REREAD_MS);
  }

  /** Read the curves of `metrics`, one or several, of the jobs `ids`, unless these are shown already. */
  load(ids, metrics, smoothing) {
    const names = [metrics].flat();
    if (!ids.length || !names.length) return Promise.resolve();
    return this.resource.load(JSON.stringify([ids, names, smoothing]), async (signal) => {
      this.#missed = [];
      const query = { job: ids, metric: names, smoothing: smoothing || null };
      const answer = await get("/v1/curves", query, { signal });
      Object.assign(this, { metrics: names, smoothing, most: 3 * answer.max_points });
      this.curves = new Map(answer.data.map((curve) => [keyOf(curve.job, curve.metric), curve]));
      this.#points.clear();
      this.#missed.splice(0).forEach((data) => this.#append(data));
      return answer;
    });
  }

  /** Apply an event of one of the jobs. */
  take({ type, data }) {
    if (type === "started") {
      const curves = this.metrics.map((metric) => this.curves.get(keyOf(data.job, metric))).filter(Boolean);
      for (const curve of curves) curve.started_at ??= data.time;
      // An attempt that resumes reports again what a lost one had reported beyond the checkpoint.
      const superseded = curves.some((curve) => curve.step.at(-1) > data.resumed_from_step);
      if (superseded || this.resource.pending) this.resource.reload();
    } else if (type === "metrics") {
      // An answer that is on its way may be older than this event, and a failed request is repeated.
      if (this.resource.pending) this.#missed.push(data);
      if (this.resource.problem) this.reread();
      this.#append(data);
    }
  }

  #append(row) {
    for (const metric of this.metrics) {
      const curve = this.curves.get(keyOf(row.job, metric));
      if (!curve || !(metric in row) || row.step <= (curve.step.at(-1) ?? -1)) continue;
      // A moving average is of all values, and the service has those.
      if (this.smoothing) return this.reread();
      for (const column of ["step", "epoch", "time"]) curve[column].push(row[column]);
      curve.value.push(row[metric]);
      this.#points.delete(keyOf(row.job, metric));
      if (curve.step.length > this.most) this.reread();
    }
  }

  /** The points of a curve, `{x, y, raw?}`: the same array until the curve changes. */
  points(job, { x }, metric = this.metrics[0]) {
    const key = keyOf(job, metric);
    const known = this.#points.get(key);
    if (known?.x === x) return known.points;
    const curve = this.curves.get(key);
    const points = curve ? pointsOf(curve, isFraction(metric) ? 100 : 1, x) : EMPTY;
    this.#points.set(key, { x, points });
    return points;
  }

  close() {
    this.reread.cancel();
    this.resource.close();
  }
}

const keyOf = (job, metric) => `${job} ${metric}`;

function pointsOf(curve, factor, x) {
  const start = new Date(curve.started_at ?? curve.time[0]).getTime();
  const scaled = (value) => (value === null ? null : value * factor);
  const across = {
    step: (n) => curve.step[n],
    time: (n) => (new Date(curve.time[n]).getTime() - start) / 1000,
    epoch: (n) => (curve.steps_per_epoch ? curve.step[n] / curve.steps_per_epoch : curve.epoch[n]),
  }[x];
  return curve.step.map((_, n) =>
    curve.smoothed
      ? { x: across(n), y: scaled(curve.smoothed[n]), raw: scaled(curve.value[n]) }
      : { x: across(n), y: scaled(curve.value[n]) },
  );
}

/** The mean of several curves at every x of any of them, by linear interpolation, with their range or with the 95 %
 * interval of the mean. */
export function banded(curves, spread = "range") {
  const finite = curves.map((points) => points.filter(({ y }) => y !== null)).filter((points) => points.length);
  if (finite.length === 1) return finite[0].map(({ x, y }) => ({ x, y }));
  const all = [...new Set(finite.flatMap((points) => points.map(({ x }) => x)))].sort((a, b) => a - b);
  const at = finite.map(() => 0);
  return all.map((x) => {
    const values = finite.flatMap((points, n) => {
      while (at[n] < points.length - 1 && points[at[n] + 1].x <= x) at[n]++;
      const [before, after] = [points[at[n]], points[at[n] + 1]];
      if (before.x === x) return [before.y];
      if (before.x > x || !after) return [];
      return [before.y + ((after.y - before.y) * (x - before.x)) / (after.x - before.x)];
    });
    const y = values.reduce((a, b) => a + b, 0) / values.length;
    return { x, y, ...(values.length > 1 ? SPREADS[spread](values, y) : {}) };
  });
}

const SPREADS = {
  range: (values) => ({ low: Math.min(...values), high: Math.max(...values) }),
  interval: (values, mean) => {
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1);
    const reach = t975(values.length - 1) * Math.sqrt(variance / values.length);
    return { low: mean - reach, high: mean + reach };
  },
};
