/* The filter and the display options of the table of jobs, both held in the address. */

import { metricName } from "../format.js";
import { COLUMNS, DEFAULT_COLUMNS, metricsOf } from "../metrics.js";
import { button, checklist, ICONS, picker } from "../parts.js";
import { shape } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { outcomes, specification } from "../vocabulary.js";
import { groupsOf } from "./groups.js";
import { conditionTags, conditionMenu, sortPicker } from "./conditions.js";

const TYPING_MS = 250;
const typing = new Map();

/** The filter of the address, as the query of the API. */
export function filterOf() {
  return {
    status: url.all("status"),
    normalization: url.all("normalization"),
    model: url.all("model"),
    batch_size: url.list("batch_size"),
    seed: url.list("seed"),
    label: url.all("label"),
    where: url.all("where"),
    submitted_by: url.all("submitted_by"),
    experiment: url.get("experiment"),
    search: url.get("search"),
    created_after: url.get("created_after"),
  };
}

/** Whether any filter is set. */
export const isFiltered = () =>
  Object.values(filterOf()).some((value) => (Array.isArray(value) ? value.length : value));

/** The display options of cells. */
export const options = () => ({ metric: url.get("metric", outcomes()[0]) });

/** The head of a column. */
export const headOf = (column) => (typeof column.head === "function" ? column.head(options()) : column.head);

/** An explanation of a column, or null. */
export const titleOf = (column) => column.title?.(options()) ?? null;

/** The field that the service sorts a column by, or null. */
export const sortOf = (column) => (typeof column.sort === "function" ? column.sort(options()) : (column.sort ?? null));

const toggle = (name, value) => {
  const chosen = url.all(name);
  url.change({
    [name]: chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value],
    cursor: null,
  });
};

const typed = (name) => (event) => {
  const { value } = event.target;
  clearTimeout(typing.get(name));
  typing.set(
    name,
    setTimeout(() => url.change({ [name]: value.trim(), cursor: null }, { replace: true }), TYPING_MS),
  );
};

/** The two toolbars: filter and display. `jobs` are those of the page, `arrived` is a button if there are new jobs. */
export function filterBar(jobs, arrived) {
  const metrics = metricsOf(jobs);
  const shown = url.list("columns", DEFAULT_COLUMNS);
  return h(
    "div",
    { class: "filters", key: "filters" },
    h(
      "div",
      { class: "toolbar", key: "filters", role: "search", "aria-label": "Filter the jobs" },
      h(
        "div",
        { class: "search" },
        shape(ICONS.search),
        h("input", {
          type: "search",
          "aria-label": "Search names",
          placeholder: "Search names",
          value: url.get("search", ""),
          oninput: typed("search"),
        }),
      ),
      checklist(
        "Status",
        specification.statuses.map(({ name }) => [name, name]),
        url.all("status"),
        (value) => toggle("status", value),
      ),
      checklist(
        "Normalization",
        specification.normalizations.map(({ type }) => [type, type]),
        url.all("normalization"),
        (value) => toggle("normalization", value),
      ),
      checklist(
        "Model",
        specification.models.map(({ name }) => [name, name]),
        url.all("model"),
        (value) => toggle("model", value),
      ),
      h("input", {
        class: "short",
        "aria-label": "Batch sizes, comma-separated",
        placeholder: "Batch sizes",
        inputmode: "numeric",
        value: url.get("batch_size", ""),
        oninput: typed("batch_size"),
      }),
      h("input", {
        class: "short",
        "aria-label": "Label, as key:value",
        placeholder: "Label key:value",
        value: url.get("label", ""),
        oninput: typed("label"),
      }),
      conditionMenu(jobs),
      isFiltered() &&
        button(
          "Clear",
          () =>
            url.change({ ...Object.fromEntries(Object.keys(filterOf()).map((name) => [name, null])), cursor: null }),
          { kind: "quiet" },
        ),
    ),
    h(
      "div",
      { class: "toolbar", key: "display" },
      picker(
        "Metric",
        (metrics.length ? metrics : outcomes()).map((name) => [name, metricName(name)]),
        options().metric,
        (metric) => url.change({ metric }),
        { hiddenLabel: true },
      ),
      sortPicker(jobs),
      checklist("Group by", groupsOf(jobs, url.list("group")), url.list("group"), (value) => {
        const chosen = url.list("group");
        url.change({
          group: (chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value].slice(-2)).join(
            ",",
          ),
        });
      }),
      checklist(
        "Columns",
        Object.entries(COLUMNS).map(([name, column]) => [name, headOf(column)]),
        shown,
        (value) => {
          const next = Object.keys(COLUMNS).filter((name) => shown.includes(name) !== (name === value));
          url.change({ columns: next.join(",") === DEFAULT_COLUMNS.join(",") ? null : next.join(",") });
        },
        { counted: false },
      ),
      url.get("experiment") &&
        h(
          "span",
          { class: "tag", key: "experiment" },
          "Of ",
          h("a", { href: `/experiments/${url.get("experiment")}` }, "one experiment"),
          " ",
          h(
            "button",
            {
              type: "button",
              class: "remove",
              "aria-label": "Show the jobs of all experiments",
              onclick: () => url.change({ experiment: null, cursor: null }),
            },
            "×",
          ),
        ),
      conditionTags(),
      url.all("submitted_by").map((name) =>
        h(
          "span",
          { class: "tag", key: `by ${name}` },
          `Submitted by ${name} `,
          h(
            "button",
            {
              type: "button",
              class: "remove",
              "aria-label": `Show the jobs of others than ${name}, too`,
              onclick: () => toggle("submitted_by", name),
            },
            "×",
          ),
        ),
      ),
      h("span", { class: "push", key: "arrived" }, arrived),
    ),
  );
}
