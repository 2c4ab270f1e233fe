/* Applies events of the stream to the jobs of a page. */

import { isActive, jobStatus, metricOf } from "./vocabulary.js";

/** The job after an event: a new object if something changed, else the same. */
export function advance(job, { type, data }) {
  if (data.job !== job.id) return job;
  if (type === "progress") {
    const { job: _, ...progress } = data;
    return { ...job, progress };
  }
  if (type === "status") {
    const ended = jobStatus(data.status).ended;
    const progress = job.progress && !isActive(data.status) ? { ...job.progress, eta_s: null } : job.progress;
    return {
      ...job,
      status: data.status,
      progress,
      updated_at: data.time,
      ...(ended ? { finished_at: data.time } : {}),
      ...(data.status === "starting" ? { started_at: job.started_at ?? data.time } : {}),
    };
  }
  if (type === "changed") {
    const { name, title = job.title, notes, labels, priority = job.priority } = data;
    return { ...job, name, title, notes, labels, priority };
  }
  if (type === "metrics" && data.kind !== "telemetry") return { ...job, summary: summarized(job.summary, data) };
  return job;
}

const NOT_METRICS = new Set(["id", "type", "time", "job", "attempt", "kind", "epoch", "step", "diverged"]);

/** The names of the metrics in a row or an event. */
export const metricsIn = (row) => Object.keys(row).filter((name) => !NOT_METRICS.has(name) && name !== "superseded");

function summarized(summary, row) {
  const next = { ...summary };
  for (const name of metricsIn(row)) {
    const value = row[name];
    if (value === null) continue;
    const before = next[name];
    const judge = row[metricOf(name).selected_by] ?? null;
    const better =
      judge !== null
        ? (before?.selected ?? null) === null || judge < before.selected
        : !before ||
          ((before.selected ?? null) === null &&
            (metricOf(name).better === "higher" ? value > before.best : value < before.best));
    next[name] = {
      ...(better
        ? { best: value, best_step: row.step, selected: judge }
        : { best: before.best, best_step: before.best_step, selected: before.selected }),
      last: value,
      last_step: row.step,
    };
  }
  return next;
}
