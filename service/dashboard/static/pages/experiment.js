/* One experiment: its results while its jobs run. */

import { download, get, withQuery } from "../api.js";
import { chart } from "../chart.js";
import { drawing, drawingControls } from "../curves.js";
import { exportMenu, tableExport } from "../exports.js";
import { duration, isFraction, metricName, metricValue, whole } from "../format.js";
import { advance } from "../live.js";
import { share } from "../metrics.js";
import { button, facts, linkButton, picker, problemNotice, progressBar, unavailable } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { statusMark } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { bestNote, experimentStatus, isActive, metricOf, outcomes, specification } from "../vocabulary.js";
import { CellCurves } from "./cellcurves.js";
import { assumptions, comparisonsCard } from "./comparisons.js";
import { cellKey, heatmap } from "./heatmap.js";
import { steering } from "./steering.js";
import { stageChoice, tuningCard } from "./tuning.js";

const statisticsOf = (metric, base) => [
  ["final", "final"],
  ["median_last_5", "median of the last 5"],
  ["best", ["best", bestNote(metric, base)].filter(Boolean).join(", ")],
];
const FAILED = [
  ["omitted", "failed jobs omitted"],
  ["chance", "failed jobs count as a guess"],
];
const REREAD_MS = 2000;

const isError = (name) => metricOf(name).quantity === "error";

export default function experimentPage(shell, id) {
  const experiment = new Resource(shell.refresh);
  const results = new Resource(shell.refresh);
  const active = new Resource(shell.refresh);
  const curves = new CellCurves(shell, id);
  const reread = throttled(async () => {
    experiment.reload();
    active.reload();
    await results.reload();
    loadCurves();
  }, REREAD_MS);
  const progressed = throttled(() => experiment.reload(), REREAD_MS);
  let opened = false;

  const metric = () => url.get("metric", results.data?.metric ?? outcomes()[0]);
  const statistic = () => url.get("statistic", results.data?.statistic ?? "final");
  const failed = () => url.get("failed", "omitted");
  const question = () => ({
    metric: url.get("metric"),
    statistic: url.get("statistic"),
    failed: isError(metric()) ? url.get("failed") : null,
  });
  const asked = () => ({ ...question(), stage: url.get("stage") });
  const chosen = () => url.all("cell");
  const heading = steering(shell, id, {
    asked,
    changed(answer) {
      experiment.data = answer;
      reread();
      shell.refresh();
    },
  });
  const table = (type, ending, part = null) =>
    download(
      withQuery(`/v1/experiments/${id}/results`, { ...asked(), table: part }),
      part ? `${id}-${part}.${ending}` : `${id}.${ending}`,
      type,
    );
  const toggle = (key) =>
    url.change({ cell: chosen().includes(key) ? chosen().filter((one) => one !== key) : [...chosen(), key] });

  function onevent(event) {
    if (active.data) active.data = active.data.map((job) => advance(job, event));
    curves.take(event);
    // A job has a value once it has ended; until then only the progress changes.
    if (event.type === "status") reread();
    else if (event.type === "metrics") progressed();
    shell.refresh();
  }

  async function load() {
    if (!opened) {
      opened = true;
      await shell.live("/v1/events", { experiment: id }, onevent);
    }
    experiment.load(id, (signal) => get(`/v1/experiments/${id}`, {}, { signal }));
    active.load(
      id,
      async (signal) =>
        (
          await get(
            "/v1/jobs",
            {
              experiment: id,
              status: specification.statuses.filter((one) => one.active).map((one) => one.name),
              limit: 200,
            },
            { signal },
          )
        ).data,
    );
    await results.load(JSON.stringify(asked()), (signal) => get(`/v1/experiments/${id}/results`, asked(), { signal }));
    loadCurves();
  }

  const loadCurves = () => results.data && curves.load(cellsDrawn(), results.data, metric());

  const cellsDrawn = () => {
    const { cells } = results.data;
    const picked = cells.filter((cell) => chosen().includes(cellKey(cell)));
    return picked.length ? picked : cells;
  };

  function standing(it) {
    const device = (results.data?.cells ?? []).reduce((sum, cell) => sum + cell.device_s, 0);
    return h(
      "section",
      { class: "card", key: "standing", "aria-label": "Progress" },
      h(
        "div",
        { class: "body live" },
        progressBar(it.progress, "Progress of the experiment"),
        facts(
          [
            ["Done", `${Math.floor(100 * it.progress)} %`],
            ["Time left", experimentStatus(it.status).ended ? "–" : duration(it.eta_s)],
            ["Computed", duration(device)],
            ...(it.precision ? [["Precision", it.precision]] : []),
            ...Object.entries(it.counts)
              .filter(([, count]) => count)
              .map(([status, count]) => [
                status,
                h("a", { href: `/jobs?experiment=${id}&status=${status}` }, whole(count)),
              ]),
          ],
          { class: "facts big" },
        ),
        it.sequential &&
          h(
            "p",
            { class: "muted" },
            `Sequential seeds: interim analysis ${it.sequential.interim_analysis} of ${it.sequential.interim_analyses.length} (at ${it.sequential.interim_analyses.join(", ")} seeds). ${it.sequential.procedure}`,
          ),
      ),
    );
  }

  /** The row whose differences to the others are shown; empty for none. */
  const baseline = ({ rows }) => rows.values.find(({ label }) => label === url.get("baseline"))?.label ?? "";

  function answer(it) {
    const running = (cell) =>
      (active.data ?? []).filter((job) => cell.jobs.includes(job.id) && isActive(job.status)).map(share);
    return h(
      "section",
      { class: "card", key: "answer", "aria-busy": String(results.pending && !results.data) },
      h(
        "header",
        {},
        h("h2", {}, `${metricName(metric()).replace(/^./, (c) => c.toUpperCase())}, mean over seeds`),
        h("small", {}, "a stronger colour is a higher value"),
        h(
          "div",
          { class: "actions" },
          stageChoice(it),
          picker(
            "Metric",
            outcomes().map((name) => [name, metricName(name)]),
            metric(),
            (value) => url.change({ metric: value }),
            { hiddenLabel: true },
          ),
          picker(
            "Statistic",
            statisticsOf(metric(), experiment.data.request.base),
            statistic(),
            (value) => url.change({ statistic: value }),
            {
              hiddenLabel: true,
            },
          ),
          isError(metric()) && (failed() !== "omitted" || it.cells.some((cell) => cell.failed))
            ? picker("Failed jobs", FAILED, failed(), (value) => url.change({ failed: value }), { hiddenLabel: true })
            : null,
          it.rows.values.length > 1 &&
            picker(
              "Differences to",
              [["", "No differences"], ...it.rows.values.map(({ label }) => [label, `Differences to ${label}`])],
              baseline(it),
              (value) => url.change({ baseline: value || null }, { replace: true }),
              { hiddenLabel: true },
            ),
          exportMenu(
            [
              ["CSV of the cells", () => table("text/csv", "csv")],
              ["CSV of every value", () => table("text/csv", "csv", "observations")],
              ["LaTeX, with the comparisons", () => table("application/x-latex", "tex")],
            ],
            shell.say,
          ),
        ),
      ),
      heatmap(it, { metric: metric(), chosen: chosen(), toggle, shares: running, baseline: baseline(it) }),
      h(
        "div",
        { class: "below" },
        h(
          "small",
          {},
          `Evaluated on: ${it.evaluated_on}. ${it.datasets.join(", ")}. ${Math.round(100 * it.confidence)} % intervals of the mean by the t distribution.`,
        ),
        chosen().length
          ? h(
              "span",
              { class: "push" },
              button(`Show all cells`, () => url.change({ cell: null }), { kind: "quiet" }),
            )
          : null,
      ),
    );
  }

  function figure(it) {
    const factor = isFraction(metric()) ? 100 : 1;
    const series = it.rows.values.map(({ label }, n) => ({
      id: `figure ${label}`,
      name: label,
      colour: n,
      markers: true,
      stamp: JSON.stringify(it.cells.filter((cell) => cell.row === label).map((cell) => [cell.mean, cell.interval])),
      points: it.columns.values
        .map(({ label: column }) => [column, it.cells.find((cell) => cell.row === label && cell.column === column)])
        .filter(([, cell]) => cell?.mean !== null && cell !== undefined)
        .map(([column, cell]) => ({
          x: column,
          y: cell.mean * factor,
          ...(cell.interval ? { low: cell.interval[0] * factor, high: cell.interval[1] * factor } : {}),
        })),
    }));
    const format = (value) => metricValue(metric(), value / factor);
    const hidden = url.all("hidden");
    const shown = it.rows.values.map(({ label }) => label).filter((label) => !hidden.includes(`figure ${label}`));
    return chart({
      key: "figure",
      title: `${metricName(metric()).replace(/^./, (c) => c.toUpperCase())} by ${it.columns.field.replaceAll("_", " ")}`,
      note: it.datasets.join(", "),
      series,
      axes: {
        x: it.columns.field.replaceAll("_", " "),
        y: metricName(metric(), { unit: true }),
        categories: it.columns.values.map(({ label }) => label),
        formatX: String,
        formatY: format,
        logY: drawing().logY,
      },
      height: Math.min(560, Math.max(320, 80 + 92 * it.rows.values.length)),
      exported: {
        path: `/v1/experiments/${id}/figure`,
        query: { ...asked(), row: hidden.length ? shown : null, log_y: drawing().logY || null },
        name: `${id}-figure`,
        say: shell.say,
      },
    });
  }

  function chosenJobs(it) {
    const cells = it.cells.filter((cell) => chosen().includes(cellKey(cell)));
    if (!cells.length) return null;
    return h(
      "section",
      { class: "card", key: "chosen" },
      h(
        "header",
        {},
        h("h2", {}, cells.map((cell) => `${cell.row} at ${cell.column}`).join(", ")),
        h(
          "div",
          { class: "actions" },
          linkButton(
            "Compare them",
            url.with({ jobs: cells.flatMap((cell) => cell.jobs).join(","), metric: metric() }, "/compare"),
          ),
          tableExport({ name: `${id}-jobs`, say: shell.say }),
        ),
      ),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Jobs of the chosen cells" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Row", "Column", "Seed", "Job", metricName(metric())].map((name) =>
                h("th", { key: name, scope: "col" }, name),
              ),
            ),
          ),
          h(
            "tbody",
            {},
            cells.flatMap((cell) => cell.jobs.map((job) => jobRow(cell, job))),
          ),
        ),
      ),
    );
  }

  function jobRow(cell, job) {
    const value = cell.values.find((one) => one.job === job);
    const live = (active.data ?? []).find((one) => one.id === job);
    return h(
      "tr",
      { key: job },
      h("td", {}, cell.row),
      h("td", {}, cell.column),
      h("td", {}, value?.seed ?? live?.spec.seed ?? "–"),
      h("th", { scope: "row" }, h("a", { href: `/jobs/${job}` }, job)),
      h("td", {}, value ? metricValue(metric(), value.value) : live ? statusMark(live.status) : "no value yet"),
    );
  }

  return {
    title: () => experiment.data?.title ?? id,
    load,
    view() {
      const it = experiment.data;
      if (!it)
        return experiment.problem
          ? unavailable(experiment.problem, () => experiment.reload(), ["All experiments", "/experiments"])
          : h("div", { class: "empty", "aria-busy": "true" }, "Reading the experiment…");
      const answered = results.data;
      return [
        heading(it),
        answered && h("p", { class: "headline", key: "headline" }, answered.headline),
        standing(it),
        results.problem && problemNotice(results.problem, () => results.reload()),
        answered
          ? [
              h("div", { class: "columns", key: "results" }, answer(answered), figure(answered)),
              chosenJobs(answered),
              tuningCard(answered, id, shell.say),
              h(
                "div",
                { class: "columns roomy", key: "detail" },
                comparisonsCard(answered, metric(), tableExport({ name: `${id}-comparisons`, say: shell.say })),
                h(
                  "div",
                  { class: "live", key: "curves" },
                  drawingControls(),
                  curves.view(metric(), chosen().length > 0),
                ),
              ),
              assumptions(answered.warnings),
            ]
          : results.problem
            ? null
            : h(
                "section",
                { class: "card", key: "answer", "aria-busy": "true" },
                h("div", { class: "empty" }, "Computing the results…"),
              ),
      ];
    },
    close() {
      for (const resource of [experiment, results, active]) resource.close();
      curves.close();
      reread.cancel();
      progressed.cancel();
    },
  };
}
