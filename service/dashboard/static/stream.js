/* The event stream of a page: server-sent events by fetch, because EventSource says nothing of the status of an answer.

It begins at now, whose position a plain request reads, so what a page reads after `opened` and what then comes leave no gap.
When it breaks it says so, and continues after the last event that it has received. A browser opens only six connections to a
server, for all tabs together. So a hidden page holds none, and continues once it is shown; and a page beyond the first few
that are visible asks for new events every few seconds (`place.js`). */

import { get, headers, Problem, withQuery } from "./api.js";
import { Place } from "./place.js";
import { root } from "./root.js";

const POLL_MS = 2_000;
const SILENCE_MS = 40_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8_000;

export class Stream {
  /** `onevent({type, data, id})`; `onstate("live" | "connecting" | "stopped" | "ended", since)`; `onreset()` when the
   * service does not know the last event, because its database was replaced. */
  constructor(path, query, { onevent, onreset, onstate = () => {} }) {
    Object.assign(this, {
      path,
      query,
      onevent,
      onreset,
      onstate,
      lastId: null,
      state: "connecting",
      since: Date.now(),
      failures: 0,
    });
    this.closed = false;
    this.hidden = () => this.#turn();
    document.addEventListener("visibilitychange", this.hidden);
    this.opened = new Promise((resolve) => (this.isOpen = resolve));
    this.#run();
  }

  /** Close the stream. */
  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.hidden);
    this.place?.leave();
    this.wake?.();
    this.connection?.abort();
    this.isOpen();
  }

  /** Reconnect now. */
  retry() {
    this.wake?.();
  }

  /** Go on in another way, because the page was hidden or shown, or has another place. */
  #turn() {
    this.turned = true;
    this.wake?.();
    if (this.lastId !== null) this.connection?.abort();
  }

  #tell(state) {
    if (state === this.state) return;
    this.state = state;
    this.since = Date.now();
    this.onstate(state, this.since);
  }

  async #run() {
    while (!this.closed) {
      this.turned = false;
      this.connection = new AbortController();
      try {
        if (await this.#proceed()) return this.#tell("ended");
        this.failures = 0;
        continue;
      } catch (error) {
        if (error instanceof Problem && error.status >= 400 && error.status < 500) {
          this.isOpen();
          return this.#tell("ended");
        }
      }
      if (this.closed) return;
      if (this.turned) continue;
      if (!document.hidden) this.#tell("stopped");
      this.isOpen();
      // At random, so that all the pages of a restarted service do not come at once.
      const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.failures++) * (0.5 + Math.random());
      await this.#wait(document.hidden ? null : wait);
    }
  }

  /** Take the next step. Returns whether the stream has ended; throws if the connection has. */
  async #proceed() {
    if (this.lastId === null) return this.#ask({ replay: "false" });
    if (document.hidden) {
      this.place?.leave();
      this.place = null;
      return this.#wait(null);
    }
    this.place ??= new Place(() => this.#turn());
    if (this.place.mayStream) return this.#follow();
    await this.#wait(POLL_MS);
    return !this.turned && !this.closed && this.#ask({ after: this.lastId });
  }

  /** Wait for some milliseconds, or with null until something changes. */
  #wait(ms) {
    return new Promise((resolve) => {
      this.wake = () => resolve(false);
      if (ms !== null) setTimeout(this.wake, ms);
    });
  }

  /** Read the position, or the events after it, by a plain request. */
  async #ask(which) {
    const page = await get(this.path, { ...this.query, ...which }, { signal: this.connection.signal });
    const isReset = this.lastId !== null && page.position < Number(this.lastId);
    this.lastId = String(page.position);
    this.isOpen();
    this.#tell("live");
    if (isReset) this.onreset();
    else for (const data of page.data) this.#take({ type: data.type, data, id: null });
    return false;
  }

  async #follow() {
    const response = await fetch(root + withQuery(this.path, this.query), {
      headers: headers({ Accept: "text/event-stream", "Last-Event-ID": this.lastId }),
      signal: this.connection.signal,
      credentials: "same-origin",
      cache: "no-store",
    });
    if (!response.ok) throw new Problem(response.status, "", "");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    let silence;
    try {
      for (;;) {
        clearTimeout(silence);
        silence = setTimeout(() => this.connection.abort(), SILENCE_MS);
        const { done, value } = await reader.read();
        if (done) throw new Error("The connection was closed.");
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const { type, data, id } = parse(block);
          if (this.#take({ type, data: data && JSON.parse(data), id })) return true;
        }
        this.failures = 0;
        this.#tell("live");
      }
    } finally {
      clearTimeout(silence);
      this.connection.abort();
    }
  }

  #take({ type, data, id }) {
    if (id) this.lastId = id;
    if (!data || this.closed) return false;
    if (type === "reset") this.onreset();
    else this.onevent({ type, data, id });
    return type === "end";
  }
}

/** One block of server-sent events as `{type, data, id}`. */
export function parse(block) {
  const found = { type: "message", data: "", id: null };
  const data = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (field === "event") found.type = value;
    else if (field === "id") found.id = value;
    else if (field === "data") data.push(value);
  }
  found.data = data.join("\n");
  return found;
}
