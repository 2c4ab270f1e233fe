/* Conditions on any quantity of a job, and the order by one, both held in the address. */

import { flat, isFraction } from "../format.js";
import { labelled, menu, picker } from "../parts.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { outcomes } from "../vocabulary.js";
import { quantitiesOf } from "./quantities.js";
import { sortedBy } from "./sorting.js";

const OPERATORS = [
  [":", "is"],
  ["<", "<"],
  ["<=", "≤"],
  [">", ">"],
  [">=", "≥"],
];
const BEST = ".best";

/** The names that a condition may have: every field of these jobs, their labels and metrics. */
function namesOf(jobs) {
  const fields = jobs.flatMap((job) => Object.keys(flat(job.spec)));
  const others = [...quantitiesOf(jobs).values()].filter(({ kind }) => kind !== "part").map(({ name }) => name);
  return [...new Set([...others, ...outcomes().flatMap((name) => [name, name + BEST]), ...fields])];
}

/** The value of a condition: what was typed, per cent of an error as a fraction. */
function valueOf(name, text) {
  const [, number] = /^([0-9.]+)\s*%$/.exec(text) ?? [];
  return number && isFraction(name.replace(BEST, "")) ? String(Number((Number(number) / 100).toPrecision(12))) : text;
}

/** The menu that adds a condition. */
export function conditionMenu(jobs) {
  const add = (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const { quantity, operator, value } = Object.fromEntries(new FormData(form));
    if (!quantity.trim() || !value.trim()) return;
    form.closest("details").open = false;
    form.reset();
    const condition = quantity.trim() + operator + valueOf(quantity.trim(), value.trim());
    url.change({ where: [...new Set([...url.all("where"), condition])], cursor: null });
  };
  return menu(
    "Filter by",
    h(
      "form",
      { class: "condition", onsubmit: add },
      labelled(
        "Field, label or metric",
        h("input", {
          name: "quantity",
          list: "quantities",
          autocomplete: "off",
          placeholder: "optimizer.learning_rate",
        }),
      ),
      h(
        "datalist",
        { id: "quantities" },
        namesOf(jobs).map((name) => h("option", { key: name, value: name })),
      ),
      labelled(
        "Relation",
        h(
          "select",
          { name: "operator" },
          OPERATORS.map(([value, text]) => h("option", { value, key: value }, text)),
        ),
      ),
      labelled("Value", h("input", { name: "value", autocomplete: "off", placeholder: "0.1, or 30 % of an error" })),
      h("button", { type: "submit", class: "button primary" }, "Add"),
    ),
  );
}

/** The conditions, each with a button that removes it. */
export const conditionTags = () =>
  url.all("where").map((condition) =>
    h(
      "span",
      { class: "tag", key: `where ${condition}` },
      `${condition} `,
      h(
        "button",
        {
          type: "button",
          class: "remove",
          "aria-label": `Remove the condition ${condition}`,
          onclick: () => url.change({ where: url.all("where").filter((one) => one !== condition), cursor: null }),
        },
        "×",
      ),
    ),
  );

/** The choice of the order by any quantity. The heads of columns choose it too. */
export function sortPicker(jobs) {
  const chosen = sortedBy().join(",");
  const options = [
    ["-created_at", "Newest first"],
    ...[...quantitiesOf(jobs).values()].flatMap(({ name, title }) => [
      [name, `${title}, ascending`],
      [`-${name}`, `${title}, descending`],
    ]),
  ];
  if (!options.some(([value]) => value === chosen)) options.push([chosen, chosen]);
  return picker("Sort by", options, chosen, (sort) => url.change({ sort, cursor: null }), { hiddenLabel: true });
}
