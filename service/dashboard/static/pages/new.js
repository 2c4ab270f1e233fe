/* New: the form of a job or of an experiment, and what it would cost before it is submitted. */

import { get, Problem, send } from "../api.js";
import { fieldset } from "../fields.js";
import { duration, whole } from "../format.js";
import { choice, copyButton, facts, notice, problemNotice } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { bodyOf, fieldAt, fieldsOf, texts } from "../schema.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { builtInCards, gridBody, gridFields, gridIs } from "./grid.js";

const FIRST = ["normalization", "batch_size", "model", "recipe", "epochs", "seed", "name", "labels"];
const RUNNING = ["checkpoint", "precision", "num_workers", "telemetry", "deterministic", "priority", "max_retries"];
const PREVIEW_MS = 400;

export default function newPage(shell) {
  const specification = new Resource(shell.refresh);
  const builtIns = new Resource(shell.refresh);
  const preview = new Resource(shell.refresh);
  let refused = null;
  let submitting = false;
  let cloned = null;

  const kind = () => url.get("kind", "job");
  const raw = (path) => url.get(path, path === "normalization.type" && kind() === "job" ? "group" : "");
  const touched = new Set();
  let tried = false;
  const set = (path, text) => setAll({ [path]: text });
  const setAll = (texts) => {
    const changed = Object.entries(texts).filter(([path, text]) => text !== raw(path));
    for (const path of Object.keys(texts)) touched.add(path);
    if (!changed.length) return shell.refresh();
    refused = null;
    url.change(Object.fromEntries(changed), { replace: true });
  };
  /** Whether one has been there: what nobody could fill in yet is not wrong yet. */
  const visited = (path) => tried || touched.has(path) || raw(path) !== "";
  /** What fills the fields that are left empty, before the defaults do: a built-in experiment, then a recipe. */
  const recipe = () => {
    const base =
      kind() === "experiment" ? builtIns.data?.find((one) => one.name === url.get("builtin"))?.request.base : null;
    return { ...specification.data?.recipes[raw("recipe") || base?.recipe], ...base };
  };
  const fields = () => {
    const all = fieldsOf(specification.data.job, { chosen: raw, recipe: recipe() });
    if (kind() === "job") return all;
    const inGrid = gridIs(raw);
    return all.filter(
      (field) =>
        !inGrid.some((name) => field.path === name || field.path.startsWith(`${name}.`)) && field.path !== "priority",
    );
  };

  function body() {
    const job = bodyOf(fields(), raw);
    if (kind() === "job") return { normalization: { type: "group" }, ...job };
    const { name, ...base } = job;
    const builtin = url.get("builtin");
    const budget = Number(url.get("budget", "1"));
    return {
      ...(name ? { name } : {}),
      ...(builtin ? { builtin } : {}),
      ...(Object.keys(base).length ? { base } : {}),
      ...(builtin ? {} : { grid: gridBody(raw) }),
      ...(budget < 1 ? { budget } : {}),
    };
  }

  /** What the service would make of it, as an experiment: a job is one of a single cell. */
  function dryRun() {
    const wanted = body();
    const { priority: _, name: __, ...base } = wanted;
    return kind() === "job" ? { base, grid: {} } : wanted;
  }

  const ask = throttled(() => {
    const wanted = dryRun();
    preview.load(JSON.stringify(wanted), (signal) => send("POST", "/v1/experiments?dry_run=true", wanted, { signal }));
  }, PREVIEW_MS);

  async function load() {
    const from = url.get("from");
    specification.load("specification", (signal) => get("/v1/specification", {}, { signal }));
    if (kind() === "experiment")
      builtIns.load("builtins", async (signal) => (await get("/v1/experiments/builtin", {}, { signal })).data);
    if (from && cloned !== from) {
      cloned = from;
      try {
        const job = await get(`/v1/jobs/${from}`);
        const { recipe: _, ...spec } = job.spec;
        return url.go(
          url.with({ ...texts(spec), name: job.name, labels: texts({ labels: job.labels }).labels, from: null }),
          { replace: true },
        );
      } catch (problem) {
        refused = problem;
      }
    }
    await specification.settled;
    if (specification.data) ask();
  }

  async function submit(event) {
    event.preventDefault();
    submitting = true;
    tried = true;
    refused = null;
    shell.refresh();
    try {
      const made = await send("POST", kind() === "job" ? "/v1/jobs" : "/v1/experiments", body());
      url.go(kind() === "job" ? `/jobs/${made.id}` : `/experiments/${made.id}`);
    } catch (problem) {
      refused = problem;
      requestAnimationFrame(() => document.querySelector("[aria-invalid=true]")?.focus());
    }
    submitting = false;
    shell.refresh();
  }

  /** The sentences about fields, of the refused submission or else of the dry run; and those that are about none. */
  function problems() {
    const source = refused ?? (preview.problem?.status === 422 ? preview.problem : null);
    const found = new Map();
    const waited = [];
    const rest = [];
    const paths = [...fields(), ...gridFields(raw)]
      .filter((field) => field.kind !== "group")
      .flatMap((field) => (field.union ? [field.path, field.union] : [field.path]));
    for (const { pointer, detail } of source?.fields ?? []) {
      const path = pointer && fieldAt(pointer.replace(/^\/base(?=\/)/, ""), paths);
      if (path && !visited(path)) waited.push(path);
      else if (path) found.set(path, detail);
      else rest.push(detail);
    }
    return { found, waited, rest: source && !source.fields.length ? [source.detail] : rest };
  }

  /** What the dry run needs before it can say anything. */
  function waiting({ found, waited }) {
    if (found.size) return "The fields that are marked need another value.";
    const names = waited.map(
      (path) =>
        fields()
          .find((field) => field.path === path)
          ?.label.toLowerCase() ?? path,
    );
    return names.length ? `Give the ${names.join(", the ")} to see what it would cost.` : "Asking the service…";
  }

  function cost(said) {
    const { data, problem } = preview;
    if (problem && problem.status !== 422)
      return problem.status === 404 ? null : problemNotice(problem, () => preview.reload());
    if (!data || problem) return h("p", { class: "muted" }, problem ? waiting(said) : "Asking the service…");
    const { cost: it } = data;
    return [
      facts(
        [
          ["Jobs", whole(data.jobs.length)],
          ["Cells", whole(data.cells)],
          ["Computing time", it.device_s === null ? "not known" : duration(it.device_s)],
          ["Done in about", it.elapsed_s === null ? "not known" : duration(it.elapsed_s)],
        ],
        { key: "facts" },
      ),
      h("p", { class: "muted", key: "basis" }, it.basis),
      data.warnings.map((warning) =>
        h(
          "div",
          { key: `${warning.code} ${warning.detail}` },
          notice(
            warning.severity === "note" ? "info" : "warn",
            warning.code.replaceAll("_", " "),
            warning.detail.replaceAll("`", ""),
          ),
        ),
      ),
    ];
  }

  function aside(said) {
    const { rest } = said;
    const jobs = preview.data && !preview.problem ? preview.data.jobs.length : null;
    const text =
      kind() === "job"
        ? "Submit the job"
        : jobs === null
          ? "Submit the experiment"
          : `Submit ${jobs} ${jobs === 1 ? "job" : "jobs"}`;
    const json = JSON.stringify(body(), null, 2);
    return h(
      "div",
      { class: "aside", key: "aside" },
      h(
        "section",
        { class: "card", "aria-label": "What it would cost", "aria-busy": String(preview.pending) },
        h("header", {}, h("h2", {}, "Before you submit")),
        h(
          "div",
          { class: "body live" },
          cost(said),
          rest.map((detail) => h("p", { class: "field-problem", role: "alert", key: detail }, detail)),
          refused instanceof Problem && refused.status !== 422 && problemNotice(refused),
          h(
            "button",
            { class: "button primary", type: "submit", disabled: submitting },
            submitting ? "Submitting…" : text,
          ),
        ),
      ),
      h(
        "details",
        { class: "card", key: "request" },
        h("summary", { class: "body" }, "The request as JSON"),
        h(
          "div",
          { class: "body" },
          h("pre", { class: "preview", tabindex: "0" }, json),
          copyButton(json, "Copy the request", shell.say),
        ),
      ),
    );
  }

  function sections(form) {
    const all = fields();
    const within = (names) =>
      all
        .filter((field) => names.includes(field.path.split(".")[0]))
        .sort((a, b) => names.indexOf(a.path.split(".")[0]) - names.indexOf(b.path.split(".")[0]));
    const rest = all.filter((field) => ![...FIRST, ...RUNNING].includes(field.path.split(".")[0]));
    const builtin = kind() === "experiment" && url.get("builtin");
    return h(
      "div",
      { class: "fields", key: "fields" },
      kind() === "experiment" && builtInCards(builtIns, builtin, form),
      kind() === "experiment" && !builtin && fieldset("Grid: every combination is a job", gridFields(raw), form),
      fieldset(kind() === "job" ? "The job" : "Every job", within(FIRST), form),
      fieldset("Training", rest, form, { folded: true }),
      fieldset("Running", within(RUNNING), form, { folded: true }),
    );
  }

  return {
    title: () => "New",
    load,
    view() {
      const kinds = choice(
        "What to submit",
        [
          ["job", "Job"],
          ["experiment", "Experiment"],
        ],
        kind(),
        (value) => {
          tried = false;
          refused = null;
          url.change({ kind: value === "job" ? null : value, builtin: null, budget: null });
        },
      );
      const heading = h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "New"),
        kinds,
        h(
          "p",
          {},
          kind() === "job"
            ? "One training. Only the normalization and the batch size are needed; what is left empty is filled by the recipe or by its default."
            : "A grid of trainings, to say which normalization is better at which batch size, and whether the difference is real.",
        ),
      );
      if (!specification.data)
        return [
          heading,
          specification.problem
            ? problemNotice(specification.problem, () => specification.reload())
            : h("div", { class: "empty", "aria-busy": "true" }, "Reading what a job can say…"),
        ];
      const said = problems();
      const { found } = said;
      const form = {
        raw,
        set,
        setAll,
        problem: (path) => found.get(path) ?? (path.endsWith(".type") ? found.get(path.slice(0, -5)) : null) ?? null,
      };
      return [
        heading,
        h("form", { class: "form", key: "form", novalidate: true, onsubmit: submit }, sections(form), aside(said)),
      ];
    },
    close() {
      for (const resource of [specification, builtIns, preview]) resource.close();
      ask.cancel();
    },
  };
}
