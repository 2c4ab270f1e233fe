/* What a page reads from the API: the data, the problem where there was one, and whether an answer is on its way. */

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

  /** Read anew if `key` is another than the last time. `read(signal)` answers the data; the old stays until the new is
   * there. */
  load(key, read) {
    this.read = read;
    if (key === this.key) return this.settled;
    this.key = key;
    return this.reload();
  }

  /** Read again what was read before. */
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
      if (running !== this.#running) return;
      this.data = data;
      this.problem = null;
    } catch (error) {
      if (running !== this.#running || error.name === "AbortError") return;
      this.problem = error;
    }
    this.pending = false;
    this.refresh();
  }

  /** Stop what is on its way. */
  close() {
    this.#running?.abort();
    this.#running = null;
  }
}

/** A function that runs `action` at most once in `wait` ms, and once more at the end. */
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
