/* Labels as the text of a field: `study:paper, note:"a, b"`. What a comma, a quote or a space at an end would change
stands in quotes, as a string of JSON, so that every label can be read back. */

const QUOTED = String.raw`"(?:[^"\\]|\\.)*"`;
const PAIR = new RegExp(
  String.raw`\s*(${QUOTED}(?=\s*[:,]|\s*$)|[^:,]*)(?::\s*(${QUOTED}(?=\s*,|\s*$)|[^,]*))?\s*(?:,|$)`,
  "y",
);

/** The text of labels. */
export const labelsText = (labels) =>
  Object.entries(labels)
    .map(([key, value]) => `${quoted(key, /[,:]/)}:${quoted(value, /,/)}`)
    .join(", ");

/** The labels that a text names. A key without a value has an empty one, which the service refuses. */
export function labelsOf(text) {
  const found = {};
  PAIR.lastIndex = 0;
  while (PAIR.lastIndex < text.length) {
    const [, key, value = ""] = PAIR.exec(text);
    if (key.trim() || value.trim()) found[unquoted(key)] = unquoted(value);
  }
  return found;
}

function quoted(text, separator) {
  const plain = text !== "" && text === text.trim() && !text.startsWith('"') && !separator.test(text);
  return plain && JSON.stringify(text).length === text.length + 2 ? text : JSON.stringify(text);
}

function unquoted(text) {
  const trimmed = text.trim();
  if (!trimmed.startsWith('"')) return trimmed;
  try {
    return JSON.parse(trimmed);
  } catch {
    return trimmed;
  }
}
