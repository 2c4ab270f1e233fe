/* What jobs are filtered and grouped by, and what charts of jobs have as axes, under the names of the service. */

import { duration, flat, isFraction, metricName, metricValue, plain } from "../format.js";
import { metricsOf } from "../metrics.js";

export const NORMALIZATION = "normalization";
const LABELS = "labels.";
/** Fields that are worth a choice even where all jobs of a page have one value. */
const USUAL = ["batch_size", "model", "seed"];

/** The quantities of some jobs by name: `{ name, title, kind, of(job), format(value), numeric, varies }`. Fields are
 * those that differ between them, and the usual ones. The values of metrics are in the unit of an axis, errors in per cent. */
export function quantitiesOf(jobs) {
  const all = [
    {
      name: NORMALIZATION,
      title: NORMALIZATION,
      kind: "part",
      of: (job) => job.normalization,
      format: plain,
      varies: true,
    },
  ];
  const specs = jobs.map((job) => flat(job.spec));
  for (const name of new Set([...USUAL, ...specs.flatMap(Object.keys)])) {
    const of = (job) => at(job.spec, name);
    const values = new Set(specs.map((spec) => plain(spec[name])));
    if (values.size < 2 && !USUAL.includes(name)) continue;
    all.push({
      name,
      title: words(name),
      kind: "field",
      of,
      format: plain,
      numeric: numeric(jobs, of),
      varies: values.size > 1,
    });
  }
  for (const key of new Set(jobs.flatMap((job) => Object.keys(job.labels)))) {
    // Lists of quantities in an address are separated by commas.
    if (key.includes(",")) continue;
    const of = (job) => job.labels[key] ?? null;
    all.push({ name: `${LABELS}${key}`, title: `label ${key}`, kind: "label", of, format: plain });
  }
  for (const name of metricsOf(jobs)) {
    const factor = isFraction(name) ? 100 : 1;
    for (const part of ["last", "best"])
      all.push({
        name: part === "last" ? name : `${name}.best`,
        title: `${part} ${metricName(name, { unit: true })}`,
        kind: "metric",
        of: (job) => scaled(job.summary?.[name]?.[part], factor),
        format: (value) => (value === null ? "–" : metricValue(name, value / factor)),
        numeric: true,
      });
  }
  const took = (job) => job.duration_s ?? null;
  all.push({ name: "duration_s", title: "duration (s)", kind: "time", of: took, format: duration, numeric: true });
  return new Map(all.map((one) => [one.name, one]));
}

/** The name of a value, as the service writes it. */
export const textOf = (value) =>
  value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);

const words = (name) => name.replaceAll(/[_.]/g, " ");
const at = (spec, path) => path.split(".").reduce((value, name) => value?.[name], spec) ?? null;
const scaled = (value, factor) => (typeof value === "number" ? value * factor : null);
const numeric = (jobs, of) => jobs.every((job) => of(job) === null || typeof of(job) === "number");
