/* Jobs as points and as lines: any two quantities against each other, and several side by side. */

import { get } from "../api.js";
import { chart } from "../chart.js";
import { pick, picked, pickNone, pointAt } from "../brush.js";
import { significant } from "../format.js";
import { button, checklist, emptyState, linkButton, notice, picker, problemNotice } from "../parts.js";
import { Resource } from "../resource.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { outcomes } from "../vocabulary.js";
import { filterOf } from "./jobfilter.js";
import { parallel } from "./parallel.js";
import { NORMALIZATION, quantitiesOf, textOf } from "./quantities.js";

const PAGE = 200;
const MOST = 1000;
const MOST_GROUPS = 8;

export default function explorePage(shell) {
  const jobs = new Resource(shell.refresh);

  const load = () =>
    jobs.load(JSON.stringify(filterOf()), async (signal) => {
      const found = [];
      let cursor = null;
      do {
        const page = await get("/v1/jobs", { ...filterOf(), limit: PAGE, cursor }, { signal });
        found.push(...page.data);
        cursor = page.next_cursor;
      } while (cursor && found.length < MOST);
      return { found, more: Boolean(cursor) };
    });

  function content() {
    if (jobs.problem) return problemNotice(jobs.problem, () => jobs.reload());
    if (!jobs.data) return h("div", { class: "empty", key: "reading", "aria-busy": "true" }, "Reading the jobs…");
    const { found, more } = jobs.data;
    if (!found.length)
      return emptyState(
        "No jobs match this filter",
        "Choose other jobs on their page, and come back.",
        linkButton("Jobs", url.with(filterOf(), "/jobs"), { kind: "primary" }),
      );
    const quantities = quantitiesOf(found);
    const of = (name, fallback) =>
      quantities.get(url.get(name)) ?? quantities.get(fallback) ?? [...quantities.values()][0];
    const x = of("x", "batch_size");
    const y = of("y", outcomes()[0]);
    const groups = groupsOf(found, quantities.get(url.get("by")) ?? quantities.get(NORMALIZATION));
    const sides = url
      .list("axes", defaultSides(quantities, y))
      .map((name) => quantities.get(name))
      .filter(Boolean);
    const datasets = [...new Set(found.map((job) => job.spec.dataset.name))];
    return [
      more && notice("warn", null, `The newest ${found.length} jobs are shown.`),
      controls(quantities, { x, y, by: groups.by, sides }),
      pickedJobs(found),
      scatter(groups, x, y, datasets, shell.say),
      parallel(groups, sides, {
        hidden: url.all("hidden"),
        datasets,
        exported: {
          path: "/v1/parallel",
          query: { ...figureOf(groups), axis: sides.map(({ name }) => name) },
          name: "side-by-side",
          say: shell.say,
        },
      }),
    ];
  }

  return {
    title: () => "Explore",
    load,
    view: () => [
      h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "Explore"),
        h("div", { class: "actions" }, linkButton("The same jobs as a table", url.with(filterOf(), "/jobs"))),
      ),
      content(),
    ],
    close: () => jobs.close(),
  };
}

/** The jobs by the values of one quantity, at most `MOST_GROUPS`; the rest is one group. */
function groupsOf(jobs, by) {
  const found = new Map();
  for (const job of jobs) {
    const value = textOf(by.of(job));
    found.set(value, [...(found.get(value) ?? []), job]);
  }
  const all = [...found].sort((a, b) => b[1].length - a[1].length || a[0].localeCompare(b[0], "en", { numeric: true }));
  const kept = all.slice(0, all.length > MOST_GROUPS ? MOST_GROUPS - 1 : MOST_GROUPS);
  const rest = all.slice(kept.length).flatMap(([, members]) => members);
  if (rest.length) kept.push(["others", rest]);
  return { by, all: kept.map(([name, members], colour) => ({ name, members, colour })) };
}

function defaultSides(quantities, y) {
  const fields = [...quantities.values()].filter(
    ({ name, kind, varies }) =>
      ["part", "field"].includes(kind) && !name.startsWith("normalization.") && (varies || name === "batch_size"),
  );
  return [...fields.map(({ name }) => name), y.name].slice(-6);
}

function controls(quantities, { x, y, by, sides }) {
  const all = [...quantities.values()];
  const options = (some) => some.map(({ name, title }) => [name, title]);
  const set = (name) => (value) => url.change({ [name]: value }, { replace: true });
  const chosen = sides.map(({ name }) => name);
  const check = (text, name) =>
    h(
      "label",
      { class: "inline" },
      h("input", {
        type: "checkbox",
        checked: url.get(name) === "1",
        onchange: () => url.change({ [name]: url.get(name) === "1" ? null : "1" }, { replace: true }),
      }),
      text,
    );
  return h(
    "div",
    { class: "toolbar", key: "controls" },
    picker("Horizontal axis", options(all), x.name, set("x")),
    picker("Vertical axis", options(all), y.name, set("y")),
    picker("Colour", options(all), by.name, set("by")),
    check("Log x", "logx"),
    check("Log y", "logy"),
    checklist("Lines through", options(all), chosen, (name) =>
      url.change(
        { axes: (chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]).join(",") },
        { replace: true },
      ),
    ),
  );
}

/** What the service draws of these groups: the filter, the colours, and the groups that are not hidden. */
function figureOf({ by, all }) {
  const hidden = url.all("hidden");
  const shown = all.map(({ name }) => name).filter((name) => !hidden.includes(name));
  return { ...filterOf(), by: by.name, group: shown.length < all.length ? shown : null };
}

/** The jobs that were picked in a drawing; nothing without one. */
function pickedJobs(jobs) {
  const ids = picked();
  const found = jobs.filter((job) => ids.includes(job.id));
  if (!found.length) return null;
  return h(
    "div",
    { class: "toolbar", key: "picked", role: "region", "aria-label": "Picked jobs" },
    found.map((job) =>
      h(
        "span",
        { class: "tag", key: job.id, onpointerenter: () => pointAt(job.id), onpointerleave: () => pointAt(null) },
        h("a", { href: `/jobs/${job.id}` }, job.title),
        " ",
        h(
          "button",
          { type: "button", class: "remove", "aria-label": `Drop ${job.title}`, onclick: () => pick(job.id) },
          "×",
        ),
      ),
    ),
    found.length > 1 && linkButton("Compare", url.with({ jobs: ids.join(",") }, "/compare"), { kind: "primary" }),
    button("Clear", pickNone, { kind: "quiet" }),
  );
}

/** The names of an axis of a quantity that is no number, in their natural order; null for one of numbers. */
const namesOf = (quantity, jobs) =>
  quantity.numeric
    ? null
    : [...new Set(jobs.map(quantity.of))]
        .filter((value) => value !== null)
        .map(textOf)
        .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));

function scatter(groups, x, y, datasets, say) {
  const jobs = groups.all.flatMap(({ members }) => members);
  const [across, up] = [namesOf(x, jobs), namesOf(y, jobs)];
  const series = groups.all.map(({ name, members, colour }) => ({
    name,
    colour,
    scatter: true,
    stamp: `${x.name} ${y.name} ${members.length}`,
    markers: true,
    points: members
      .map((job) => ({ x: x.of(job), y: y.of(job), label: job.title, id: job.id }))
      .filter((point) => point.x !== null && point.y !== null)
      .map((point) => ({ ...point, ...(across && { x: textOf(point.x) }), ...(up && { y: textOf(point.y) }) })),
  }));
  const [logX, logY] = [url.get("logx") === "1", url.get("logy") === "1"];
  return chart({
    key: "scatter",
    title: `${y.title} by ${x.title}`.replace(/^./, (c) => c.toUpperCase()),
    note: `a point a job, images: ${datasets.join(", ")}`,
    series,
    axes: {
      x: x.title,
      y: y.title,
      logX,
      logY: logY && !up,
      categories: across,
      categoriesY: up,
      formatX: across ? String : (value) => significant(value, 5),
      formatY: up ? String : y.format,
    },
    height: 380,
    brush: { picked: picked(), pick, pointAt },
    exported: {
      path: "/v1/scatter",
      query: { ...figureOf(groups), x: x.name, y: y.name, log_x: logX || null, log_y: logY || null },
      name: "scatter",
      say,
    },
  });
}
