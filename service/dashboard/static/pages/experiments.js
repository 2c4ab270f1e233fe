/* All experiments, newest first. */

import { get, send } from "../api.js";
import { tableExport } from "../exports.js";
import { ago, whole, zoned } from "../format.js";
import { submitterLink } from "../metrics.js";
import { button, emptyState, linkButton, problemNotice, progressBar, shortened } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { writing } from "../session.js";
import { statusMark } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { experimentStatus } from "../vocabulary.js";
import { EXPERIMENTS, Selection } from "./bulk.js";
import { Rows } from "./rows.js";

const REREAD_MS = 2000;

export default function experimentsPage(shell) {
  const experiments = new Resource(shell.refresh);
  const reread = throttled(() => experiments.reload(), REREAD_MS);
  let opened = false;

  async function load() {
    if (!opened) {
      opened = true;
      await shell.live("/v1/events", {}, ({ type }) => type === "status" && reread());
    }
    selection.load();
    const query = { ...filter(), cursor: url.get("cursor") };
    experiments.load(JSON.stringify(query), (signal) => get("/v1/experiments", query, { signal }));
  }

  const filter = () => ({ submitted_by: url.all("submitted_by") });
  const selection = new Selection(shell, EXPERIMENTS, { filter, changed: () => experiments.reload() });
  const selected = () => selection.ids;
  const compareAddress = () => url.with({ experiments: selected().join(",") }, "/compare");
  const rows = new Rows(shell, {
    ids: () => (experiments.data?.data ?? []).map(({ id }) => id),
    pick: (id) => selection.toggle(id),
    address: (id) => `/experiments/${id}`,
    compare: () => (selected().length > 1 ? compareAddress() : null),
  });

  async function importExample() {
    const go = url.fromHere();
    try {
      const { id } = await send("POST", "/v1/bundles/example");
      go(`/experiments/${id}`);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  function row(it, index) {
    const name = it.title;
    const counts = Object.entries(it.counts).filter(([, count]) => count);
    return h(
      "tr",
      { key: it.id, class: `${selected().includes(it.id) ? "selected" : ""}${rows.isAt(index) ? " at" : ""}` },
      h(
        "td",
        { class: "pick" },
        h("input", {
          type: "checkbox",
          "aria-label": `Select ${name}`,
          checked: selected().includes(it.id),
          onchange: () => selection.toggle(it.id),
        }),
      ),
      h(
        "th",
        { scope: "row", class: "name" },
        h("a", { href: `/experiments/${it.id}`, title: name }, shortened(name)),
        it.budget < 1 ? h("span", { class: "tag" }, `budget ${it.budget}`) : null,
      ),
      h("td", {}, experimentMark(it.status)),
      h("td", {}, `${it.rows.replaceAll("_", " ")} × ${it.columns.replaceAll("_", " ")}`),
      h("td", { class: "number" }, whole(it.jobs)),
      h(
        "td",
        {},
        h(
          "div",
          { class: "progress" },
          progressBar(it.progress, `Progress of ${name}`),
          h("span", {}, `${Math.floor(100 * it.progress)} %`),
        ),
      ),
      h(
        "td",
        { class: "states" },
        counts.map(([status, count]) => h("span", { key: status, class: "count" }, `${count} `, statusMark(status))),
      ),
      h(
        "td",
        {},
        h("time", { datetime: it.created_at, title: zoned(it.created_at) }, ago(it.created_at)),
        it.submitted_by !== null && [" by ", submitterLink(it, "/experiments")],
      ),
    );
  }

  function content() {
    const { data, problem } = experiments;
    if (!data)
      return problem
        ? problemNotice(problem, () => experiments.reload())
        : h(
            "section",
            { class: "card", key: "card", "aria-busy": "true" },
            h("div", { class: "empty" }, "Reading the experiments…"),
          );
    const names = url.all("submitted_by");
    if (!data.data.length && !url.get("cursor") && !names.length)
      return h(
        "section",
        { class: "card", key: "card" },
        emptyState(
          "No experiments yet",
          "An experiment trains a grid of normalizations, batch sizes and seeds, and tests which differences are real. Look at a finished study, or start a built-in experiment at 1 % of its cost.",
          button("A finished study", importExample, { kind: "primary", ...writing() }),
          linkButton("The paper's batch sizes, at 1 %", "/new?kind=experiment&builtin=paper-batch-size&budget=0.01"),
          linkButton("Your own grid", "/new?kind=experiment"),
          linkButton("All jobs", "/jobs"),
        ),
      );
    const heads = ["Name", "Status", "Compares", "Jobs", "Progress", "States", "Created"];
    return [
      problem && problemNotice(problem, () => experiments.reload()),
      names.length > 0 &&
        h(
          "div",
          { class: "toolbar", key: "names" },
          h(
            "span",
            { class: "tag" },
            "Submitted by ",
            names.map((name, n) => [n > 0 && " or ", h("bdi", { key: name }, name)]),
          ),
          linkButton("Show all", "/experiments", { kind: "quiet" }),
        ),
      h(
        "section",
        { class: "card", key: "card" },
        h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Experiments" },
          h(
            "table",
            { class: "jobs" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                h("th", { scope: "col", class: "pick" }, h("span", { class: "visually-hidden" }, "Select")),
                heads.map((name) =>
                  h("th", { key: name, scope: "col", class: name === "Jobs" ? "number" : null }, name),
                ),
              ),
            ),
            h("tbody", {}, data.data.map(row)),
          ),
        ),
        h(
          "div",
          { class: "below" },
          h(
            "span",
            { class: "push actions" },
            tableExport({ name: "experiments", say: shell.say }),
            url.get("cursor") && button("First page", () => url.change({ cursor: null })),
            data.next_cursor && button("Next page", () => url.change({ cursor: data.next_cursor })),
          ),
        ),
      ),
      selection.view({ compare: compareAddress(), hasMore: Boolean(data.next_cursor || url.get("cursor")) }),
    ];
  }

  return {
    title: () => "Experiments",
    load,
    key: (event) => rows.key(event),
    view: () => [
      h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "Experiments"),
        h(
          "div",
          { class: "actions" },
          linkButton("New experiment", "/new?kind=experiment", { kind: "primary", icon: "plus" }),
        ),
      ),
      content(),
    ],
    close() {
      experiments.close();
      selection.close();
      reread.cancel();
    },
  };
}

/** The status of an experiment, with the icon of the corresponding status of a job. */
export function experimentMark(status) {
  const mark = statusMark(status === "finished" ? "succeeded" : status, experimentStatus(status).description);
  return { ...mark, children: [mark.children[0], status] };
}
