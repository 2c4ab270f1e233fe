/* The columns of tables of jobs, and the metrics to choose from. */

import { ago, duration, metricName, metricValue, plain, whole, zoned } from "./format.js";
import { progressBar } from "./parts.js";
import { statusMark } from "./status.js";
import { h } from "./view.js";
import { bestNotes, outcomes } from "./vocabulary.js";

/** The metrics that some of these jobs have, those that jobs are judged by first. */
export function metricsOf(jobs) {
  const found = new Set(jobs.flatMap((job) => Object.keys(job.summary ?? {})));
  const known = outcomes();
  return [...known.filter((name) => found.has(name)), ...[...found].filter((name) => !known.includes(name)).sort()];
}

/** The fraction of a job that is done. */
export function share(job) {
  if (job.status === "succeeded") return 1;
  const { step, total_steps: total } = job.progress ?? {};
  return total ? Math.min(1, step / total) : 0;
}

function progressCell(job) {
  const { progress } = job;
  const words = !progress
    ? ""
    : job.status === "running" && progress.eta_s !== null
      ? `${duration(progress.eta_s)} left`
      : `${Math.round(100 * share(job))} %`;
  return h("div", { class: "progress" }, progressBar(share(job), `Progress of ${job.title}`), h("span", {}, words));
}

const metricCell =
  (part) =>
  (job, { metric }) => {
    const entry = job.summary?.[metric];
    return part.endsWith("_step") ? whole(entry?.[part]) : metricValue(metric, entry?.[part]);
  };

/** The labels of a job, each a link to the jobs that share it. */
export function labelTags(job) {
  return Object.entries(job.labels).map(([key, value]) =>
    h(
      "a",
      { class: "tag", key, href: `/jobs?${new URLSearchParams({ label: `${key}:${value}` })}` },
      `${key}: ${value}`,
    ),
  );
}

/** Who submitted a job or an experiment, a link to all that `path` lists of them; null without tokens. */
export function submitterLink({ submitted_by: name }, path) {
  return name === null ? null : h("a", { href: `${path}?${new URLSearchParams({ submitted_by: name })}` }, name);
}

/** The columns of the table of jobs: head, cell, and the field that the service sorts by. */
export const COLUMNS = {
  status: { head: "Status", cell: (job) => statusMark(job.status), sort: "status" },
  normalization: { head: "Normalization", cell: (job) => job.normalization, sort: "normalization" },
  batch_size: {
    head: "Batch size",
    cell: (job) => plain(job.spec.batch_size),
    sort: "batch_size",
    number: true,
    title: () => "Batch size per worker",
  },
  num_workers: { head: "Workers", cell: (job) => plain(job.spec.num_workers ?? 1), sort: "num_workers", number: true },
  model: { head: "Model", cell: (job) => job.spec.model, sort: "model" },
  seed: { head: "Seed", cell: (job) => plain(job.spec.seed), sort: "seed", number: true },
  epochs: { head: "Epochs", cell: (job) => plain(job.spec.epochs), sort: "epochs", number: true },
  progress: { head: "Progress", cell: progressCell },
  last: {
    head: ({ metric }) => `Last ${metricName(metric)}`,
    cell: metricCell("last"),
    sort: ({ metric }) => metric,
    number: true,
  },
  best: {
    head: ({ metric }) => `Best ${metricName(metric)}`,
    title: ({ metric }) => bestNotes(metric),
    cell: metricCell("best"),
    sort: ({ metric }) => `${metric}.best`,
    number: true,
  },
  best_step: { head: "Step of best", cell: metricCell("best_step"), number: true },
  speed: {
    head: "Images/s",
    cell: (job) => whole(job.progress?.images_per_s ?? job.summary?.images_per_s?.last),
    sort: "images_per_s",
    number: true,
  },
  learning_rate: {
    head: "Learning rate",
    cell: (job) => plain(job.spec.optimizer?.learning_rate),
    sort: "optimizer.learning_rate",
    number: true,
  },
  dataset: { head: "Dataset", cell: (job) => job.spec.dataset?.name, sort: "dataset.name" },
  priority: { head: "Priority", cell: (job) => plain(job.priority), sort: "priority", number: true },
  labels: { head: "Labels", cell: labelTags },
  submitted_by: { head: "Submitted by", cell: (job) => submitterLink(job, "/jobs") ?? "–" },
  duration: {
    head: "Duration",
    cell: (job) => (job.finished_at && job.duration_s ? duration(job.duration_s) : "–"),
    sort: "duration_s",
    number: true,
  },
  created: {
    head: "Created",
    cell: (job) => h("time", { datetime: job.created_at, title: zoned(job.created_at) }, ago(job.created_at)),
    sort: "created_at",
  },
};

export const DEFAULT_COLUMNS = [
  "status",
  "normalization",
  "batch_size",
  "model",
  "seed",
  "progress",
  "last",
  "best",
  "created",
];
