/* One experiment: its answer, as it comes in. */

import { download, get, send } from "../api.js";
import { chart } from "../chart.js";
import { drawing, drawingControls } from "../curves.js";
import { duration, isFraction, metricName, metricValue, whole } from "../format.js";
import { advance } from "../live.js";
import { METRICS, share } from "../metrics.js";
import { button, confirmed, copyButton, facts, linkButton, picker, problemNotice, progressBar } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { isActive, statusMark } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { CellCurves } from "./cellcurves.js";
import { comparisonsCard, confounds } from "./comparisons.js";
import { experimentMark } from "./experiments.js";
import { cellKey, heatmap } from "./heatmap.js";

const STATISTICS = [
  ["final", "final"],
  ["best", "best"],
  ["median_last_5", "median of the last 5"],
];
const REREAD_MS = 2000;
const ENDED = ["finished", "cancelled"];

export default function experimentPage(shell, id) {
  const experiment = new Resource(shell.refresh);
  const results = new Resource(shell.refresh);
  const active = new Resource(shell.refresh);
  const curves = new CellCurves(shell);
  const reread = throttled(async () => {
    experiment.reload();
    active.reload();
    await results.reload();
    if (results.data) curves.load(cellsDrawn(), results.data);
  }, REREAD_MS);
  let opened = false;

  const metric = () => url.get("metric", results.data?.metric ?? "test_error");
  const statistic = () => url.get("statistic", results.data?.statistic ?? "final");
  const question = () => ({ metric: url.get("metric"), statistic: url.get("statistic") });
  const chosen = () => url.all("cell");
  const toggle = (key) => url.change({ cell: chosen().includes(key) ? chosen().filter((one) => one !== key) : [...chosen(), key] });

  function onevent(event) {
    if (active.data) active.data = active.data.map((job) => advance(job, event));
    curves.take(event);
    if (event.type === "status" || (event.type === "metrics" && event.data.kind === "eval")) reread();
    shell.refresh();
  }

  async function load() {
    if (!opened) {
      opened = true;
      await shell.live("/v1/events", { experiment: id }, onevent);
    }
    experiment.load(id, (signal) => get(`/v1/experiments/${id}`, {}, { signal }));
    active.load(id, async (signal) => (await get("/v1/jobs", { experiment: id, status: ["starting", "running", "pausing", "cancelling"], limit: 200 }, { signal })).data);
    await results.load(JSON.stringify(question()), (signal) => get(`/v1/experiments/${id}/results`, question(), { signal }));
    if (results.data) curves.load(cellsDrawn(), results.data);
  }

  const cellsDrawn = () => {
    const { cells } = results.data;
    const picked = cells.filter((cell) => chosen().includes(cellKey(cell)));
    return picked.length ? picked : cells;
  };

  async function ask(verb, question_ = null) {
    if (question_ && !confirmed(question_)) return;
    try {
      if (verb === "delete") {
        await send("DELETE", `/v1/experiments/${id}`);
        return url.go("/experiments");
      }
      experiment.data = await send("POST", `/v1/experiments/${id}/${verb}`);
      shell.say({ pause: "All its jobs are told to pause.", resume: "Its paused jobs are queued again.", cancel: "All its jobs are told to stop." }[verb]);
      reread();
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
    shell.refresh();
  }

  async function addSeeds(it) {
    const seeds = it.grid.seed ?? [0];
    const answer = window.prompt("How many more seeds should every cell get?", "2");
    const count = Number(answer);
    if (answer === null || !Number.isInteger(count) || count < 1) return;
    const next = Math.max(...seeds) + 1;
    try {
      experiment.data = await send("PATCH", `/v1/experiments/${id}`, { grid: { seed: Array.from({ length: count }, (_, n) => next + n) } });
      shell.say(`Every cell gets ${count} more ${count === 1 ? "seed" : "seeds"}.`);
      reread();
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
    shell.refresh();
  }

  async function csv() {
    try {
      const query = new URLSearchParams(Object.entries(question()).filter(([, value]) => value));
      await download(`/v1/experiments/${id}/results?${query}`, `${id}.csv`, "text/csv");
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  async function bundle() {
    try {
      await download(`/v1/experiments/${id}/bundle`, `${id}.tar`);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  function cloneAddress({ request: it }) {
    const { normalization, batch_size: sizes, seed, ...others } = it.grid;
    const [field, values] = Object.entries(others)[0] ?? [];
    const name = (one) => (typeof one === "object" ? [one.type, one.num_groups ?? (one.channels_per_group ? `${one.channels_per_group} ch` : "")].join(" ").trim() : one);
    return url.with({ kind: "experiment", ...flatten(it.base), name: it.name, "grid.normalization": normalization?.map(name).join(", "), "grid.batch_size": sizes?.join(", "), "grid.seed": seed?.join(", "), "grid.field": field, "grid.values": values?.join(", ") }, "/new");
  }

  function heading(it) {
    const ended = ENDED.includes(it.status);
    return h(
      "div",
      { class: "heading", key: "heading" },
      h("h1", {}, it.name || it.id),
      experimentMark(it.status),
      h(
        "div",
        { class: "actions" },
        !ended && !["pausing", "paused", "cancelling"].includes(it.status) && button("Pause", () => ask("pause"), { key: "pause" }),
        ["pausing", "paused"].includes(it.status) && button("Resume", () => ask("resume"), { key: "resume", kind: "primary" }),
        it.request.seeds || it.status === "cancelled" ? null : button("Add seeds", () => addSeeds(it), { key: "seeds" }),
        linkButton("Clone", cloneAddress(it), { key: "clone" }),
        button("CSV", csv, { key: "csv", icon: "download" }),
        button("Bundle", bundle, { key: "bundle", icon: "download", title: "Specifications, metrics and results in one file, for another installation" }),
        !ended && it.status !== "cancelling" && button("Cancel", () => ask("cancel", "Stop all its jobs for good? Those that have ended keep what they reached."), { key: "cancel", kind: "danger" }),
        ended && button("Delete", () => ask("delete", "Delete this experiment with all its jobs and their checkpoints? This cannot be undone."), { key: "delete", kind: "danger" }),
      ),
      h("p", {}, `${whole(it.jobs)} jobs · `, h("a", { href: `/jobs?experiment=${id}` }, "show them"), it.budget < 1 ? ` · budget ${it.budget}: a look at a fraction of the cost, not the whole` : "", " · ", h("span", { class: "hash" }, id), copyButton(id, "Copy the id of the experiment", shell.say)),
    );
  }

  function standing(it) {
    const device = (results.data?.cells ?? []).reduce((sum, cell) => sum + cell.device_s, 0);
    return h(
      "section",
      { class: "card", key: "standing", "aria-label": "Progress" },
      h(
        "div",
        { class: "body live" },
        progressBar(it.progress, "Progress of the experiment"),
        facts([["Done", `${Math.floor(100 * it.progress)} %`], ["Time left", ENDED.includes(it.status) ? "–" : duration(it.eta_s)], ["Computed", duration(device)], ...Object.entries(it.counts).filter(([, count]) => count).map(([status, count]) => [status, h("a", { href: `/jobs?experiment=${id}&status=${status}` }, whole(count))])], { class: "facts big" }),
        it.sequential && h("p", { class: "muted" }, `Sequential seeds: look ${it.sequential.look} of ${it.sequential.looks.length} (${it.sequential.looks.join(", ")} seeds). ${it.sequential.procedure}`),
      ),
    );
  }

  function answer(it) {
    const running = (cell) => (active.data ?? []).filter((job) => cell.jobs.includes(job.id) && isActive(job.status)).map(share);
    return h(
      "section",
      { class: "card", key: "answer", "aria-busy": String(results.pending && !results.data) },
      h(
        "header",
        {},
        h("h2", {}, `${metricName(metric()).replace(/^./, (c) => c.toUpperCase())}, mean over seeds`),
        h("small", {}, "the stronger the colour, the higher"),
        h("div", { class: "actions" }, picker("Metric", METRICS.map((name) => [name, metricName(name)]), metric(), (value) => url.change({ metric: value }), { hiddenLabel: true }), picker("Statistic", STATISTICS, statistic(), (value) => url.change({ statistic: value }), { hiddenLabel: true })),
      ),
      heatmap(it, { metric: metric(), chosen: chosen(), toggle, shares: running }),
      h("div", { class: "below" }, h("small", {}, `Evaluated on: ${it.evaluated_on}. ${it.datasets.join(", ")}. ${Math.round(100 * it.confidence)} % intervals of the mean by the t distribution.`), chosen().length ? h("span", { class: "push" }, button(`Show all cells`, () => url.change({ cell: null }), { kind: "quiet" })) : null),
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
        .map(([column, cell]) => ({ x: column, y: cell.mean * factor, ...(cell.interval ? { low: cell.interval[0] * factor, high: cell.interval[1] * factor } : {}) })),
    }));
    const format = (value) => metricValue(metric(), value / factor);
    return chart({ key: "figure", title: `${metricName(metric()).replace(/^./, (c) => c.toUpperCase())} by ${it.columns.field.replaceAll("_", " ")}`, series, axes: { x: it.columns.field.replaceAll("_", " "), y: metricName(metric(), { unit: true }), categories: it.columns.values.map(({ label }) => label), formatX: String, formatY: format, logY: drawing().logY }, height: Math.min(560, Math.max(320, 80 + 92 * it.rows.values.length)) });
  }

  function chosenJobs(it) {
    const cells = it.cells.filter((cell) => chosen().includes(cellKey(cell)));
    if (!cells.length) return null;
    return h(
      "section",
      { class: "card", key: "chosen" },
      h("header", {}, h("h2", {}, cells.map((cell) => `${cell.row} at ${cell.column}`).join(", ")), h("div", { class: "actions" }, linkButton("Compare them", url.with({ jobs: cells.flatMap((cell) => cell.jobs).join(","), metric: metric() }, "/compare")))),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Jobs of the chosen cells" }, h("table", {}, h("thead", {}, h("tr", {}, ["Row", "Column", "Seed", "Job", metricName(metric())].map((name) => h("th", { key: name, scope: "col" }, name)))), h("tbody", {}, cells.flatMap((cell) => cell.jobs.map((job) => jobRow(cell, job)))))),
    );
  }

  function jobRow(cell, job) {
    const value = cell.values.find((one) => one.job === job);
    const live = (active.data ?? []).find((one) => one.id === job);
    return h("tr", { key: job }, h("td", {}, cell.row), h("td", {}, cell.column), h("td", {}, value?.seed ?? live?.spec.seed ?? "–"), h("th", { scope: "row" }, h("a", { href: `/jobs/${job}` }, job)), h("td", {}, value ? metricValue(metric(), value.value) : live ? statusMark(live.status) : "no value yet"));
  }

  return {
    title: () => experiment.data?.name || id,
    load,
    view() {
      const it = experiment.data;
      if (!it) return experiment.problem ? problemNotice(experiment.problem, () => experiment.reload()) : h("div", { class: "empty", "aria-busy": "true" }, "Reading the experiment…");
      const table = results.data;
      return [
        heading(it),
        standing(it),
        results.problem && problemNotice(results.problem, () => results.reload()),
        table ? [h("div", { class: "columns", key: "results" }, answer(table), figure(table)), chosenJobs(table), h("div", { class: "columns", key: "detail" }, comparisonsCard(table, metric()), h("div", { class: "live", key: "curves" }, drawingControls(), curves.view(metric(), chosen().length > 0))), confounds(table.warnings)] : results.problem ? null : h("section", { class: "card", key: "answer", "aria-busy": "true" }, h("div", { class: "empty" }, "Computing the results…")),
      ];
    },
    close() {
      for (const resource of [experiment, results, active]) resource.close();
      curves.close();
      reread.cancel();
    },
  };
}

const flatten = (base, prefix = "") => Object.fromEntries(Object.entries(base ?? {}).flatMap(([name, value]) => (value !== null && typeof value === "object" && !Array.isArray(value) ? Object.entries(flatten(value, `${prefix}${name}.`)) : value === null ? [] : [[prefix + name, String(value)]])));
