/* The fields of a form as inputs, each with its help and its problem. */

import { fallbackOf } from "./schema.js";
import { h } from "./view.js";

const TYPING_MS = 250;
const pending = new Map();

/** A card of fields. A group takes a row of its own; a folded card opens where a field has a text or a problem. `form` is
 * `{ raw(path), set(path, text), problem(path) }`. */
export function fieldset(title, fields, form, { folded = false } = {}) {
  const rows = [];
  let group = null;
  for (const field of fields) {
    if (field.kind === "group") {
      group = { field, members: [] };
      rows.push(group);
    } else if (group && field.path.startsWith(`${group.field.path}.`)) group.members.push(field);
    else {
      group = null;
      rows.push(field);
    }
  }
  const paths = fields.map((field) => field.path);
  const wanted = !folded || paths.some((path) => form.raw(path) !== "");
  const wrong = paths.some((path) => form.problem(path));
  const set = h(
    "div",
    { class: "fieldset" },
    rows.map((row) =>
      row.members
        ? h(
            "fieldset",
            { class: "nested", key: row.field.path },
            h("legend", {}, row.field.label),
            row.members.map((field) => input(field, form)),
          )
        : input(row, form),
    ),
  );
  if (!folded) return h("section", { class: "card", key: title }, h("header", {}, h("h2", {}, title)), set);
  return h(
    "details",
    { class: "card", key: title, hook: { ...FOLD, wanted, wrong } },
    h(
      "summary",
      { class: "body" },
      h("h2", {}, title),
      h(
        "small",
        {},
        fields
          .filter((field) => field.kind === "group")
          .map((field) => field.label.toLowerCase())
          .join(", "),
      ),
    ),
    set,
  );
}

const FOLD = {
  mount: (element, { wanted, wrong }) => Object.assign(element, { wanted, open: wanted || wrong }),
  // A cloned job fills the fields in after they were drawn.
  update(element, { wanted, wrong }) {
    if (wrong || (wanted && !element.wanted)) element.open = true;
    element.wanted = wanted;
  },
};

/** One field. */
export function input(field, form, { wide = false } = {}) {
  const { path } = field;
  const problem = form.problem(path);
  const id = `field-${path.replaceAll(".", "-")}`;
  const described = [field.help && `${id}-help`, problem && `${id}-problem`].filter(Boolean).join(" ") || null;
  const shared = {
    id,
    name: path,
    "aria-invalid": problem ? "true" : null,
    "aria-describedby": described,
    "aria-required": field.required ? "true" : null,
  };
  const label = field.union ? "Type" : field.label;
  return h(
    "div",
    { class: wide ? "field wide" : "field", key: path },
    h("label", { for: id }, label, field.required ? h("span", { class: "muted" }, " required") : ""),
    control(field, shared, form),
    field.help && h("p", { class: "help-text", id: `${id}-help` }, field.help.replaceAll("`", "")),
    problem && h("p", { class: "field-problem", id: `${id}-problem` }, problem),
  );
}

function control(field, shared, form) {
  const value = form.raw(field.path);
  const usual = fallbackOf(field);
  if (field.kind === "switch")
    return h(
      "select",
      {
        ...shared,
        value: field.on ? "on" : "",
        onchange: ({ target }) => form.set(field.path, target.value),
      },
      [h("option", { value: "", key: "" }, "Off"), h("option", { value: "on", key: "on" }, "On")],
    );
  if (field.kind === "choice" || field.kind === "flag") {
    const options = field.kind === "flag" ? ["true", "false"] : field.options;
    const empty = field.required
      ? []
      : [h("option", { value: "", key: "" }, usual ? `Default: ${readable(usual)}` : "None")];
    return h(
      "select",
      {
        ...shared,
        value: value || (field.required ? (field.fallback ?? options[0]) : ""),
        onchange: (event) => form.set(field.path, event.target.value),
      },
      empty,
      options.map((option) => h("option", { value: option, key: option }, readable(option))),
    );
  }
  const typed = (event) => {
    const text = event.target.value;
    clearTimeout(pending.get(field.path));
    pending.set(
      field.path,
      setTimeout(() => form.set(field.path, text), TYPING_MS),
    );
  };
  const settled = (event) => {
    clearTimeout(pending.get(field.path));
    form.set(field.path, event.target.value);
  };
  const numeric = field.kind === "number" ? "decimal" : null;
  return h("input", {
    ...shared,
    type: "text",
    inputmode: numeric,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: PLACEHOLDERS[field.kind] ?? usual,
    value,
    oninput: typed,
    onchange: settled,
  });
}

const PLACEHOLDERS = {
  pairs: 'key:value, key:"a, b"',
  json: '{"optimizer.learning_rate": {"from": 0.01, "to": 1, "points": 5}}',
};

const readable = (option) =>
  ({ true: "yes", false: "no" })[option] ??
  (String(option).includes("_") ? String(option).replaceAll("_", " ") : option);
