/* The grid of an experiment: which values are combined; and the experiments that come with the service. */

import { input } from "../fields.js";
import { button, choice } from "../parts.js";
import { valueAt, withValue } from "../request.js";
import { fieldsOf, partOf, pathsOf, textAt, withText, words } from "../schema.js";
import { h } from "../view.js";

const BUDGETS = [
  ["1", "Full"],
  ["0.25", "¼"],
  ["0.0625", "1⁄16"],
  ["0.01", "1 %"],
];

const SHORT_S = 600;
/** The budget where the service gives no cost. */
const UNKNOWN_BUDGET = 0.01;
const LEAST_BUDGET = 1e-6;

/** The grid of an experiment of one's own, until another one is given. */
export const USUAL_GRID = {
  normalization: [{ type: "batch" }, { type: "group" }],
  batch_size: [32, 2],
  seed: [0, 1, 2],
};

const KNOWN = {
  normalization: { label: "Normalizations" },
  batch_size: { label: "Batch sizes", help: "The paper compares 32, 16, 8, 4 and 2." },
  seed: {
    label: "Seeds",
    help: "For example 0-4, or 0, 1, 2. Two or more give intervals; five resolve differences of one or two percentage points.",
  },
};

/** The fields of the grid: one for each axis. */
export const axisFields = (grid) =>
  Object.keys(grid).map((name) => ({
    path: `grid.${name}`,
    kind: "list",
    label: KNOWN[name]?.label ?? words(name.replaceAll(".", " ")),
    help: KNOWN[name]?.help ?? "Values, separated by commas",
  }));

/** Edits a grid. `refresh` draws the page again. */
export class GridEditor {
  #refresh;
  /** The value that is being put together for an axis of parts, by the name of the axis. */
  #draft = {};

  constructor(refresh) {
    this.#refresh = refresh;
  }

  /** The card. `change(grid)` takes the edited grid; `labelOf(axis, index)` is the label of a value, if it is known. */
  view(grid, { schema, form, labelOf, change }) {
    return h(
      "section",
      { class: "card", key: "grid" },
      h("header", {}, h("h2", {}, "Grid: every combination is a job")),
      h(
        "div",
        { class: "fieldset" },
        axisFields(grid).map((field) => {
          const name = field.path.slice("grid.".length);
          const remove = removal(`Remove ${name} from the grid`, () => change(without(grid, name)));
          return isPart(schema, name)
            ? this.#parts(field, {
                values: grid[name],
                name,
                schema,
                form,
                labelOf,
                remove,
                change: (values) => change({ ...grid, [name]: values }),
              })
            : h("div", { class: "axis", key: field.path }, input(field, form), remove);
        }),
        axisChoice(schema, grid, (name) => change({ ...grid, [name]: [] }, name)),
      ),
    );
  }

  /** An axis of parts, such as normalizations: each value with its label, and a form for another one. */
  #parts(field, { values, name, schema, form, labelOf, remove, change }) {
    const path = `add.${name}`;
    const [first] = Object.keys(partOf(schema, name).discriminator?.mapping ?? {});
    const raw = (at) => textAt(this.#draft, at) || (at === `${path}.type` ? (first ?? "") : "");
    const only = { ...schema, properties: { [name]: schema.properties[name] }, required: [name] };
    const fields = fieldsOf(only, { chosen: raw, path: "add" }).filter((one) => one.kind !== "group");
    const set = (at, text) => {
      this.#draft = withText(this.#draft, fields, at, text);
      this.#refresh();
    };
    const add = () => {
      const type = raw(`${path}.type`);
      const value = { ...(type ? { type } : {}), ...valueAt(this.#draft, path) };
      this.#draft = withValue(this.#draft, path, undefined);
      change([...values, value]);
    };
    const problem = form.problem(field.path);
    return h(
      "fieldset",
      { class: "nested", key: field.path },
      h("legend", {}, field.label),
      h(
        "ul",
        { class: "values wide", "aria-label": field.label },
        values.map((value, n) => {
          const label = labelOf(name, n) ?? JSON.stringify(value);
          return h(
            "li",
            { class: "tag", key: `${n} ${label}` },
            label,
            removal(`Remove ${label}`, () => change(values.filter((_, at) => at !== n))),
          );
        }),
      ),
      problem && h("p", { class: "field-problem wide", role: "alert" }, problem),
      fields.map((one) => input(one, { raw, set, problem: () => null })),
      h("div", { class: "actions wide" }, button(`Add to ${field.label.toLowerCase()}`, add, { icon: "plus" }), remove),
    );
  }
}

const without = (grid, name) => Object.fromEntries(Object.entries(grid).filter(([one]) => one !== name));

const isPart = (schema, name) => Boolean(partOf(schema, name)?.discriminator || partOf(schema, name)?.properties);

const removal = (label, onclick) =>
  h("button", { type: "button", class: "remove", "aria-label": label, title: label, onclick }, "×");

/** The choice of a further field for the grid. */
function axisChoice(schema, grid, add) {
  const paths = pathsOf(schema).filter((path) => !(path in grid) && !NOT_OF_A_TRAINING.includes(path));
  return h(
    "div",
    { class: "field", key: "add an axis" },
    h("label", { for: "add-an-axis" }, "Another field"),
    h(
      "select",
      { id: "add-an-axis", value: "", onchange: ({ target }) => target.value && add(target.value) },
      h("option", { value: "", key: "" }, "Choose a field"),
      paths.map((path) => h("option", { value: path, key: path }, path)),
    ),
    h("p", { class: "help-text" }, "Its values are combined with all the others."),
  );
}

/** Fields of a job that the service uses and the training does not. */
const NOT_OF_A_TRAINING = ["name", "labels", "priority", "max_retries"];

/** The built-in experiments, to be chosen by a click, and the share of the cost to spend. */
export function builtInCards(builtIns, chosen, form) {
  const all = builtIns.data ?? [];
  const budget = form.raw("budget") || "1";
  const budgets = BUDGETS.some(([value]) => value === budget) ? BUDGETS : [...BUDGETS, [budget, budget]];
  return h(
    "section",
    { class: "card", key: "builtins" },
    h("header", {}, h("h2", {}, "Built-in experiments"), h("small", {}, "Choose one, or define a grid of your own.")),
    h(
      "div",
      { class: "body choices" },
      all.map((one) =>
        h(
          "button",
          {
            type: "button",
            class: "option",
            key: one.name,
            "aria-pressed": String(one.name === chosen),
            onclick: () => form.set("builtin", one.name === chosen ? "" : one.name),
          },
          h("strong", {}, one.title),
          h("span", {}, one.description),
          h("span", { class: "muted" }, `${one.jobs} jobs · ${one.name}`),
        ),
      ),
      builtIns.problem && h("p", { class: "muted" }, builtIns.problem.detail),
    ),
    h(
      "div",
      { class: "body" },
      h(
        "div",
        { class: "chart-controls" },
        h("span", {}, "Budget"),
        choice("Budget", budgets, budget, (value) => form.set("budget", value)),
        h("small", {}, "Scales both epochs and images by its square root. The results show it."),
      ),
      form.problem("budget") && h("p", { class: "field-problem", role: "alert" }, form.problem("budget")),
    ),
  );
}

/** A smaller budget than one with which an experiment takes `seconds`, so that it may end within ten minutes; null if it
 * does, or if nothing smaller is known. */
export function shorterBudget(budget, seconds) {
  if (seconds === null) return budget > UNKNOWN_BUDGET ? UNKNOWN_BUDGET : null;
  if (seconds <= SHORT_S) return null;
  const wanted = (budget * SHORT_S) / seconds;
  const offered = BUDGETS.map(([value]) => Number(value)).find((value) => value <= wanted && value < budget);
  const next = offered ?? Number((0.7 * wanted).toPrecision(1));
  return next > 0 && next < budget && next >= LEAST_BUDGET ? next : null;
}
