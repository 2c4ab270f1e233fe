/* Numbers, times and names as text. */

import { metricOf } from "./vocabulary.js";

const EMPTY = "–";

/** A value of a metric, with its unit. Errors are fractions in the API and per cent here. */
export function metricValue(name, value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return EMPTY;
  const { format } = metricOf(name);
  if (format === "percent") return `${(100 * value).toFixed(digits)} %`.replace(/^-/, "−");
  return format === "integer" ? whole(value) : significant(value, 4);
}

/** Whether a metric is a fraction of 1 that is shown in per cent. */
export const isFraction = (name) => metricOf(name).format === "percent";

/** The name of a metric, with its unit where it is shown in per cent. */
export function metricName(name, { unit = false } = {}) {
  return metricOf(name).title + (unit && isFraction(name) ? " (%)" : "");
}

/** A number with `digits` significant digits; very large and very small ones with an exponent. */
export function significant(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4)
    return value
      .toExponential(Math.max(0, digits - 2))
      .replace(/\.?0+e/, "e")
      .replace("e+", "e")
      .replace("e-", "e−")
      .replace(/^-/, "−");
  return Number(value.toPrecision(digits)).toString().replace(/^-/, "−");
}

/** A whole number with thin spaces between thousands. */
export function whole(value) {
  if (value === null || value === undefined) return EMPTY;
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** Seconds as "3 h 12 min", "4 min 5 s" or "0.8 s". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return EMPTY;
  if (seconds < 10) return `${Number(Math.max(0, seconds).toFixed(1))} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** A time as its distance from now. */
export function ago(time, now = Date.now()) {
  if (!time) return EMPTY;
  const seconds = Math.max(0, (now - new Date(time).getTime()) / 1000);
  return seconds < 5
    ? "just now"
    : `${duration(seconds < 60 ? Math.round(seconds) : seconds).replace(/ \d+ (s|min|h)$/, "")} ago`;
}

/** A time in the time zone of the browser, to the second. */
export function clock(time) {
  if (!time) return EMPTY;
  const d = new Date(time);
  const two = (n) => String(n).padStart(2, "0");
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

/** A time as `clock` shows it, with the offset of its time zone from UTC. */
export function zoned(time) {
  if (!time) return EMPTY;
  const minutes = -new Date(time).getTimezoneOffset();
  const [hours, rest] = [Math.abs(minutes) / 60, Math.abs(minutes) % 60].map((n) =>
    String(Math.floor(n)).padStart(2, "0"),
  );
  return `${clock(time)} ${minutes ? `UTC${minutes < 0 ? "−" : "+"}${hours}:${rest}` : "UTC"}`;
}

/** Bytes as "1.1 MB". */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  for (let size = count; size >= 1000 && power < units.length - 1; size /= 1000) power++;
  return power ? `${(count / 1000 ** power).toFixed(1)} ${units[power]}` : `${count} B`;
}

const TURNING = /[\u0590-\u08ff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc]/;

/** A name for a running text: one that is written from the right, or turns what follows, leaves the text as it is. */
export const isolated = (name) => (TURNING.test(name) ? `\u2068${name}\u2069` : name);

const LONG = 44;
const TAIL = 30;
const ENDING = 44;

/** A name as two parts: the head may be truncated, the tail tells the jobs of an experiment apart. */
export function cut(name) {
  if (name.length <= LONG) return [name, ""];
  const colon = name.lastIndexOf(": ") + 1;
  const at = colon && name.length - colon <= ENDING ? colon : name.indexOf(" ", name.length - TAIL);
  return at < 0 ? [name.slice(0, -TAIL), name.slice(-TAIL)] : [name.slice(0, at), name.slice(at)];
}

/** Names without the words that all of them start with; no name becomes empty. */
export function distinct(names) {
  const words = names.map((name) => name.split(" "));
  let common = 0;
  while (names.length > 1 && words.every((one) => common < one.length - 1 && one[common] === words[0][common]))
    common++;
  return words.map((one) => one.slice(common).join(" "));
}

/** Any value of a spec as text. */
export function plain(value) {
  if (value === null || value === undefined) return EMPTY;
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : significant(value, 6);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A nested object as a flat one: { "optimizer.type": "sgd", ... }. */
export function flat(value, prefix = "") {
  return Object.entries(value ?? {}).reduce((found, [name, part]) => {
    const path = prefix + name;
    return part !== null && typeof part === "object" && !Array.isArray(part)
      ? { ...found, ...flat(part, `${path}.`) }
      : { ...found, [path]: part };
  }, {});
}
