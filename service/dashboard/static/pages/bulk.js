/* Actions on all selected jobs, also on those of other pages, with the totals of what happened. */

import { get, send } from "../api.js";
import { whole } from "../format.js";
import { labelsOf } from "../labels.js";
import { button, confirmed, linkButton } from "../parts.js";
import { Resource } from "../resource.js";
import { writing } from "../session.js";
import { url } from "../url.js";
import { h } from "../view.js";

/** The value of the address that selects every job of the filter. */
const EVERY = "*";
const AT_ONCE = 4;
const PAGE = 200;
const MOST_COMPARED = 20;

const count = (n) => `${whole(n)} ${n === 1 ? "job" : "jobs"}`;

const ACTIONS = [
  { verb: "pause", text: "Pause", done: "paused or asked to pause" },
  { verb: "resume", text: "Resume", done: "queued again" },
  { verb: "retry", text: "Retry", done: "submitted again" },
  { verb: "cancel", text: "Cancel jobs", done: "cancelled", kind: "danger", ask: (n) => `Stop ${count(n)} for good?` },
  {
    verb: "delete",
    text: "Delete",
    done: "deleted",
    kind: "danger",
    ask: (n) => `Delete ${count(n)} with their metrics, logs and checkpoints? This cannot be undone.`,
  },
];

export class Selection {
  /** `filter()` is the filter of the list; `changed()` is called after an action. */
  constructor(shell, { filter, changed }) {
    Object.assign(this, { shell, filter, changed, running: null });
    this.every = new Resource(shell.refresh);
  }

  /** Whether every job of the filter is selected. */
  get isEvery() {
    return url.get("selected") === EVERY;
  }

  /** The ids of the selected jobs. */
  get ids() {
    return this.isEvery ? (this.every.data ?? []) : url.list("selected");
  }

  set ids(ids) {
    url.change({ selected: ids.join(",") }, { replace: true });
  }

  /** Read which jobs the filter selects, where all of them are selected. */
  load() {
    if (this.isEvery) this.every.load(JSON.stringify(this.filter()), (signal) => allIds(this.filter(), signal));
  }

  /** Select a job, or no longer. */
  toggle(id) {
    this.ids = this.ids.includes(id) ? this.ids.filter((one) => one !== id) : [...this.ids, id];
  }

  async #act(text, done, ask, request) {
    const { ids } = this;
    const question = ask ?? (this.isEvery ? (n) => `${text}: ${count(n)}?` : null);
    if (question && !confirmed(question(ids.length))) return;
    const totals = await this.#each(ids, request);
    const parts = [
      `${count(totals.done)} ${done}`,
      totals.impossible && `${whole(totals.impossible)} not in a state that allows it`,
      totals.failed && `${whole(totals.failed)} failed: ${totals.detail}`,
    ];
    this.shell.say(`${parts.filter(Boolean).join("; ")}.`, totals.failed ? "bad" : "info");
    if (this.isEvery) this.every.reload();
    else if (totals.gone.length) this.ids = ids.filter((id) => !totals.gone.includes(id));
    this.changed();
  }

  /** Send a request for each id, a few at a time, and count the answers. */
  async #each(ids, request) {
    const totals = { done: 0, impossible: 0, failed: 0, detail: null, gone: [] };
    const rest = [...ids];
    const work = async () => {
      while (rest.length) {
        this.running = ids.length - rest.length;
        this.shell.refresh();
        const id = rest.shift();
        try {
          // Only a deletion answers nothing.
          if ((await request(id)) === null) totals.gone.push(id);
          totals.done++;
        } catch (problem) {
          if (problem.status === 409) totals.impossible++;
          else Object.assign(totals, { failed: totals.failed + 1, detail: problem.detail });
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    this.running = null;
    return totals;
  }

  #label() {
    const text = window.prompt("Label to set, as key:value", "");
    if (!text?.trim()) return;
    const labels = labelsOf(text);
    if (!Object.values(labels).some(Boolean))
      return this.shell.say("Give a label as key:value, such as study:paper.", "bad");
    this.#act("Label", "labelled", null, (id) => send("PATCH", `/v1/jobs/${id}`, { labels }));
  }

  /** The bar with the actions; nothing without a selection. `hasMore`: the filter selects jobs of other pages. */
  view({ compare, hasMore }) {
    const { ids, isEvery } = this;
    if (isEvery && !this.every.data)
      return h(
        "div",
        { class: "selection", key: "selection", role: "region", "aria-label": "Selected jobs", "aria-busy": "true" },
        "Selecting all jobs that match…",
      );
    if (!ids.length) return null;
    const idle = this.running === null;
    const control = (props) => ({ ...props, disabled: !idle, ...writing() });
    return h(
      "div",
      { class: "selection", key: "selection", role: "region", "aria-label": "Selected jobs" },
      h("strong", {}, idle ? `${whole(ids.length)} selected` : `${whole(this.running)} of ${whole(ids.length)} done`),
      hasMore &&
        !isEvery &&
        button("Select all that match this filter", () => url.change({ selected: EVERY }, { replace: true }), {
          key: "every",
          kind: "quiet",
        }),
      ids.length > 1 && ids.length <= MOST_COMPARED
        ? linkButton("Compare", compare, { key: "compare", kind: "primary" })
        : h(
            "span",
            { class: "muted", key: "compare" },
            ids.length === 1 ? "Select another to compare" : `At most ${MOST_COMPARED} can be compared`,
          ),
      ACTIONS.map(({ verb, text, done, kind, ask }) =>
        button(
          text,
          () =>
            this.#act(text, done, ask, (id) =>
              verb === "delete" ? send("DELETE", `/v1/jobs/${id}`) : send("POST", `/v1/jobs/${id}/${verb}`),
            ),
          control({ key: verb, kind }),
        ),
      ),
      button("Label", () => this.#label(), control({ key: "label" })),
      button("Clear", () => (this.ids = []), { key: "clear", kind: "quiet" }),
    );
  }

  close() {
    this.every.close();
  }
}

/** The ids of all jobs of a filter. */
async function allIds(filter, signal) {
  const ids = [];
  let cursor = null;
  do {
    const page = await get("/v1/jobs", { ...filter, limit: PAGE, cursor }, { signal });
    ids.push(...page.data.map((job) => job.id));
    cursor = page.next_cursor;
  } while (cursor);
  return ids;
}
