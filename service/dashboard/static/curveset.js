/* The curves of one metric of many jobs: read in one request, thinned by the service, then followed live. */

import { get } from "./api.js";
import { isFraction } from "./format.js";
import { Resource } from "./resource.js";

const EMPTY = [];

export class CurveSet {
  #points = new Map();

  constructor(shell) {
    Object.assign(this, { curves: new Map(), metric: null, smoothing: 0, most: Infinity });
    this.resource = new Resource(shell.refresh);
  }

  /** Read the curves of jobs, unless they are loaded. */
  load(ids, metric, smoothing) {
    if (!ids.length) return Promise.resolve();
    return this.resource.load(JSON.stringify([ids, metric, smoothing]), async (signal) => {
      const query = { job: ids, metric, smoothing: smoothing || null };
      const answer = await get("/v1/curves", query, { signal });
      Object.assign(this, { metric, smoothing, most: 3 * answer.max_points });
      this.curves = new Map(answer.data.map((curve) => [curve.job, withMemory(curve, smoothing)]));
      this.#points.clear();
      return answer;
    });
  }

  /** Apply an event of one of the jobs. */
  take({ type, data }) {
    const curve = this.curves.get(data.job);
    if (!curve) return;
    if (type === "started") {
      curve.started_at ??= data.time;
      // A row that a later attempt reports again is replaced, also in the moving average.
      if (curve.step.at(-1) > data.resumed_from_step) this.resource.reload();
    } else if (type === "metrics" && this.metric in data && data.step > (curve.step.at(-1) ?? -1)) {
      append(curve, data, this.metric, this.smoothing);
      this.#points.delete(data.job);
      if (curve.step.length > this.most) this.resource.reload();
    }
  }

  /** The points `{x, y, raw?}` of the curve of a job; the same array until the curve changes. */
  points(id, { x }) {
    const known = this.#points.get(id);
    if (known?.x === x) return known.points;
    const curve = this.curves.get(id);
    const points = curve ? pointsOf(curve, isFraction(this.metric) ? 100 : 1, x) : EMPTY;
    this.#points.set(id, { x, points });
    return points;
  }

  close() {
    this.resource.close();
  }
}

/** A curve with the state of its moving average, to be continued (see `smoothed` and `count` of the API). */
function withMemory(curve, weight) {
  const last = curve.smoothed?.findLast((value) => value !== null) ?? 0;
  const mass = 1 - weight ** curve.count;
  return { ...curve, mass, sum: last * mass };
}

function append(curve, row, metric, weight) {
  const value = row[metric];
  curve.step.push(row.step);
  curve.epoch.push(row.epoch);
  curve.time.push(row.time);
  curve.value.push(value);
  if (!curve.smoothed) return;
  if (value !== null) {
    curve.sum = weight * curve.sum + (1 - weight) * value;
    curve.mass = weight * curve.mass + (1 - weight);
  }
  curve.smoothed.push(value === null ? null : curve.sum / curve.mass);
}

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

/** The mean, minimum and maximum of several curves at every x of any of them, by linear interpolation. */
export function banded(curves) {
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
    return { x, y, ...(values.length > 1 ? { low: Math.min(...values), high: Math.max(...values) } : {}) };
  });
}
