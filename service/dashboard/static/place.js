/* The place of a window among those of this browser that want an event stream.

A browser opens six connections to a server by HTTP/1.1, for all windows together. So only the first few windows hold a
stream, and the rest of the connections stays free for requests. The windows tell each other that they exist by a
BroadcastChannel, which also works on plain http. */

const MOST_STREAMS = 4;
const ANSWERED_MS = 200;
const BEAT_MS = 5_000;
const LOST_MS = 15_000;

export class Place {
  #others = new Map();
  #hasAsked = false;
  #wasOpen = false;

  /** `onchange()` whenever `mayStream` changes. */
  constructor(onchange) {
    this.onchange = onchange;
    this.id = `${Date.now()} ${Math.random()}`;
    this.channel = new BroadcastChannel("normlab streams");
    this.channel.onmessage = ({ data }) => this.#hear(data);
    this.#say("asks");
    this.answered = setTimeout(() => ((this.#hasAsked = true), this.#look()), ANSWERED_MS);
    this.beat = setInterval(() => this.#beat(), BEAT_MS);
    this.leave = this.leave.bind(this);
    addEventListener("pagehide", this.leave);
  }

  /** Whether this window may hold a stream: it is one of the first that want one. */
  get mayStream() {
    return this.#hasAsked && [...this.#others.keys()].filter((id) => id < this.id).length < MOST_STREAMS;
  }

  /** Want no stream any more. */
  leave() {
    if (this.channel.onmessage === null) return;
    this.#say("leaves");
    this.channel.onmessage = null;
    this.channel.close();
    clearTimeout(this.answered);
    clearInterval(this.beat);
    removeEventListener("pagehide", this.leave);
  }

  #say(what) {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a channel has no target
    this.channel.postMessage({ id: this.id, what });
  }

  #hear({ id, what }) {
    if (what === "leaves") this.#others.delete(id);
    else this.#others.set(id, Date.now());
    if (what === "asks") this.#say("is here");
    this.#look();
  }

  /** Say that this window is still here, and forget those that ended without a word. */
  #beat() {
    this.#say("is here");
    for (const [id, heard] of this.#others) if (Date.now() - heard > LOST_MS) this.#others.delete(id);
    this.#look();
  }

  #look() {
    if (this.mayStream === this.#wasOpen) return;
    this.#wasOpen = this.mayStream;
    this.onchange();
  }
}
