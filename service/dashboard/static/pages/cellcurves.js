/* Learning curves by cell: the mean over its seeds, and a band from the least to the greatest of them. */

import { get } from "../api.js";
import { chart } from "../chart.js";
import { axesOf, drawing, points, withRow } from "../curves.js";
import { metricName } from "../format.js";
import { h } from "../view.js";
import { cellKey } from "./heatmap.js";

const MOST_JOBS = 60;
const AT_ONCE = 4;
const POINTS = 200;

export class CellCurves {
  constructor(shell) {
    Object.assign(this, { shell, jobs: new Map(), cells: [], left: 0, stamp: 0, axes: [[], []] });
    this.stopping = new AbortController();
  }

  /** Read what is not read yet of the jobs of `cells`, four at once, and not more jobs than a page can draw. A row has
   * a colour, a column a dash. */
  async load(cells, { rows, columns }) {
    this.axes = [rows, columns].map(({ values }) => values.map(({ label }) => label));
    const drawn = [];
    let room = MOST_JOBS;
    for (const cell of cells) {
      if (cell.jobs.length > room) break;
      room -= cell.jobs.length;
      drawn.push(cell);
    }
    this.cells = drawn;
    this.left = cells.length - drawn.length;
    this.shell.refresh();
    const missing = drawn.flatMap((cell) => cell.jobs).filter((id) => !this.jobs.has(id));
    missing.forEach((id) => this.jobs.set(id, null));
    const next = async () => {
      for (let id = missing.shift(); id; id = missing.shift()) {
        try {
          const { signal } = this.stopping;
          const [job, rows] = await Promise.all([
            get(`/v1/jobs/${id}`, {}, { signal }),
            get(`/v1/jobs/${id}/metrics`, { max_points: POINTS }, { signal }),
          ]);
          this.jobs.set(id, { job, rows: rows.data });
          this.stamp++;
          this.shell.refresh();
        } catch {
          this.jobs.delete(id);
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, next));
  }

  /** An event of one of the jobs. */
  take({ type, data }) {
    const entry = this.jobs.get(data.job);
    if (!entry) return;
    if (type === "progress") entry.job = { ...entry.job, progress: { ...entry.job.progress, ...data } };
    if (type === "metrics") entry.rows = withRow(entry.rows, data);
    if (type === "started") entry.rows = entry.rows.filter((row) => row.step <= data.resumed_from_step);
    // What is not drawn draws nothing anew.
    if (type === "started" || (type === "metrics" && this.metric in data)) this.stamp++;
  }

  view(metric, chosen) {
    this.metric = metric;
    const how = drawing();
    const series = this.cells.map((cell) => ({
      id: cellKey(cell),
      name: `${cell.row} at ${cell.column}`,
      colour: this.axes[0].indexOf(cell.row),
      dash: this.axes[1].indexOf(cell.column),
      points: banded(
        cell.jobs
          .map((id) => this.jobs.get(id))
          .filter(Boolean)
          .map(({ job, rows }) => points(rows, metric, job, how)),
      ),
      stamp: `${this.stamp} ${metric} ${JSON.stringify(how)}`,
    }));
    const note = this.left
      ? `the first ${this.cells.length} cells; choose cells above to see others`
      : chosen
        ? "of the chosen cells"
        : "mean and range over the seeds";
    return h(
      "div",
      { key: "cell curves" },
      chart({
        key: "cells",
        title: `Learning curves, ${metricName(metric)}`,
        note,
        series,
        axes: axesOf(metric, how),
        height: 380,
      }),
    );
  }

  close() {
    this.stopping.abort();
  }
}

/** Several curves as one: at each x that all have reached, or the longest alone, the mean, the least and the greatest. */
export function banded(curves) {
  const byX = new Map();
  for (const curve of curves) for (const { x, y } of curve) if (y !== null) byX.set(x, [...(byX.get(x) ?? []), y]);
  return [...byX]
    .sort(([a], [b]) => a - b)
    .map(([x, values]) => ({
      x,
      y: values.reduce((a, b) => a + b, 0) / values.length,
      ...(values.length > 1 ? { low: Math.min(...values), high: Math.max(...values) } : {}),
    }));
}
