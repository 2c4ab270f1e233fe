/* The name, the labels and the notes of a job. */

import { send } from "../api.js";
import { labelTags } from "../metrics.js";
import { button, labelled } from "../parts.js";
import { parsed } from "../schema.js";
import { h } from "../view.js";

export class Notes {
  constructor(shell, id, changed) {
    Object.assign(this, { shell, id, changed, editing: false, problem: null });
  }

  /** The card, for reading or for editing. */
  view(job) {
    return h(
      "section",
      { class: "card", key: "notes" },
      h(
        "header",
        {},
        h("h2", {}, "Notes and labels"),
        h("div", { class: "actions" }, !this.editing && button("Edit", () => this.#edit(true), { kind: "quiet" })),
      ),
      this.editing ? this.#form(job) : this.#text(job),
    );
  }

  #text(job) {
    const hasLabels = Object.keys(job.labels).length > 0;
    if (!job.notes && !hasLabels)
      return h(
        "div",
        { class: "body muted" },
        "No labels or notes. Use labels to find jobs, and notes for observations.",
      );
    return h(
      "div",
      { class: "body live" },
      hasLabels && h("p", {}, labelTags(job)),
      job.notes && h("p", { class: "notes" }, job.notes),
    );
  }

  #form(job) {
    const labels = Object.entries(job.labels)
      .map((pair) => pair.join(":"))
      .join(", ");
    return h(
      "form",
      { class: "body live editor", onsubmit: (event) => this.#save(event, job) },
      labelled(
        "Name",
        h("input", { name: "name", maxlength: "200", autocomplete: "off", hook: begin(job.name, true) }),
      ),
      labelled(
        "Labels",
        h("input", {
          name: "labels",
          autocomplete: "off",
          placeholder: "key:value, key:value",
          hook: begin(labels),
        }),
      ),
      labelled("Notes", h("textarea", { name: "notes", rows: "5", maxlength: "10000", hook: begin(job.notes) })),
      this.problem && h("p", { class: "field-problem", role: "alert" }, this.problem.detail),
      h(
        "div",
        { class: "actions" },
        h("button", { class: "button primary", type: "submit" }, "Save"),
        button("Leave as it was", () => this.#edit(false), { kind: "quiet" }),
      ),
    );
  }

  #edit(editing) {
    Object.assign(this, { editing, problem: null });
    this.shell.refresh();
  }

  async #save(event, job) {
    event.preventDefault();
    const { name, labels, notes } = event.currentTarget.elements;
    const wanted = labels.value.trim() ? parsed("pairs", labels.value) : {};
    const removed = Object.keys(job.labels).filter((key) => !(key in wanted));
    const body = {
      name: name.value,
      notes: notes.value,
      labels: { ...Object.fromEntries(removed.map((key) => [key, null])), ...wanted },
    };
    try {
      this.changed(await send("PATCH", `/v1/jobs/${this.id}`, body));
      this.#edit(false);
    } catch (problem) {
      this.problem = problem;
      this.shell.refresh();
    }
  }
}

/** The initial value of a field. Later changes from elsewhere do not replace what the user types. */
const begin = (text, focused = false) => ({ ...BEGIN, text, focused });

const BEGIN = {
  mount(element, { text, focused }) {
    element.value = text;
    if (focused) element.focus();
  },
};
