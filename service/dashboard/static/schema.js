/* A JSON schema as the fields of a form, and what was filled in as the body of a request.

A field is `{ path, kind, label, help, fallback, options, required }`; its path, with dots, is also its name in the address.
What is left empty is left out of the body, so that a recipe, or the service's default, fills it. */

import { plain } from "./format.js";

/** The fields of a part of a schema. `chosen(path)` says which type of a union is filled in; `recipe` fills defaults. */
export function fieldsOf(
  schema,
  { chosen, recipe = {}, definitions = schema.$defs, path = "", required = schema.required ?? [] },
) {
  return Object.entries(schema.properties).flatMap(([name, raw]) => {
    if (name === "type" && path) return [];
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

/** A part that may be left out altogether: a switch, and its fields once it is on. */
function switched(member, part, { at, name, chosen, definitions }) {
  const inner = fieldsOf(member, { chosen, definitions, path: at, required: [] });
  const within = inner.map((field) => field.path);
  const on = chosen(at) === "on" || within.some((path) => chosen(path) !== "");
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
  if (one.type === "object") return { ...field, kind: "pairs" };
  return { ...field, kind: "text" };
}

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

/** What a field stands for when it is empty, in words. */
export const fallbackOf = (field) =>
  field.fallback === undefined || field.fallback === null || field.fallback === ""
    ? field.nullable
      ? "none"
      : ""
    : plain(field.fallback);

/** The body that the filled-in fields make. `raw(path)` is the text of a field, "" where it is empty. */
export function bodyOf(fields, raw) {
  const body = {};
  for (const field of fields) {
    if (field.kind === "group") continue;
    const text = raw(field.path).trim();
    if (field.kind === "switch") {
      if (field.on) place(body, field.path.split("."), {});
    } else if (text !== "") place(body, field.path.split("."), parsed(field.kind, text));
  }
  // A part of a union says of which type it is, also where that is the usual one.
  for (const field of fields) {
    if (!field.union) continue;
    const part = field.union.split(".").reduce((holder, name) => holder?.[name], body);
    if (part && part.type === undefined && field.fallback) part.type = field.fallback;
  }
  return body;
}

function place(body, [name, ...within], value) {
  if (within.length) place((body[name] ??= {}), within, value);
  else body[name] = value;
}

/** A text as the value it means. What is no number is sent as it is: the service says best what it would accept. */
export function parsed(kind, text) {
  if (kind === "number") return number(text);
  if (kind === "numbers") return text.split(",").map((one) => number(one.trim()));
  if (kind === "flag") return text === "true";
  if (kind === "pairs")
    return Object.fromEntries(
      text
        .split(",")
        .map((pair) =>
          pair
            .split(/:(.*)/s)
            .slice(0, 2)
            .map((one) => one.trim()),
        )
        .map(([key, value = ""]) => [key, value]),
    );
  return text;
}

function number(text) {
  const value = Number(text);
  return text !== "" && Number.isFinite(value) ? value : text;
}

/** A job's spec as texts of fields: what a form begins with that clones it. */
export function texts(spec, prefix = "") {
  return Object.entries(spec).reduce((found, [name, value]) => {
    const path = prefix + name;
    if (value === null || value === "") return found;
    if (Array.isArray(value)) return { ...found, [path]: value.join(", ") };
    if (typeof value === "object" && name !== "labels") return { ...found, ...texts(value, `${path}.`) };
    if (typeof value === "object")
      return {
        ...found,
        [path]: Object.entries(value)
          .map((pair) => pair.join(":"))
          .join(", "),
      };
    return { ...found, [path]: String(value) };
  }, {});
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
