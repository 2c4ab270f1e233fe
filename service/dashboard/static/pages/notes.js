/* The name, the labels and the notes of a job. */

import { request, send } from "../api.js";
import { labelsOf, labelsText } from "../labels.js";
import { labelTags } from "../metrics.js";
import { button, labelled } from "../parts.js";
import { parseShown } from "../request.js";
import { writing } from "../session.js";
import { h } from "../view.js";

const TEXTS = { name: (job) => job.name, labels: (job) => labelsText(job.labels), notes: (job) => job.notes };

export class Notes {
  constructor(shell, id, changed) {
    Object.assign(this, { shell, id, changed });
    this.#reset(null);
  }

  /** `shown` is the job as the form shows it, `known` as it was last read, `typed` the texts that the user has changed,
   * and `theirs` the texts that others have saved meanwhile. */
  #reset(shown) {
    Object.assign(this, { shown, known: shown, typed: {}, theirs: {}, problem: null });
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
        h(
          "div",
          { class: "actions" },
          !this.shown && button("Edit", () => this.#edit(job), { kind: "quiet", ...writing() }),
        ),
      ),
      this.shown ? this.#form() : this.#text(job),
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

  #form() {
    const field = (name, label, tag, more) => [
      labelled(
        label,
        h(tag, {
          name,
          key: name,
          autocomplete: "off",
          oninput: ({ currentTarget }) => (this.typed[name] = currentTarget.value),
          hook: { ...BEGIN, text: this.typed[name] ?? TEXTS[name](this.shown), focused: name === "name" },
          ...more,
        }),
      ),
      name in this.theirs && this.#saved(name, label),
    ];
    return h(
      "form",
      { class: "body live editor", onsubmit: (event) => this.#save(event) },
      field("name", "Name", "input", { maxlength: "200" }),
      field("labels", "Labels", "input", { placeholder: 'key:value, key:"a, b"' }),
      field("notes", "Notes", "textarea", { rows: "5", maxlength: "10000" }),
      this.problem && h("p", { class: "field-problem", role: "alert" }, this.problem.detail),
      h(
        "div",
        { class: "actions" },
        h("button", { class: "button primary", type: "submit" }, "Save"),
        button("Discard changes", () => this.#edit(null), { kind: "quiet" }),
      ),
    );
  }

  /** What another tab or user has saved in a field since the form was opened. */
  #saved(name, label) {
    return h(
      "div",
      { class: "notice bad", key: `${name} saved` },
      h(
        "div",
        {},
        h("strong", {}, `${label}: saved meanwhile by someone else`),
        h("p", { class: "notes" }, this.theirs[name] || "(empty)"),
      ),
    );
  }

  #edit(job) {
    this.#reset(job);
    this.shell.refresh();
  }

  /** The fields to send: those that the user has changed. */
  #wanted() {
    const { typed, shown } = this;
    const wanted = {};
    for (const name of ["name", "notes"]) if ((typed[name] ?? shown[name]) !== shown[name]) wanted[name] = typed[name];
    if ("labels" in typed) {
      const labels = changesOf(shown.labels, labelsOf(typed.labels));
      if (Object.keys(labels).length) wanted.labels = labels;
    }
    return wanted;
  }

  async #save(event) {
    event.preventDefault();
    const wanted = this.#wanted();
    if (!Object.keys(wanted).length) return this.#edit(null);
    try {
      const saved = await this.#send(wanted);
      if (!saved) return this.shell.refresh();
      this.changed(saved);
      this.#edit(null);
    } catch (problem) {
      this.problem = problem;
      this.shell.refresh();
    }
  }

  /** Send the changes, unless somebody else has changed the same since `known`. Changes of other fields stay. */
  async #send(wanted) {
    for (;;) {
      const response = await request(`/v1/jobs/${this.id}`);
      const now = parseShown(await response.text());
      this.theirs = conflicts(wanted, this.known, now);
      this.known = now;
      if (Object.keys(this.theirs).length) {
        const detail =
          "Somebody has saved something else meanwhile, shown above. Save again to replace it by your text.";
        this.problem = { detail };
        return null;
      }
      try {
        const more = { "If-Match": response.headers.get("ETag") };
        return await send("PATCH", `/v1/jobs/${this.id}`, wanted, { more });
      } catch (problem) {
        if (problem.status !== 412) throw problem;
      }
    }
  }
}

/** The labels of a PATCH that turns some labels into others: null removes one. */
function changesOf(before, after) {
  const removed = Object.keys(before).filter((key) => !(key in after));
  const changed = Object.entries(after).filter(([key, value]) => before[key] !== value);
  return Object.fromEntries([...removed.map((key) => [key, null]), ...changed]);
}

/** The texts of the wanted fields that have changed from `known` to `now`, to something else than is wanted. */
function conflicts(wanted, known, now) {
  const others = (mine, before, after) => before !== after && after !== (mine ?? undefined);
  const found = Object.keys(wanted).filter((name) =>
    name === "labels"
      ? Object.entries(wanted.labels).some(([key, value]) => others(value, known.labels[key], now.labels[key]))
      : others(wanted[name], known[name], now[name]),
  );
  return Object.fromEntries(found.map((name) => [name, TEXTS[name](now)]));
}

/** The initial text of a field. Later changes from elsewhere do not replace what the user types. */
const BEGIN = {
  mount(element, { text, focused }) {
    element.value = text;
    if (focused) element.focus();
  },
};
