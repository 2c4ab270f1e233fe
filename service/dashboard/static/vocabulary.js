/* The vocabulary of the service, read once from /v1/specification: metrics, statuses, and what a job may consist of. */

import { get } from "./api.js";

let reading = null;

/** The specification; empty until it has been read. */
export let specification = { models: [], normalizations: [], statuses: [], experiment_statuses: [], metrics: [] };

/** Read the specification, once. */
export async function readVocabulary() {
  reading ??= get("/v1/specification");
  try {
    specification = await reading;
  } catch (problem) {
    reading = null;
    throw problem;
  }
  return specification;
}

const UNKNOWN = { description: null, ended: false, active: false, actions: [] };

/** What a status of a job means, and what can be done in it. */
export const jobStatus = (status) => specification.statuses.find(({ name }) => name === status) ?? UNKNOWN;

/** What a status of an experiment means, and what can be done in it. */
export const experimentStatus = (status) =>
  specification.experiment_statuses.find(({ name }) => name === status) ?? UNKNOWN;

/** What a metric is. Metrics of layers are named `layer/metric`. */
export function metricOf(name) {
  const own = name.slice(name.lastIndexOf("/") + 1);
  const found = specification.metrics.find((one) => one.name === own && (one.per_layer || own === name));
  return found ?? { name, title: name.replaceAll("_", " "), format: "decimal", unit: "", better: null };
}

/** The note on the best value of a metric of a job: what chose its epoch. */
export function bestNote(name, spec) {
  const { selected_by, selected_note, best_note } = metricOf(name);
  return (selected_by && spec?.dataset?.holdout ? selected_note : best_note) ?? null;
}

/** The notes on the best values of a metric, of jobs without a holdout and with one. */
export function bestNotes(name) {
  const { selected_note, best_note } = metricOf(name);
  return [best_note, selected_note && `with a holdout: ${selected_note}`].filter(Boolean).join("; ") || null;
}

/** The names of the metrics that jobs can be sorted, compared and judged by; the first is the usual one. */
export const outcomes = () => specification.metrics.filter((one) => one.outcome).map((one) => one.name);

/** Whether a worker holds a job in this status. */
export const isActive = (status) => jobStatus(status).active;
