/* What the checkpoints take in the artifact store, by experiment and by job. */

import { get } from "../api.js";
import { tableExport } from "../exports.js";
import { bytes, whole } from "../format.js";
import { facts, problemNotice } from "../parts.js";
import { Resource } from "../resource.js";
import { h } from "../view.js";

const LISTED = 10;

/** The card of the storage, which a page loads and closes. */
export function diskCard(shell) {
  const storage = new Resource(shell.refresh);

  function table(label, head, rows) {
    const menu = tableExport({ name: label.toLowerCase().replaceAll(" ", "-"), label, say: shell.say });
    return [
      h("header", { key: `head of ${label}` }, h("h3", {}, label), h("div", { class: "actions" }, menu)),
      region(label, head, rows),
    ];
  }

  function region(label, head, rows) {
    return h(
      "div",
      { key: label, class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((name, column) => h("th", { key: name, scope: "col", class: column ? "number" : null }, name)),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map(([id, link, ...numbers]) =>
            h(
              "tr",
              { key: id },
              h("th", { scope: "row" }, link),
              numbers.map((text, column) => h("td", { key: column, class: "number" }, text)),
            ),
          ),
        ),
      ),
    );
  }

  function experiments(it) {
    const rows = it.experiments.map((one) => [
      one.id ?? "none",
      one.id ? h("a", { href: `/experiments/${one.id}` }, one.title) : "Jobs without an experiment",
      whole(one.jobs),
      whole(one.checkpoints),
      bytes(one.bytes),
    ]);
    return table("Storage by experiment", ["Experiment", "Jobs", "Checkpoints", "Size"], rows);
  }

  function jobs(it) {
    const rows = it.jobs.map((one) => [
      one.id,
      h("a", { href: `/jobs/${one.id}` }, one.title),
      whole(one.checkpoints),
      bytes(one.bytes),
    ]);
    return table("Storage by job", ["Job", "Checkpoints", "Size"], rows);
  }

  return {
    load() {
      storage.load("storage", (signal) => get("/v1/storage", { limit: LISTED }, { signal }));
    },
    reload() {
      if (!storage.pending) storage.reload();
    },
    view() {
      const it = storage.data;
      return h(
        "section",
        { class: "card", key: "storage", "aria-busy": String(!it && storage.pending) },
        h("header", {}, h("h2", {}, "Storage"), h("small", {}, "checkpoints; the largest first")),
        storage.problem && problemNotice(storage.problem, () => storage.reload()),
        !it && storage.pending && h("div", { class: "body muted" }, "Measuring the checkpoints…"),
        it &&
          h(
            "div",
            { class: "body" },
            facts(
              [
                ["Checkpoints", whole(it.checkpoints)],
                ["Size", bytes(it.bytes)],
                ["Free", it.free_bytes === null ? "–" : bytes(it.free_bytes)],
              ],
              { class: "facts big" },
            ),
          ),
        it?.checkpoints ? [experiments(it), jobs(it)] : null,
      );
    },
    close() {
      storage.close();
    },
  };
}
