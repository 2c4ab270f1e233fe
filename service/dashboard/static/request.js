/* The request that a form edits, as JSON; and how the address holds it.

The address has a parameter for each value: `batch_size=4`, `normalization.type=group`, `grid.batch_size=[32,2]`. A value
is JSON; a string that is not JSON stands without quotes. So an address written by hand is short, and every request that
the service accepts comes back from the address as it was. */

const FORM = new Set(["kind", "from"]);
const FIELD = /^[a-z_]\w*$/;

/** The value of a JSON text. An integer that a number of JavaScript cannot hold keeps its digits. */
export const parseJson = (text) => parsed(text, JSON.rawJSON ?? Number);

/** The value of a JSON text that is shown: such an integer is the text of its digits. */
export const parseShown = (text) => parsed(text, String);

function parsed(text, large) {
  return JSON.parse(text, (_, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source)
      ? large(context.source)
      : value,
  );
}

/** Whether a value is an object with fields of its own. */
export const isObject = (value) =>
  value !== null && typeof value === "object" && !Array.isArray(value) && !JSON.isRawJSON?.(value);

/** The parameters of an address that hold a request. */
export function toParameters(request, prefix = "") {
  return Object.entries(request).reduce((found, [name, value]) => {
    const path = prefix + name;
    if (value === undefined) return found;
    const nested = isObject(value) && name !== "labels" && Object.keys(value).length > 0;
    if (nested && path === "grid")
      return Object.entries(value).reduce(
        (all, [axis, values]) => ({ ...all, [`grid.${axis}`]: textOf(values) }),
        found,
      );
    if (nested && Object.keys(value).every((key) => FIELD.test(key)))
      return { ...found, ...toParameters(value, `${path}.`) };
    return { ...found, [path]: textOf(value) };
  }, {});
}

/** The request that the parameters of an address hold. */
export function fromParameters(search) {
  let request = {};
  for (const [path, text] of new URLSearchParams(search))
    if (!FORM.has(path)) request = withValue(request, path, path.startsWith("grid.") ? axisOf(text) : valueOf(text));
  return request;
}

/** The names that lead to a value. Everything after `grid.` is the name of one axis, dots included. */
const namesOf = (path) => (path.startsWith("grid.") ? ["grid", path.slice(5)] : path.split("."));

/** The value at a path of a request, or undefined. */
export function valueAt(request, path) {
  return namesOf(path).reduce((holder, name) => (isObject(holder) ? holder[name] : undefined), request);
}

/** The request with another value at a path. `undefined` removes it, and each object that is left empty by that. */
export function withValue(request, path, value) {
  return placed(request, namesOf(path), value) ?? {};
}

function placed(holder, [name, ...within], value) {
  const object = isObject(holder) ? holder : {};
  const next = within.length ? placed(object[name], within, value) : value;
  if (next !== undefined) return { ...object, [name]: next };
  const { [name]: _, ...rest } = object;
  return Object.keys(rest).length ? rest : undefined;
}

/** The values of an axis as text: `32, 2`. Strings stand without quotes where that can be read back. */
export function listText(values) {
  const bare = values.every((value) =>
    typeof value === "string" ? isWord(value) : !isObject(value) && !Array.isArray(value),
  );
  return values.map((value) => (bare && typeof value === "string" ? value : JSON.stringify(value))).join(", ");
}

/** The values of an axis that a text lists. `0-4` means 0, 1, 2, 3, 4. */
export function listOf(text) {
  try {
    return parseJson(`[${text}]`);
  } catch {
    return text
      .split(",")
      .map((one) => one.trim())
      .filter(Boolean)
      .flatMap((one) => rangeOf(one) ?? valueOf(one));
  }
}

const MOST_IN_RANGE = 1000;

/** The integers of a range such as `0-4`; null for another text, and for more values than an experiment has jobs. */
function rangeOf(text) {
  const [, first, last] = /^(\d+)\s*[-–]\s*(\d+)$/.exec(text) ?? [];
  if (first === undefined) return null;
  const count = BigInt(last) - BigInt(first) + 1n;
  if (count < 1n || count > MOST_IN_RANGE) return null;
  return Array.from({ length: Number(count) }, (_, n) => parseJson(String(BigInt(first) + BigInt(n))));
}

/** The values of an axis in the address; a link may list them without brackets. */
function axisOf(text) {
  const value = valueOf(text);
  return Array.isArray(value) ? value : listOf(text);
}

const isWord = (text) => isUnquoted(text) && text === text.trim() && !/[,[\]{}]/.test(text);

function isUnquoted(text) {
  return text !== "" && JSON.stringify(text) === `"${text}"` && valueOf(text) === text;
}

const textOf = (value) => (typeof value === "string" && isUnquoted(value) ? value : JSON.stringify(value));

function valueOf(text) {
  try {
    return parseJson(text);
  } catch {
    return text;
  }
}
