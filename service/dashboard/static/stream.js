/* The event stream of a page: server-sent events by fetch, because EventSource says nothing of the status of an answer.

It begins at now, so what a page reads after `opened` and what then comes over the stream leave no gap. When it breaks it
says so, and continues after the last event that it has received. A hidden page holds no connection, because a browser opens
only six to a server, for all tabs together: it keeps the id of the last event, and continues after it once it is shown. */

import { headers, Problem, withQuery } from "./api.js";
import { root } from "./root.js";

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
    this.hidden = () => this.#visibility();
    document.addEventListener("visibilitychange", this.hidden);
    this.opened = new Promise((resolve) => (this.isOpen = resolve));
    this.#run();
  }

  /** Close the stream. */
  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.hidden);
    this.wake?.();
    this.connection?.abort();
    this.isOpen();
  }

  /** Reconnect now. */
  retry() {
    this.wake?.();
  }

  #visibility() {
    if (!document.hidden) this.wake?.();
    else if (this.lastId !== null) this.connection?.abort();
  }

  #tell(state) {
    if (state === this.state) return;
    this.state = state;
    this.since = Date.now();
    this.onstate(state, this.since);
  }

  async #run() {
    while (!this.closed) {
      try {
        if (await this.#follow()) return this.#tell("ended");
      } catch (error) {
        if (error instanceof Problem && error.status >= 400 && error.status < 500) {
          this.isOpen();
          return this.#tell("ended");
        }
      }
      if (this.closed) return;
      if (!document.hidden) this.#tell("stopped");
      this.isOpen();
      // At random, so that all the pages of a restarted service do not come at once.
      const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.failures++) * (0.5 + Math.random());
      await new Promise((resolve) => {
        this.wake = resolve;
        if (!document.hidden) setTimeout(resolve, wait);
      });
    }
  }

  async #follow() {
    this.connection = new AbortController();
    const more = { Accept: "text/event-stream", ...(this.lastId === null ? {} : { "Last-Event-ID": this.lastId }) };
    const response = await fetch(root + withQuery(this.path, { ...this.query, replay: "false" }), {
      headers: headers(more),
      signal: this.connection.signal,
      credentials: "same-origin",
      cache: "no-store",
    });
    if (!response.ok) throw new Problem(response.status, "", "");
    // The service decides where the stream begins before it sends the headers.
    this.isOpen();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    let silence;
    try {
      for (;;) {
        clearTimeout(silence);
        silence = setTimeout(() => this.connection.abort(), SILENCE_MS);
        const { done, value } = await reader.read();
        if (done) return false;
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) if (this.#take(parse(block))) return true;
        // A stream that begins before the first event has no id.
        this.lastId ??= "0";
        this.failures = 0;
        this.#tell("live");
        if (document.hidden) return false;
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
    else this.onevent({ type, data: JSON.parse(data), id });
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
