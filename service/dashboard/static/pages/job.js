/* One job: its progress, metrics, layers, logs, checkpoints and specification. */

import { get } from "../api.js";
import { jobButtons } from "../actions.js";
import { chart } from "../chart.js";
import { axesOf, drawing, drawingControls, figureQuery, withRow } from "../curves.js";
import { CurveSet } from "../curveset.js";
import { tableExport } from "../exports.js";
import { duration, flat, metricName, metricValue, plain, significant, whole } from "../format.js";
import { advance } from "../live.js";
import { labelTags, share, submitterLink } from "../metrics.js";
import { copyButton, facts, notice, problemNotice, progressBar, tabs, unavailable } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { shared } from "../session.js";
import { statusMark } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { bestNote, isActive, metricOf } from "../vocabulary.js";
import { attemptsCard, historyCard } from "./attempts.js";
import { checkpointTable } from "./checkpoints.js";
import { Evaluations } from "./evaluations.js";
import { LogView } from "./logs.js";
import { Notes } from "./notes.js";
import { QueuePlace } from "./queueplace.js";
import { MOST_EPOCHS, telemetryCards } from "./telemetry.js";

const TABS = [
  ["overview", "Overview"],
  ["layers", "Layers"],
  ["logs", "Logs"],
  ["checkpoints", "Checkpoints"],
  ["spec", "Effective configuration"],
];
/** The parts that the link of a share does not show. */
const CLOSED = new Set(["logs", "checkpoints"]);
const REREAD_MS = 1000;

const CHARTED = ["error", "loss", "throughput", "learning_rate"];

export default function jobPage(shell, id) {
  const job = new Resource(shell.refresh);
  const curves = new CurveSet(shell);
  const checkpoints = new Resource(shell.refresh);
  const telemetry = new Resource(shell.refresh);
  const evaluated = new Resource(shell.refresh);
  const evaluations = new Evaluations(shell, evaluated);
  const logs = new LogView(shell, id);
  const notes = new Notes(shell, id, (answer) => (job.data = answer));
  const place = new QueuePlace(shell, id, (answer) => (job.data = answer));
  const reread = throttled(() => job.reload().then(loadCurves), REREAD_MS);
  let opened = false;

  function onevent(event) {
    const { type, data } = event;
    if (job.data) job.data = advance(job.data, event);
    curves.take(event);
    if (type === "metrics" && data.kind !== "telemetry") loadCurves();
    if (type === "metrics" && data.kind === "telemetry" && telemetry.data)
      telemetry.data = withRow(telemetry.data, data);
    if (type === "started" && telemetry.data)
      telemetry.data = telemetry.data.filter((row) => row.step <= data.resumed_from_step);
    if (type === "log") logs.add(data);
    if (type === "checkpoint" && checkpoints.key) checkpoints.reload();
    // An answer that is on its way may be older than this event.
    const outdated = job.data && job.pending;
    if (outdated || ["status", "started", "end"].includes(type)) reread();
    shell.refresh();
  }

  async function load() {
    if (!opened) {
      opened = true;
      await shell.live(`/v1/jobs/${id}/events`, {}, onevent);
    }
    job.load(id, (signal) => get(`/v1/jobs/${id}`, {}, { signal })).then(loadCurves);
    const tab = url.get("tab", "overview");
    if (tab === "checkpoints") {
      checkpoints.load(id, (signal) => get(`/v1/jobs/${id}/checkpoints`, {}, { signal }));
      evaluated
        .load(id, async (signal) => (await get(`/v1/jobs/${id}/evaluations`, {}, { signal })).data)
        ?.then(() => evaluations.watch());
    }
    if (tab === "layers")
      telemetry.load(id, async (signal) => {
        const query = { kind: "telemetry", max_points: MOST_EPOCHS };
        return (await get(`/v1/jobs/${id}/metrics`, query, { signal })).data;
      });
    if (tab === "logs") logs.load();
  }

  /** The metrics of the job that have a chart, in an order that does not depend on which was reported first. */
  const metricNames = () =>
    Object.keys(job.data?.summary ?? {})
      .filter((name) => CHARTED.includes(metricOf(name).quantity) && metricOf(name).kind !== "telemetry")
      .sort();
  const loadCurves = () => curves.load([id], metricNames(), drawing().smooth);

  function heading(it) {
    return h(
      "div",
      { class: "heading", key: "heading" },
      h("h1", {}, it.title),
      statusMark(it.status),
      h(
        "div",
        { class: "actions" },
        jobButtons(it, shell, (answer) => ((job.data = answer), shell.refresh())),
      ),
      h(
        "p",
        {},
        `${it.normalization} · batch size ${sizeOf(it.spec)} · ${it.spec.model} · seed ${it.spec.seed} · ${it.precision ?? "precision auto"} · `,
        h("span", { class: "hash" }, it.id),
        copyButton(it.id, "Copy the id of the job", shell.say),
        it.submitted_by !== null && [" · submitted by ", submitterLink(it, "/jobs"), " "],
        labelTags(it),
      ),
    );
  }

  function live(it) {
    const error = it.metric;
    const { summary, progress } = it;
    const speed = progress?.images_per_s ?? summary.images_per_s?.last;
    return h(
      "section",
      { class: "card", key: "live", "aria-label": "Progress" },
      h(
        "div",
        { class: "body live" },
        progressBar(share(it), "Progress of the job"),
        facts(
          [
            [
              "Epoch",
              progress
                ? `${whole(Math.min(progress.epoch, progress.epochs ?? progress.epoch))} / ${whole(progress.epochs ?? it.spec.epochs)}`
                : `– / ${whole(it.spec.epochs)}`,
            ],
            ["Step", progress ? `${whole(progress.step)} / ${whole(progress.total_steps)}` : "–"],
            [`Last ${metricName(error)}`, metricValue(error, summary[error]?.last)],
            [
              `Best ${metricName(error)}`,
              metricValue(error, summary[error]?.best),
              summary[error]
                ? [`at step ${summary[error].best_step}`, bestNote(error, it.spec)].filter(Boolean).join("; ")
                : null,
            ],
            ["Train loss", metricValue("train_loss", progress?.train_loss ?? summary.train_loss?.last)],
            ["Images/s", whole(speed)],
            [
              isActive(it.status) ? "Time left" : "Duration",
              isActive(it.status) ? duration(progress?.eta_s) : duration(it.duration_s || null),
              isActive(it.status) ? null : "the time that its attempts ran, without the time queued or paused",
            ],
          ],
          { class: "facts big" },
        ),
      ),
    );
  }

  function overview(it) {
    const how = drawing();
    const names = metricNames();
    const { data: read, problem } = curves.resource;
    const measuring = (quantity) => names.filter((name) => metricOf(name).quantity === quantity);
    const groups = [
      ["error", "Error", measuring("error")],
      ["loss", "Loss", measuring("loss")],
      ["images_per_s", "Throughput", measuring("throughput")],
      ["learning_rate", "Learning rate", measuring("learning_rate")],
    ];
    const evaluated = (name) => (name.startsWith("train") ? 1 : 0);
    return [
      drawingControls(),
      problem && problemNotice(problem, () => curves.resource.reload()),
      h(
        "div",
        { class: "columns", key: "charts", "aria-busy": String(names.length > 0 && !read && !problem) },
        groups.map(([key, title, shown]) => {
          const axes = {
            ...axesOf(shown[0] ?? (key === "error" ? it.metric : key), how),
            ...(key === "error" ? { y: "error (%)" } : key === "loss" ? { y: "loss" } : {}),
          };
          const series = shown
            .sort((a, b) => evaluated(a) - evaluated(b))
            .map((name) => ({
              name: metricName(name),
              points: curves.points(id, how, name),
              colour: evaluated(name),
              dash: 0,
            }));
          const note = key === "images_per_s" ? stepTime(it) : null;
          const drawn = shown.filter((name) => !url.all("hidden").includes(metricName(name)));
          const exported = {
            path: "/v1/curves",
            query: { ...figureQuery(how), job: id, metric: drawn },
            name: `${id}-${key}`,
            say: shell.say,
          };
          return chart({ key, title, note, series, axes, exported });
        }),
        historyCard(it),
        attemptsCard(it, shell.say),
        notes.view(it),
      ),
    ];
  }

  const spec = (it) =>
    h(
      "section",
      { class: "card", key: "spec" },
      h(
        "header",
        {},
        h("h2", {}, "Effective configuration"),
        h(
          "div",
          { class: "actions" },
          copyButton(JSON.stringify(it.spec, null, 2), "Copy as JSON", shell.say),
          tableExport({ name: `${id}-configuration`, say: shell.say }),
        ),
      ),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Effective configuration" },
        h(
          "table",
          {},
          h(
            "tbody",
            {},
            Object.entries(flat(it.spec)).map(([name, value]) =>
              h("tr", { key: name }, h("th", { scope: "row" }, h("code", {}, name)), h("td", {}, plain(value))),
            ),
          ),
        ),
      ),
    );

  function content(it) {
    const tab = url.get("tab", "overview");
    if (tab === "layers") return telemetryCards(telemetry, it, shell.say);
    if (tab === "logs") return logs.view();
    if (tab === "checkpoints")
      return [
        checkpointTable(checkpoints, it.finished_at !== null, shell),
        evaluations.view(it, checkpoints.data?.data),
      ];
    return tab === "spec" ? spec(it) : overview(it);
  }

  return {
    title: () => (job.data ? job.data.title : id),
    load,
    view() {
      const it = job.data;
      if (!it)
        return job.problem
          ? unavailable(job.problem, () => job.reload(), ["All jobs", "/jobs"])
          : h("div", { class: "empty", "aria-busy": "true" }, "Reading the job…");
      return [
        heading(it),
        job.problem && problemNotice(job.problem, () => job.reload()),
        it.error &&
          h(
            "div",
            { key: "error" },
            notice(
              "bad",
              { diverged: "The loss diverged", out_of_memory: "Out of memory", lost: "The worker was lost too often" }[
                it.error.code
              ] ?? "The job failed",
              it.error.message,
            ),
          ),
        it.waits_for && h("div", { key: "waits" }, notice("info", "It does not start yet", it.waits_for)),
        !shared() && place.view(it),
        live(it),
        tabs(
          "Parts of the job",
          TABS.filter(([tab]) => (tab !== "layers" || it.spec.telemetry) && !(shared() && CLOSED.has(tab))),
          url.get("tab", "overview"),
          (tab) => url.with({ tab: tab === "overview" ? null : tab }),
        ),
        content(it),
        !shared() && links(it),
      ];
    },
    close() {
      for (const resource of [job, curves, checkpoints, telemetry, evaluated]) resource.close();
      evaluations.close();
      logs.close();
      place.close();
      reread.cancel();
    },
  };
}

/** The duration of an optimizer step at the current speed. */
function stepTime({ spec: { batch_size: size, num_workers: workers = 1 }, progress, summary }) {
  const speed = progress?.images_per_s ?? summary.images_per_s?.last;
  return speed ? `${significant((1000 * size * workers) / speed, 3)} ms per step` : null;
}

/** "2" for one worker, "2 × 4 workers" for several. */
const sizeOf = ({ batch_size: size, num_workers: workers }) => (workers > 1 ? `${size} × ${workers} workers` : size);

function links(job) {
  const path = `/v1/jobs/${job.id}`;
  return h(
    "p",
    { class: "muted", key: "links" },
    "Through the API: ",
    h("a", { href: path, target: "_blank", rel: "noopener" }, "job"),
    ", ",
    h("a", { href: `${path}/metrics`, target: "_blank", rel: "noopener" }, "metrics"),
    ", ",
    h("a", { href: `${path}/checkpoints`, target: "_blank", rel: "noopener" }, "checkpoints"),
    job.retry_of ? [". It repeats ", h("a", { href: `/jobs/${job.retry_of}` }, job.retry_of)] : "",
    job.extends ? [". It continues ", h("a", { href: `/jobs/${job.extends}` }, job.extends)] : "",
    job.experiment ? [". It belongs to ", h("a", { href: `/experiments/${job.experiment}` }, job.experiment)] : "",
    ".",
  );
}
