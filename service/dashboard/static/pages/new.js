/* New: the form of a job or of an experiment, with what it would cost before it is submitted. */

import { get, Problem, request as ask, send } from "../api.js";
import { fieldset } from "../fields.js";
import { duration } from "../format.js";
import { choice, confirmed, copyButton, problemNotice } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { fromParameters, isObject, parseJson, toParameters, valueAt, withValue } from "../request.js";
import { fieldAt, fieldsOf, perWorker, textAt, withText } from "../schema.js";
import { mayWrite, writing } from "../session.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { readVocabulary } from "../vocabulary.js";
import { axisFields, builtInCards, GridEditor, shorterBudget, USUAL_GRID } from "./grid.js";
import { planOf, secondsOf } from "./plan.js";

const FIRST = ["normalization", "batch_size", "model", "recipe", "epochs", "seed", "name", "labels"];
const RUNNING = ["checkpoint", "precision", "num_workers", "telemetry", "deterministic", "priority", "max_retries"];
const PREVIEW_MS = 400;
const LONG_S = 3600;

export default function newPage(shell) {
  const specification = new Resource(shell.refresh);
  const builtIns = new Resource(shell.refresh);
  const preview = new Resource(shell.refresh);
  const cloned = new Resource(shell.refresh);
  const gridEditor = new GridEditor(shell.refresh);
  let refused = null;
  let submitting = false;
  let beginning = null;

  const kind = () => url.get("kind", "job");
  const touched = new Set();
  let tried = false;
  /** The request as it is filled in, without the usual grid and the usual normalization. */
  const filled = () => fromParameters(location.search);
  const raw = (path) =>
    textAt(kind() === "job" ? filled() : { grid: grid(), ...filled() }, path) ||
    (path === "normalization.type" && kind() === "job" ? "group" : "");
  const addressOf = (request, which = kind()) => {
    const parameters = { ...(which === "job" ? {} : { kind: which }), ...toParameters(request) };
    const text = new URLSearchParams(parameters).toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
    return text ? `/new?${text}` : "/new";
  };
  const put = (request) => {
    refused = null;
    url.go(addressOf(request), { replace: true });
    shell.refresh();
  };
  const set = (path, text) => {
    touched.add(path);
    if (text === raw(path)) return shell.refresh();
    // Whoever changes one axis of the usual grid keeps the others.
    const given = path.startsWith("grid.") ? { ...filled(), grid: grid() } : filled();
    let next = withText(given, fields(), path, text);
    if (path === "builtin") next = withValue(next, "grid", undefined);
    if (path === "seeds") next = withSeeds(next, text === "on");
    put(next);
  };
  /** Sequential seeds replace the axis of seeds. */
  const withSeeds = (request, sequential) => {
    const { seed: _, ...others } = grid();
    return request.builtin && !request.grid
      ? request
      : { ...request, grid: sequential ? others : { ...others, seed: USUAL_GRID.seed } };
  };
  /** Whether a field has been visited: until then, a missing value is not shown as a problem. */
  const visited = (path) => tried || touched.has(path) || raw(path) !== "";
  const builtIn = () => builtIns.data?.find((one) => one.name === filled().builtin)?.request;
  /** The grid to edit; null if the built-in experiment defines it. */
  function grid() {
    const { builtin, grid: given } = filled();
    return isObject(given) ? given : builtin ? null : USUAL_GRID;
  }
  /** The defaults of empty fields that go before those of the schema: of a built-in experiment, then of a recipe. */
  const recipe = () => {
    const base = kind() === "experiment" ? builtIn()?.base : null;
    const name = raw(kind() === "job" ? "recipe" : "base.recipe") || base?.recipe;
    return { ...specification.data?.recipes[name], ...base };
  };
  const fields = () =>
    kind() === "job" ? jobFields() : [...experimentFields(), ...axisFields(grid() ?? {}), ...jobFields()];

  /** The fields of a job; of an experiment, those of every job that neither the grid nor the experiment defines. */
  function jobFields() {
    const { job } = specification.data;
    if (kind() === "job") return perWorker(fieldsOf(job, { chosen: raw, recipe: recipe() }), raw("num_workers"));
    const elsewhere = [...Object.keys(grid() ?? builtIn()?.grid ?? {}), "seed", "name", "priority"];
    const given = (path) => valueAt(filled(), path) !== undefined;
    return fieldsOf(job, { chosen: raw, recipe: recipe(), path: "base" }).filter(
      ({ path, union }) =>
        given(union ?? path) || !elsewhere.some((name) => path === `base.${name}` || path.startsWith(`base.${name}.`)),
    );
  }

  /** The fields of an experiment besides its grid and its jobs. */
  function experimentFields() {
    const { experiment } = specification.data;
    const { base: _, grid: __, builtin: ___, ...properties } = experiment.properties;
    return fieldsOf({ ...experiment, properties }, { chosen: raw }).map((field) =>
      field.path === "seeds" ? { ...field, label: "Sequential seeds" } : field,
    );
  }

  function body() {
    const request = filled();
    if (kind() === "experiment") return request.builtin || request.grid ? request : { ...request, grid: grid() };
    // A link may leave out the type of a part if it is the default.
    const typed = jobFields().reduce((job, { union, fallback }) => {
      const part = union && valueAt(job, union);
      return part && part.type === undefined && fallback ? withValue(job, `${union}.type`, fallback) : job;
    }, request);
    return { ...typed, normalization: { type: "group", ...typed.normalization } };
  }

  /** The request of the dry run: a job is an experiment of a single cell. */
  function dryRun() {
    const wanted = body();
    const { priority: _, name: __, ...base } = wanted;
    return kind() === "job" ? { base, grid: {} } : wanted;
  }

  const planned = (wanted, options) => send("POST", "/v1/experiments?dry_run=true", wanted, options);
  function readPreview() {
    const wanted = dryRun();
    return preview.load(JSON.stringify(wanted), (signal) => planned(wanted, { signal }));
  }
  const previewSoon = throttled(readPreview, PREVIEW_MS);

  /** Begin with a budget with which the usual experiment ends soon; every later choice is the user's. */
  async function beginShort() {
    if (Object.keys(filled()).length) return;
    let budget = 1;
    for (let shorter = budget; shorter !== null;) {
      budget = shorter;
      const usual = await planned({ grid: USUAL_GRID, budget }).catch(() => null);
      shorter = shorterBudget(budget, usual && secondsOf(usual.cost));
    }
    if (kind() === "experiment" && !Object.keys(filled()).length) put({ budget });
  }

  /** Whether the user wants work of more than an hour, or of an unknown duration. */
  async function affordable() {
    await readPreview();
    // A request that is not valid is refused when it is submitted, with the reasons.
    if (preview.problem?.status === 422) return true;
    if (preview.problem || !preview.data)
      return confirmed("The service does not say how long this takes. Submit anyway?");
    const { cost, jobs } = preview.data;
    const what = jobs.length === 1 ? "This job takes" : `These ${jobs.length} jobs take`;
    return (
      secondsOf(cost) <= LONG_S ||
      confirmed(`${what} about ${duration(secondsOf(cost))} here. ${cost.basis} Submit anyway?`)
    );
  }

  /** The request that made a job or an experiment. Submitted again, it makes an equal one. */
  async function requestOf(id, options) {
    const path = kind() === "job" ? `/v1/jobs/${id}` : `/v1/experiments/${id}`;
    const stored = parseJson(await (await ask(path, options)).text());
    if (kind() === "experiment")
      return Object.fromEntries(Object.entries(stored.request).filter(([, value]) => value !== null));
    const { name, labels, priority, max_retries } = stored;
    return { ...stored.spec, name, labels, priority, max_retries };
  }

  async function load() {
    const from = url.get("from");
    specification.load("specification", readVocabulary);
    if (kind() === "experiment")
      builtIns.load("builtins", async (signal) => (await get("/v1/experiments/builtin", {}, { signal })).data);
    if (from) {
      const go = url.fromHere();
      await cloned.load(from, (signal) => requestOf(from, { signal }));
      // Without `from`, an earlier call has filled the form, and it may have been edited since.
      if (cloned.data && !cloned.problem && url.get("from") === from) go(addressOf(cloned.data), { replace: true });
      return;
    }
    await specification.settled;
    if (kind() === "experiment") beginning ??= beginShort();
    await beginning;
    if (specification.data) previewSoon();
  }

  async function submit(event) {
    event.preventDefault();
    if (!mayWrite()) return;
    submitting = true;
    tried = true;
    refused = null;
    shell.refresh();
    const go = url.fromHere();
    try {
      await beginning;
      if (!(await affordable())) return;
      const made = await send("POST", kind() === "job" ? "/v1/jobs" : "/v1/experiments", body());
      go(kind() === "job" ? `/jobs/${made.id}` : `/experiments/${made.id}`);
    } catch (problem) {
      refused = problem;
      requestAnimationFrame(() => document.querySelector("[aria-invalid=true]")?.focus());
    } finally {
      submitting = false;
      shell.refresh();
    }
  }

  /** The problems of fields, of the refused submission or else of the dry run, and the problems of no field. */
  function problems() {
    const source = refused ?? (preview.problem?.status === 422 ? preview.problem : null);
    const found = new Map();
    const waited = [];
    const rest = [];
    const paths = fields()
      .filter((field) => field.kind !== "group")
      .flatMap((field) => (field.union ? [field.path, field.union] : [field.path]));
    for (const { pointer, detail } of source?.fields ?? []) {
      const own = kind() === "job" ? pointer?.replace(/^\/base(?=\/)/, "") : pointer;
      const path = own && fieldAt(own, paths);
      if (path && !visited(path)) waited.push(path);
      else if (path) found.set(path, detail);
      else rest.push(detail);
    }
    return { found, waited, rest: source && !source.fields.length ? [source.detail] : rest };
  }

  /** What is missing for a dry run. */
  function waiting({ found, waited }) {
    if (found.size) return "Correct the marked fields to see what it would cost.";
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
    return planOf(data);
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
        { class: "card", "aria-label": "What it would cost", "aria-busy": String(preview.pending || !preview.key) },
        h("header", {}, h("h2", {}, "Before you submit")),
        h(
          "div",
          { class: "body live" },
          cost(said),
          rest.map((detail) => h("p", { class: "field-problem", role: "alert", key: detail }, detail)),
          refused instanceof Problem && refused.status !== 422 && problemNotice(refused),
          h(
            "button",
            { class: "button primary", type: "submit", disabled: submitting, ...writing() },
            submitting ? "Submitting…" : text,
          ),
          !mayWrite() && h("p", { class: "muted" }, `${writing().title} It can plan, and not submit.`),
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
    const jobs = jobFields();
    const nameOf = ({ path }) => path.replace(/^base\./, "").split(".")[0];
    const within = (names) =>
      jobs
        .filter((field) => names.includes(nameOf(field)))
        .sort((a, b) => names.indexOf(nameOf(a)) - names.indexOf(nameOf(b)));
    const rest = jobs.filter((field) => ![...FIRST, ...RUNNING].includes(nameOf(field)));
    return h(
      "div",
      { class: "fields", key: "fields" },
      kind() === "experiment" && experimentSections(form),
      fieldset(kind() === "job" ? "The job" : "Every job", within(FIRST), form),
      fieldset("Training", rest, form, { folded: true }),
      fieldset("Running", within(RUNNING), form, { folded: true }),
    );
  }

  function experimentSections(form) {
    const { builtin } = filled();
    const own = experimentFields();
    const folded = own.filter(({ path }) => /^(seeds|outcome|tune)/.test(path));
    const shown = own.filter((field) => !folded.includes(field) && field.path !== "budget");
    const values = (name) => preview.data?.axes.find((axis) => axis.field === name)?.values ?? [];
    const labelOf = (name, n) => {
      const value = JSON.stringify(grid()[name][n]);
      return values(name).find((one) => JSON.stringify(one.value) === value)?.label;
    };
    const change = (next, added = null) => {
      // The grid or every job defines a field, never both.
      const request = added ? withValue(filled(), `base.${added}`, undefined) : filled();
      put({ ...request, grid: next });
    };
    return [
      builtInCards(builtIns, builtin, form),
      grid() && gridEditor.view(grid(), { schema: specification.data.job, form, labelOf, change }),
      fieldset("The experiment", shown, form),
      fieldset("Outcome, sequential seeds and tuning", folded, form, { folded: true }),
    ];
  }

  /** The request as one of the other kind, with all fields that both have. */
  function converted(to) {
    const request = filled();
    const { name, priority } = request;
    const shared = { ...(name ? { name } : {}), ...(priority ? { priority } : {}) };
    if (to === "job") return { ...request.base, ...shared };
    const base = Object.fromEntries(
      Object.entries(request).filter(([field]) => !(field in USUAL_GRID) && !["name", "priority"].includes(field)),
    );
    return Object.keys(base).length ? { ...shared, base } : shared;
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
          url.go(addressOf(converted(value), value));
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
            ? "One training run. Only the normalization and the batch size are required; the recipe or a default fills every empty field."
            : "A grid of training runs that tests which normalization is better at which batch size, and whether the difference is real.",
        ),
      );
      const problem = specification.problem ?? cloned.problem;
      if (!specification.data || url.get("from"))
        return [
          heading,
          problem
            ? problemNotice(problem, load)
            : h("div", { class: "empty", "aria-busy": "true" }, "Loading the form…"),
        ];
      const said = problems();
      const { found } = said;
      const form = {
        raw,
        set,
        problem: (path) => found.get(path) ?? (path.endsWith(".type") ? found.get(path.slice(0, -5)) : null) ?? null,
      };
      return [
        heading,
        h("form", { class: "form", key: "form", novalidate: true, onsubmit: submit }, sections(form), aside(said)),
      ];
    },
    close() {
      for (const resource of [specification, builtIns, preview, cloned]) resource.close();
      previewSoon.cancel();
    },
  };
}
