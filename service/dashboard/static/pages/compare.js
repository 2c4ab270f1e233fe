/* A comparison of jobs: the differences of their specifications, their metrics and their curves. */

import { get } from "../api.js";
import { chart, pointing } from "../chart.js";
import { axesOf, drawing, drawingControls, figureQuery } from "../curves.js";
import { CurveSet } from "../curveset.js";
import { tableExport } from "../exports.js";
import { distinct, flat, isFraction, isolated, metricName, metricValue, plain, whole } from "../format.js";
import { advance } from "../live.js";
import { metricsOf } from "../metrics.js";
import { choice, emptyState, linkButton, notice, picker, problemNotice } from "../parts.js";
import { Resource } from "../resource.js";
import { swatch } from "../series.js";
import { statusMark } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { signed } from "./comparisons.js";
import { bestNote, metricOf, outcomes } from "../vocabulary.js";

const MOST = 20;

/** The notes on the best values of these jobs, each once. */
const notesOf = (name, all) =>
  [...new Set(all.map(({ job }) => bestNote(name, job.spec)))].filter(Boolean).join("; other jobs: ") || null;

export default function comparePage(shell) {
  const compared = new Resource(shell.refresh);
  const curves = new CurveSet(shell);
  let opened = false;

  const ids = () => url.list("jobs").slice(0, MOST);

  function onevent(event) {
    const entry = compared.data?.find(({ job }) => job.id === event.data.job);
    if (!entry) return;
    entry.job = advance(entry.job, event);
    curves.take(event);
    // The first value of a metric can change which one is shown.
    if (event.type === "metrics") loadCurves();
    shell.refresh();
  }

  async function load() {
    if (!opened) {
      opened = true;
      await shell.live("/v1/events", {}, onevent);
    }
    if (!ids().length) return;
    await compared.load(ids().join(), (signal) =>
      Promise.all(ids().map(async (id) => ({ job: await get(`/v1/jobs/${id}`, {}, { signal }) }))),
    );
    if (compared.data) loadCurves();
  }

  const names = () => metricsOf(compared.data.map(({ job }) => job));
  const metric = () => url.get("metric", names()[0] ?? outcomes()[0]);
  const loadCurves = () => curves.load(ids(), metric(), drawing().smooth);

  const nameOf = (job, all) => {
    const names = all.map(({ job: one }) => {
      const twins = one.name && all.filter((other) => other.job.name === one.name).length > 1;
      return twins ? `${isolated(one.title)}, seed ${one.spec.seed}` : one.title;
    });
    return distinct(names)[all.findIndex((one) => one.job.id === job.id)];
  };

  function heads(all) {
    return all.map(({ job }, n) =>
      h(
        "th",
        { key: job.id, scope: "col", ...pointing("curves", job.id) },
        swatch({ colour: n }),
        h("a", { href: `/jobs/${job.id}` }, nameOf(job, all)),
        " ",
        all.length > 2 &&
          h(
            "a",
            {
              class: "muted",
              href: url.with({
                jobs: ids()
                  .filter((id) => id !== job.id)
                  .join(","),
              }),
              "aria-label": `Leave ${nameOf(job, all)} out`,
              title: "Leave out",
            },
            "×",
          ),
      ),
    );
  }

  function specification(all) {
    const specs = all.map(({ job }) => flat(job.spec));
    const fields = [...new Set(specs.flatMap(Object.keys))];
    const differs = (field) => new Set(specs.map((spec) => plain(spec[field]))).size > 1;
    const everything = url.get("all") === "1";
    const shown = fields.filter((field) => everything || differs(field));
    return h(
      "section",
      { class: "card", key: "spec" },
      h(
        "header",
        {},
        h("h2", {}, "Specification"),
        h(
          "div",
          { class: "actions" },
          choice(
            "Fields",
            [
              ["0", `What differs (${fields.filter(differs).length})`],
              ["1", "Everything"],
            ],
            everything ? "1" : "0",
            (value) => url.change({ all: value === "1" ? "1" : null }),
          ),
          shown.length > 0 && tableExport({ name: "specification", say: shell.say }),
        ),
      ),
      shown.length
        ? h(
            "div",
            { class: "scroll", tabindex: "0", role: "region", "aria-label": "Specification" },
            h(
              "table",
              { class: "comparison" },
              h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Field"), heads(all))),
              h(
                "tbody",
                {},
                shown.map((field) =>
                  h(
                    "tr",
                    { key: field },
                    h("th", { scope: "row" }, h("code", {}, field)),
                    specs.map((spec, n) =>
                      h("td", { key: n, class: differs(field) ? "differs" : null }, plain(spec[field])),
                    ),
                  ),
                ),
              ),
            ),
          )
        : h("div", { class: "body muted" }, "These jobs have the same specification."),
    );
  }

  /** The job whose values the others are compared with; null: none. */
  const baseline = (all) => all.find(({ job }) => job.id === url.get("baseline"))?.job ?? null;

  const baselinePicker = (all) =>
    all.length > 1 &&
    picker(
      "Differences to",
      [["", "No differences"], ...all.map(({ job }) => [job.id, `Differences to ${nameOf(job, all)}`])],
      baseline(all)?.id ?? "",
      (id) => url.change({ baseline: id || null }, { replace: true }),
      { hiddenLabel: true },
    );

  /** The difference of a value to that of the baseline, where both have one. */
  function difference(name, part, job, base) {
    const [value, reference] = [job, base].map((one) => one?.summary[name]?.[part]);
    if (!base || base.id === job.id || !Number.isFinite(value) || !Number.isFinite(reference)) return null;
    return [" ", h("span", { class: "difference" }, signed(name, value - reference))];
  }

  function metrics(all) {
    const base = baseline(all);
    const rows = names().flatMap((name) =>
      name === "learning_rate"
        ? [[name, "last"]]
        : [
            [name, "best"],
            [name, "last"],
          ],
    );
    const leading = (name, part) => {
      const values = all.map(({ job }) => job.summary[name]?.[part]).filter((value) => value !== undefined);
      const { better } = metricOf(name);
      if (better === null || new Set(values).size < 2) return null;
      return better === "higher" ? Math.max(...values) : Math.min(...values);
    };
    return h(
      "section",
      { class: "card", key: "metrics" },
      h(
        "header",
        {},
        h("h2", {}, "Metrics"),
        h("small", {}, "the best value of each row is marked ✓"),
        h("div", { class: "actions" }, baselinePicker(all), tableExport({ name: "metrics", say: shell.say })),
      ),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Metrics" },
        h(
          "table",
          { class: "comparison" },
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Metric"), heads(all))),
          h(
            "tbody",
            {},
            h(
              "tr",
              { key: "status" },
              h("th", { scope: "row" }, "status"),
              all.map(({ job }) => h("td", { key: job.id }, statusMark(job.status))),
            ),
            rows.map(([name, part]) =>
              h(
                "tr",
                { key: `${part} ${name}` },
                h(
                  "th",
                  { scope: "row", title: part === "best" ? notesOf(name, all) : null },
                  `${part} ${metricName(name)}`,
                ),
                all.map(({ job }) => {
                  const entry = job.summary[name];
                  const leads = entry && entry[part] === leading(name, part);
                  return h(
                    "td",
                    {
                      key: job.id,
                      class: leads ? "least" : null,
                      title: entry ? `at step ${whole(entry[`${part}_step`])}` : null,
                    },
                    leads ? "✓ " : "",
                    metricValue(name, entry?.[part]),
                    difference(name, part, job, base),
                  );
                }),
              ),
            ),
          ),
        ),
      ),
    );
  }

  function overlaid(all) {
    const how = drawing();
    const base = baseline(all);
    const factor = isFraction(metric()) ? 100 : 1;
    const lastOf = (points) => points.findLast(({ y }) => y !== null)?.y ?? null;
    const reference = base && lastOf(curves.points(base.id, how));
    const series = all.map(({ job }, n) => {
      const points = curves.points(job.id, how);
      const last = lastOf(points);
      const differs = base && job.id !== base.id && last !== null && reference !== null;
      const suffix = differs ? ` (${signed(metric(), (last - reference) / factor)})` : "";
      return { id: job.id, name: nameOf(job, all) + suffix, points, colour: n };
    });
    const pick = picker(
      "Metric",
      names().map((name) => [name, metricName(name)]),
      metric(),
      (value) => url.change({ metric: value }),
      { hiddenLabel: true },
    );
    return [
      h("div", { class: "toolbar", key: "how" }, pick, drawingControls()),
      chart({
        key: "curves",
        title: metricName(metric()).replace(/^./, (c) => c.toUpperCase()),
        series,
        axes: axesOf(metric(), how),
        height: 420,
        reading: curves.resource.pending,
        exported: {
          path: "/v1/curves",
          query: {
            ...figureQuery(how),
            job: all.map(({ job }) => job.id).filter((id) => !url.all("hidden").includes(id)),
            metric: metric(),
          },
          name: `curves-${metric()}`,
          say: shell.say,
        },
      }),
    ];
  }

  return {
    title: () => "Compare",
    load,
    view() {
      const all = compared.data;
      const heading = h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "Compare"),
        h("div", { class: "actions" }, linkButton("All jobs", "/jobs")),
      );
      if (ids().length < 1)
        return [
          heading,
          emptyState(
            "Nothing to compare",
            "Select two or more jobs in the table of jobs, then choose Compare.",
            linkButton("All jobs", "/jobs", { kind: "primary" }),
          ),
        ];
      if (!all)
        return [
          heading,
          compared.problem
            ? problemNotice(compared.problem, () => compared.reload())
            : h("div", { class: "empty", "aria-busy": "true" }, "Reading the jobs…"),
        ];
      const datasets = [...new Set(all.map(({ job }) => job.spec.dataset.name))];
      return [
        heading,
        h("p", { class: "muted", key: "images" }, `Images: ${datasets.join(", ")}.`),
        url.list("jobs").length > MOST &&
          notice("warn", null, `The first ${MOST} of ${url.list("jobs").length} jobs are shown.`),
        compared.problem && problemNotice(compared.problem, () => compared.reload()),
        curves.resource.problem && problemNotice(curves.resource.problem, () => curves.resource.reload()),
        overlaid(all),
        metrics(all),
        specification(all),
      ];
    },
    close() {
      compared.close();
      curves.close();
    },
  };
}
