/* Actions on all selected jobs or experiments, also on those of other pages, with the totals of what happened. */

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
const numbered = (n, one) => `${whole(n)} ${n === 1 ? one : `${one}s`}`;

const PAUSE = { verb: "pause", text: "Pause", done: "paused or asked to pause" };
const RESUME = { verb: "resume", text: "Resume", done: "queued again" };
const RETRY = { verb: "retry", text: "Retry", done: "submitted again" };

/** The selection of jobs: their path, how many can be compared, and what can be done with them. */
export const JOBS = {
  noun: "job",
  path: "/v1/jobs",
  mostCompared: 20,
  labels: true,
  actions: [
    PAUSE,
    RESUME,
    RETRY,
    { verb: "cancel", text: "Cancel jobs", done: "cancelled", kind: "danger", ask: (what) => `Stop ${what} for good?` },
    {
      verb: "delete",
      text: "Delete",
      done: "deleted",
      kind: "danger",
      ask: (what) => `Delete ${what} with their metrics, logs and checkpoints? This cannot be undone.`,
    },
  ],
};

/** The selection of experiments, whose actions concern all their jobs. */
export const EXPERIMENTS = {
  noun: "experiment",
  path: "/v1/experiments",
  mostCompared: 10,
  labels: false,
  actions: [
    PAUSE,
    RESUME,
    {
      verb: "cancel",
      text: "Cancel experiments",
      done: "cancelled",
      kind: "danger",
      ask: (what) => `Stop all jobs of ${what} for good?`,
    },
    {
      verb: "delete",
      text: "Delete",
      done: "deleted",
      kind: "danger",
      ask: (what) => `Delete ${what} with all their jobs and checkpoints? This cannot be undone.`,
    },
  ],
};

export class Selection {
  /** `kind` is `JOBS` or `EXPERIMENTS`; `filter()` is the filter of the list; `changed()` is called after an action. */
  constructor(shell, kind, { filter, changed }) {
    Object.assign(this, { shell, kind, filter, changed, running: null });
    this.every = new Resource(shell.refresh);
  }

  /** Whether every one of the filter is selected. */
  get isEvery() {
    return url.get("selected") === EVERY;
  }

  /** The ids of the selected ones. */
  get ids() {
    return this.isEvery ? (this.every.data ?? []) : url.list("selected");
  }

  set ids(ids) {
    url.change({ selected: ids.join(",") }, { replace: true });
  }

  /** Read what the filter selects, where all of them are selected. */
  load() {
    if (this.isEvery)
      this.every.load(JSON.stringify(this.filter()), (signal) => allIds(this.kind.path, this.filter(), signal));
  }

  /** Select one, or no longer. */
  toggle(id) {
    this.ids = this.ids.includes(id) ? this.ids.filter((one) => one !== id) : [...this.ids, id];
  }

  #count(n) {
    return numbered(n, this.kind.noun);
  }

  async #act(text, done, ask, request) {
    const { ids } = this;
    const question = ask ?? (this.isEvery ? (what) => `${text}: ${what}?` : null);
    if (question && !confirmed(question(this.#count(ids.length)))) return;
    const totals = await this.#each(ids, request);
    const parts = [
      `${this.#count(totals.done)} ${done}`,
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

  /** The bar with the actions; nothing without a selection. `hasMore`: the filter selects more, on other pages. */
  view({ compare, hasMore }) {
    const { ids, isEvery } = this;
    const { noun, path, mostCompared, actions, labels } = this.kind;
    const region = { class: "selection", key: "selection", role: "region", "aria-label": `Selected ${noun}s` };
    if (isEvery && !this.every.data)
      return h("div", { ...region, "aria-busy": "true" }, `Selecting all ${noun}s that match…`);
    if (!ids.length) return null;
    const idle = this.running === null;
    const control = (props) => ({ ...props, disabled: !idle, ...writing() });
    return h(
      "div",
      region,
      h("strong", {}, idle ? `${whole(ids.length)} selected` : `${whole(this.running)} of ${whole(ids.length)} done`),
      hasMore &&
        !isEvery &&
        button("Select all that match this filter", () => url.change({ selected: EVERY }, { replace: true }), {
          key: "every",
          kind: "quiet",
        }),
      ids.length > 1 && ids.length <= mostCompared
        ? linkButton("Compare", compare, { key: "compare", kind: "primary" })
        : h(
            "span",
            { class: "muted", key: "compare" },
            ids.length === 1 ? "Select another to compare" : `At most ${mostCompared} can be compared`,
          ),
      actions.map(({ verb, text, done, kind, ask }) =>
        button(
          text,
          () =>
            this.#act(text, done, ask, (id) =>
              verb === "delete" ? send("DELETE", `${path}/${id}`) : send("POST", `${path}/${id}/${verb}`),
            ),
          control({ key: verb, kind }),
        ),
      ),
      labels && button("Label", () => this.#label(), control({ key: "label" })),
      button("Clear", () => (this.ids = []), { key: "clear", kind: "quiet" }),
    );
  }

  close() {
    this.every.close();
  }
}

/** The ids of all that a filter selects. */
async function allIds(path, filter, signal) {
  const ids = [];
  let cursor = null;
  do {
    const page = await get(path, { ...filter, limit: PAGE, cursor }, { signal });
    ids.push(...page.data.map(({ id }) => id));
    cursor = page.next_cursor;
  } while (cursor);
  return ids;
}
