/* A JSON schema as the fields of a form, and the texts of the fields as values of a request.

A field is `{ path, kind, label, help, fallback, options, required }`; its path, with dots, is also its name in the address.
A field without a text is left out of the request, so that a recipe or the default of the service fills it. */

import { plain } from "./format.js";
import { labelsOf, labelsText } from "./labels.js";
import { isObject, listOf, listText, parseJson, valueAt, withValue } from "./request.js";

/** The fields of a part of a schema. `chosen(path)` is the text of a field, which decides the type of a union; `recipe`
 * are defaults that go before those of the schema. */
export function fieldsOf(
  schema,
  { chosen, recipe = {}, definitions = schema.$defs, path = "", required = schema.required ?? [] },
) {
  return Object.entries(schema.properties).flatMap(([name, raw]) => {
    if (name === "type" && raw.const) return [];
    const at = path ? `${path}.${name}` : name;
    const part = resolve(raw, definitions);
    const given = recipe?.[name];
    if (part.discriminator)
      return union(part, { at, name, given, chosen, definitions, required: required.includes(name) });
    const optional = part.anyOf?.map((member) => resolve(member, definitions)).find((member) => member.properties);
    if (optional) return switched(optional, part, { at, name, chosen, definitions });
    if (part.properties) {
      const inner = fieldsOf(part, { chosen, recipe: given, definitions, path: at });
      return [{ path: at, kind: "group", label: words(name), help: part.description }, ...inner];
    }
    return [scalar(part, { at, name, fallback: given ?? part.default, required: required.includes(name) })];
  });
}

/** The fields of a job on a number of workers, each of which has a batch of its own. */
export const perWorker = (fields, workers) =>
  Number(workers) > 1
    ? fields.map((field) => (field.path === "batch_size" ? { ...field, label: "Batch size per worker" } : field))
    : fields;

function union(part, { at, name, given, chosen, definitions, required }) {
  const types = Object.keys(part.discriminator.mapping);
  const usual = given?.type ?? part.default?.type ?? null;
  const type = chosen(`${at}.type`) || usual;
  const member = type && resolve({ $ref: part.discriminator.mapping[type] }, definitions);
  const head = {
    path: `${at}.type`,
    kind: "choice",
    label: words(name),
    help: member?.description,
    options: types,
    fallback: usual,
    required,
    union: at,
    accepted: Object.fromEntries(
      types.map((one) => [
        one,
        Object.keys(resolve({ $ref: part.discriminator.mapping[one] }, definitions).properties),
      ]),
    ),
  };
  return [
    { path: at, kind: "group", label: words(name) },
    head,
    ...(member
      ? fieldsOf(member, {
          chosen,
          recipe: [given, part.default].find((one) => one?.type === type) ?? {},
          definitions,
          path: at,
        })
      : []),
  ];
}

/** A part that can be left out: a switch, and its fields while it is on. */
function switched(member, part, { at, name, chosen, definitions }) {
  const inner = fieldsOf(member, { chosen, definitions, path: at, required: [] });
  const within = inner.map((field) => field.path);
  const on = chosen(at) === "on";
  const head = { path: at, kind: "switch", label: words(name), help: part.description, on, within };
  return [{ path: at, kind: "group", label: words(name) }, head, ...(on ? inner : [])];
}

function scalar(part, { at, name, fallback, required }) {
  const members = part.anyOf ?? [part];
  const one = members.find((member) => member.type !== "null") ?? part;
  const field = {
    path: at,
    label: words(name),
    help: part.description,
    fallback,
    required,
    nullable: members.length > 1,
  };
  if (one.enum) return { ...field, kind: "choice", options: one.enum };
  if (one.type === "boolean") return { ...field, kind: "flag" };
  if (one.type === "integer" || one.type === "number") return { ...field, kind: "number" };
  if (one.type === "array") return { ...field, kind: "numbers" };
  if (one.type === "object") return { ...field, kind: JSON_FIELD.test(at) ? "json" : "pairs" };
  return { ...field, kind: "text" };
}

/** Objects whose values are no texts are edited as JSON. */
const JSON_FIELD = /(^|\.)over$/;

const resolve = (part, definitions) =>
  part.$ref
    ? {
        ...definitions[part.$ref.split("/").pop()],
        ...Object.fromEntries(Object.entries(part).filter(([name]) => name !== "$ref")),
      }
    : part;

/** "Learning rate scaling" for "learning_rate_scaling". */
export const words = (name) =>
  name
    .replaceAll("_", " ")
    .replace(/^./, (c) => c.toUpperCase())
    .replace(/ s$/, " (s)");

/** The value of a field without a text, in words. */
export const fallbackOf = (field) =>
  field.fallback === undefined || field.fallback === null || field.fallback === ""
    ? field.nullable
      ? "none"
      : ""
    : plain(field.fallback);

/** The part of a schema that a field is, or undefined. */
export const partOf = (schema, name) => schema.properties[name] && resolve(schema.properties[name], schema.$defs);

/** The paths of all fields of a schema, parts and the parameters of every type of a part included. */
export function pathsOf(schema, definitions = schema.$defs, path = "") {
  const found = Object.entries(schema.properties).flatMap(([name, raw]) => {
    if (raw.const) return [];
    const part = resolve(raw, definitions);
    const members = [part, ...(part.oneOf ?? part.anyOf ?? []).map((member) => resolve(member, definitions))];
    const inner = members.filter((member) => member.properties);
    return [path + name, ...inner.flatMap((member) => pathsOf(member, definitions, `${path}${name}.`))];
  });
  return [...new Set(found)];
}

/** The value at a path of a request as the text of its field; "" where there is none. */
export function textAt(request, path) {
  const value = valueAt(request, path);
  if (value === undefined || value === null) return "";
  if (Array.isArray(value)) return path.startsWith("grid.") ? listText(value) : value.join(", ");
  if (JSON_FIELD.test(path)) return JSON.stringify(value);
  if (!isObject(value)) return typeof value === "string" ? value : JSON.stringify(value);
  if (!/(^|\.)labels$/.test(path)) return "on";
  return labelsText(value);
}

/** The request after the text of one of `fields` has changed. */
export function withText(request, fields, path, text) {
  const field = fields.find((one) => one.path === path && one.kind !== "group");
  const trimmed = text.trim();
  if (field?.kind === "switch")
    return withValue(request, path, trimmed === "on" ? (valueAt(request, path) ?? {}) : undefined);
  if (field?.union) return withType(request, field, trimmed);
  const value = trimmed === "" && field?.kind !== "list" ? undefined : parsed(field?.kind ?? "text", trimmed);
  return withHolders(withValue(request, path, value), fields, path);
}

/** Another type of a part keeps those of its parameters that it has too. */
function withType(request, field, type) {
  if (!type) return withValue(request, field.path, undefined);
  const part = valueAt(request, field.union) ?? {};
  const kept = Object.entries(part).filter(([name]) => field.accepted[type]?.includes(name));
  return withValue(request, field.union, { ...Object.fromEntries(kept), type });
}

/** A part of a union says of which type it is; a part that is switched on stays when its last field is emptied. */
function withHolders(request, fields, path) {
  const union = fields.find((one) => one.union && path.startsWith(`${one.union}.`));
  const part = union && valueAt(request, union.union);
  if (part && part.type === undefined && union.fallback) return withValue(request, union.path, union.fallback);
  const on = fields.find((one) => one.kind === "switch" && one.on && one.within.includes(path));
  return on && valueAt(request, on.path) === undefined ? withValue(request, on.path, {}) : request;
}

/** The value of a text. A text that is not a number is sent as it is: the service says what it would accept. */
export function parsed(kind, text) {
  if (kind === "list") return listOf(text);
  if (kind === "json") return jsonOf(text);
  if (kind === "number") return number(text);
  if (kind === "numbers") return text.split(",").map((one) => number(one.trim()));
  if (kind === "flag") return text === "true";
  if (kind === "pairs") return labelsOf(text);
  return text;
}

/** The value of a JSON text; a text that is not JSON is sent as it is: the service says what it would accept. */
function jsonOf(text) {
  try {
    return parseJson(text);
  } catch {
    return text;
  }
}

function number(text) {
  if (/^-?(0|[1-9]\d*)$/.test(text)) return parseJson(text);
  const value = Number(text);
  return text !== "" && Number.isFinite(value) ? value : text;
}

/** The path of the field that a JSON pointer means: the longest of `paths` that it begins with. */
export function fieldAt(pointer, paths) {
  const dotted = pointer
    .slice(1)
    .split("/")
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"))
    .join(".");
  return (
    paths.filter((path) => dotted === path || dotted.startsWith(`${path}.`)).sort((a, b) => b.length - a.length)[0] ??
    null
  );
}
