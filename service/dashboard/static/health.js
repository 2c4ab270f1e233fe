/* The state of the service, as /readyz reports it. */

import { root } from "./root.js";
import { h } from "./view.js";

const ASK_MS = 10_000;
const ASK_OFFLINE_MS = 1_000;
const UNKNOWN = { tone: "unknown", text: "…", detail: "Checking the service" };
const OFFLINE = { tone: "bad", text: "Offline", detail: "The service does not answer." };

export class Health {
  #state = UNKNOWN;
  #asking = null;
  #timer = null;

  /** `onchange()` after each answer; `onback()` when the service answers again after it did not. */
  constructor({ onchange, onback }) {
    Object.assign(this, { onchange, onback });
    document.addEventListener("visibilitychange", () => this.ask());
    this.ask();
  }

  /** Note that a request was not answered. */
  lost() {
    this.#state = OFFLINE;
    this.#askIn(ASK_OFFLINE_MS);
    this.onchange();
  }

  /** Ask now, and from then on regularly, while the page is visible. */
  ask() {
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = null;
      this.#askIn(this.#state === OFFLINE ? ASK_OFFLINE_MS : ASK_MS);
    });
    return this.#asking;
  }

  #askIn(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.ask(), wait);
  }

  async #ask() {
    if (document.hidden) return;
    const before = this.#state;
    try {
      const response = await fetch(`${root}/readyz`, { credentials: "omit" });
      const { status, checks } = await response.json();
      const detail = Object.values(checks)
        .map((check) => check.detail)
        .join(" ");
      this.#state = {
        ready: { tone: "good", text: "Ready", detail },
        degraded: { tone: "warn", text: "Degraded", detail },
        unavailable: { tone: "warn", text: checks.database.ok ? "Jobs wait" : "No database", detail },
      }[status];
    } catch {
      this.#state = OFFLINE;
    }
    this.onchange();
    if (before === OFFLINE && this.#state !== OFFLINE) this.onback();
  }

  /** The state as a link to the page of the cluster. */
  view() {
    const { tone, text, detail } = this.#state;
    return h(
      "a",
      { class: `health health-${tone}`, href: "/cluster", title: detail },
      h("span", { class: "dot", "aria-hidden": "true" }),
      h("span", {}, text),
    );
  }
}
