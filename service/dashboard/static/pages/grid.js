/* The grid of an experiment: which values are combined; and the experiments that come with the service. */

import { choice } from "../parts.js";
import { parsed } from "../schema.js";
import { h } from "../view.js";

const TYPES = ["batch", "layer", "instance", "group", "none"];
const BUDGETS = [
  ["1", "Full"],
  ["0.25", "¼"],
  ["0.0625", "1⁄16"],
  ["0.01", "1 %"],
];

/** The fields of the grid. */
export function gridFields(raw) {
  return [
    {
      path: "grid.normalization",
      kind: "text",
      label: "Normalizations",
      help: `Of ${TYPES.join(", ")}; group 4 has 4 groups, group 16 ch has 16 channels a group`,
      fallback: "batch, group",
      required: false,
    },
    {
      path: "grid.batch_size",
      kind: "text",
      label: "Batch sizes",
      help: "The paper's are 32, 16, 8, 4, 2",
      fallback: "32, 2",
    },
    {
      path: "grid.seed",
      kind: "text",
      label: "Seeds",
      help: "Two or more give intervals; five resolve differences of a per cent or two",
      fallback: "0, 1, 2",
    },
    { path: "grid.field", kind: "text", label: "Another field", help: "As optimizer.learning_rate" },
    ...(raw("grid.field") ? [{ path: "grid.values", kind: "text", label: "Its values", help: "Comma-separated" }] : []),
  ];
}

const listed = (text) =>
  text
    .split(",")
    .map((one) => one.trim())
    .filter(Boolean);
const value = (text) => parsed("number", text);

/** "group 4" as {type: "group", num_groups: 4}. What is no normalization is sent as it is, for the service to say so. */
export function normalizationOf(text) {
  const [, type, number, channels] = /^(\S+)(?:\s+(\d+)\s*(ch|channels)?)?$/.exec(text) ?? [null, text];
  return { type, ...(number ? { [channels ? "channels_per_group" : "num_groups"]: Number(number) } : {}) };
}

/** The names of the fields that the grid gives. */
export function gridIs(raw) {
  return ["normalization", "batch_size", "seed", ...(raw("grid.field") ? [raw("grid.field").trim()] : [])];
}

/** The grid as the service takes it. */
export function gridBody(raw) {
  const of = (path, usual) => listed(raw(path) || usual);
  const other = raw("grid.field").trim();
  return {
    normalization: of("grid.normalization", "batch, group").map(normalizationOf),
    batch_size: of("grid.batch_size", "32, 2").map(value),
    seed: of("grid.seed", "0, 1, 2").map(value),
    ...(other && raw("grid.values").trim() ? { [other]: listed(raw("grid.values")).map(value) } : {}),
  };
}

/** The built-in experiments, to be chosen by a click, and how much of one to pay for. */
export function builtInCards(builtIns, chosen, form) {
  const all = builtIns.data ?? [];
  return h(
    "section",
    { class: "card", key: "builtins" },
    h("header", {}, h("h2", {}, "Built-in experiments"), h("small", {}, "or none of them: your own grid")),
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
    chosen &&
      h(
        "div",
        { class: "body" },
        h(
          "div",
          { class: "chart-controls" },
          h("span", {}, "Budget"),
          choice("Budget", BUDGETS, form.raw("budget") || "1", (budget) =>
            form.set("budget", budget === "1" ? "" : budget),
          ),
          h("small", {}, "epochs and training images are both scaled by its square root; the results say so"),
        ),
      ),
  );
}
