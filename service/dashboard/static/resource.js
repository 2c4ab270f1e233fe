/* A resource that a page reads from the API: its data, its problem, and whether a request is pending. */

export class Resource {
  #running = null;

  constructor(refresh) {
    this.refresh = refresh;
    this.data = null;
    this.problem = null;
    this.pending = false;
    this.key = null;
    this.read = null;
  }

  /**
   * Read the data with `read(signal)` if `key` has changed or the last request failed. The old data stay until the new
   * ones arrive.
   */
  load(key, read) {
    this.read = read;
    if (key === this.key && !this.problem) return this.settled;
    this.key = key;
    return this.reload();
  }

  /** Read the same data again. */
  reload() {
    if (!this.read) return Promise.resolve();
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    this.pending = true;
    this.settled = this.#finish(running);
    this.refresh();
    return this.settled;
  }

  async #finish(running) {
    try {
      const data = await this.read(running.signal);
      if (running !== this.#running) return this.#latest();
      this.data = data;
      this.problem = null;
    } catch (error) {
      if (running !== this.#running) return this.#latest();
      if (error.name === "AbortError") return;
      this.problem = error;
    }
    this.pending = false;
    this.refresh();
  }

  /** The end of the request that replaced this one; at once if the page was closed. */
  #latest = () => this.#running && this.settled;

  /** Abort a pending request. */
  close() {
    this.#running?.abort();
    this.#running = null;
  }
}

/** A function that runs `action` at most once in `wait` ms, and after the last call. */
export function throttled(action, wait) {
  let last = 0;
  let timer = null;
  const run = () => {
    timer = null;
    last = Date.now();
    action();
  };
  const call = () => {
    if (timer !== null) return;
    const rest = last + wait - Date.now();
    timer = setTimeout(run, Math.max(0, rest));
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}
