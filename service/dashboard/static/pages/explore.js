/* Jobs as points and as lines: any two quantities against each other, and several side by side. */

import { get } from "../api.js";
import { chart } from "../chart.js";
import { duration, flat, isFraction, metricName, metricValue, plain, significant } from "../format.js";
import { metricsOf } from "../metrics.js";
import { checklist, emptyState, linkButton, notice, picker, problemNotice } from "../parts.js";
import { Resource } from "../resource.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { outcomes } from "../vocabulary.js";
import { filterOf } from "./jobfilter.js";
import { parallel } from "./parallel.js";

const PAGE = 200;
const MOST = 1000;
const MOST_GROUPS = 8;
const NORMALIZATION = "normalization";

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
    const y = of("y", `${outcomes()[0]} last`);
    const groups = groupsOf(found, quantities.get(url.get("by")) ?? quantities.get(NORMALIZATION));
    const sides = url
      .list("axes", defaultSides(quantities, y))
      .map((name) => quantities.get(name))
      .filter(Boolean);
    return [
      more && notice("warn", null, `The newest ${found.length} jobs are shown.`),
      controls(quantities, { x, y, by: groups.by, sides }),
      scatter(groups, x, y),
      parallel(groups, sides, url.all("hidden")),
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

/** What the jobs have values of, by name: `{ name, title, of(job), format(value), numeric }`. */
function quantitiesOf(jobs) {
  const specs = jobs.map((job) => flat(job.spec));
  const fields = [...new Set(specs.flatMap(Object.keys))];
  const found = [{ name: NORMALIZATION, title: NORMALIZATION, of: (job) => job.normalization, format: plain }];
  for (const name of fields) {
    const of = (job) => at(job.spec, name);
    const values = new Set(specs.map((spec) => plain(spec[name])));
    if (values.size < 2 && name !== "batch_size") continue;
    found.push({ name, title: name.replaceAll("_", " "), of, format: plain, numeric: numeric(jobs, of) });
  }
  for (const name of metricsOf(jobs)) {
    const factor = isFraction(name) ? 100 : 1;
    for (const part of ["last", "best"]) {
      const of = (job) => scaled(job.summary?.[name]?.[part], factor);
      const format = (value) => (value === null ? "–" : metricValue(name, value / factor));
      found.push({
        name: `${name} ${part}`,
        title: `${part} ${metricName(name, { unit: true })}`,
        of,
        format,
        numeric: true,
      });
    }
  }
  const took = (job) => job.duration_s ?? null;
  found.push({ name: "duration", title: "duration (s)", of: took, format: duration, numeric: true });
  return new Map(found.map((one) => [one.name, one]));
}

const at = (spec, path) => path.split(".").reduce((value, name) => value?.[name], spec) ?? null;
const scaled = (value, factor) => (typeof value === "number" ? value * factor : null);
const numeric = (jobs, of) => jobs.every((job) => of(job) === null || typeof of(job) === "number");

/** The jobs by the values of one quantity, at most `MOST_GROUPS`; the rest is one group. */
function groupsOf(jobs, by) {
  const found = new Map();
  for (const job of jobs) {
    const value = by.format(by.of(job));
    found.set(value, [...(found.get(value) ?? []), job]);
  }
  const all = [...found].sort((a, b) => b[1].length - a[1].length || a[0].localeCompare(b[0]));
  const kept = all.slice(0, all.length > MOST_GROUPS ? MOST_GROUPS - 1 : MOST_GROUPS);
  const rest = all.slice(kept.length).flatMap(([, members]) => members);
  if (rest.length) kept.push(["others", rest]);
  return { by, all: kept.map(([name, members], colour) => ({ name, members, colour })) };
}

function defaultSides(quantities, y) {
  const fields = [...quantities.values()].filter(
    ({ name }) => !name.includes(" ") && !name.startsWith("normalization."),
  );
  return [...fields.map(({ name }) => name).filter((name) => name !== "duration"), y.name].slice(-6);
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
    picker("Horizontal axis", options(all.filter((one) => one.numeric)), x.name, set("x")),
    picker("Vertical axis", options(all.filter((one) => one.numeric)), y.name, set("y")),
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

function scatter(groups, x, y) {
  const series = groups.all.map(({ name, members, colour }) => ({
    name,
    colour,
    scatter: true,
    stamp: `${x.name} ${y.name} ${members.length}`,
    markers: true,
    points: members
      .map((job) => ({ x: x.of(job), y: y.of(job), label: job.title }))
      .filter((point) => point.x !== null && point.y !== null),
  }));
  return chart({
    key: "scatter",
    title: `${y.title} by ${x.title}`.replace(/^./, (c) => c.toUpperCase()),
    note: "a point a job",
    series,
    axes: {
      x: x.title,
      y: y.title,
      logX: url.get("logx") === "1",
      logY: url.get("logy") === "1",
      formatX: (value) => significant(value, 5),
      formatY: y.format,
    },
    height: 380,
  });
}
