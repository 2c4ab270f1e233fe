/* The place of a queued job in the queue, when it is expected to start, and its priority. */

import { get, send } from "../api.js";
import { duration, whole } from "../format.js";
import { button, facts } from "../parts.js";
import { Resource } from "../resource.js";
import { writing } from "../session.js";
import { h } from "../view.js";

const REREAD_MS = 3000;

/** Ask for a new priority, and send it to the path of a job or an experiment. Returns the answer; null if none was given. */
export async function changePriority(path, priority, shell) {
  const text = window.prompt("Priority, from -1000 to 1000. A higher one starts first.", String(priority));
  if (text === null || text.trim() === "") return null;
  try {
    const answer = await send("PATCH", path, { priority: Number(text) });
    shell.say(`The priority is ${answer.priority}.`);
    return answer;
  } catch (problem) {
    shell.say(problem.detail, "bad");
    return null;
  }
}

export class QueuePlace {
  /** `changed(job)` receives the job with its new priority. */
  constructor(shell, id, changed) {
    Object.assign(this, { shell, id, changed, isQueued: false });
    this.place = new Resource(shell.refresh);
    this.timer = setInterval(() => this.isQueued && !document.hidden && !this.place.pending && this.#read(), REREAD_MS);
  }

  #read() {
    this.place.read = (signal) => get(`/v1/jobs/${this.id}/queue`, {}, { signal });
    this.place.reload();
  }

  /** The card of a queued job; nothing for another one. */
  view(job) {
    const waits = job.status === "queued";
    if (waits && !this.isQueued) queueMicrotask(() => this.#read());
    this.isQueued = waits;
    const { position, queued, starts_in_s: seconds } = this.place.data ?? {};
    if (!waits || !position) return null;
    return h(
      "section",
      { class: "card", key: "queue", "aria-label": "Queue" },
      h(
        "div",
        { class: "body" },
        facts([
          ["Position in the queue", `${whole(position)} of ${whole(queued)}`],
          ["Expected start", starting(seconds), "estimated from the speeds of similar jobs, if no other job is added"],
          ["Priority", [String(job.priority), " ", this.#button(job)]],
        ]),
      ),
    );
  }

  #button(job) {
    const change = async () => {
      const answer = await changePriority(`/v1/jobs/${this.id}`, job.priority, this.shell);
      if (!answer) return;
      this.changed(answer);
      this.#read();
    };
    return button("Change", change, { kind: "quiet", "aria-label": "Change the priority", ...writing() });
  }

  close() {
    clearInterval(this.timer);
    this.place.close();
  }
}

function starting(seconds) {
  if (seconds === null || seconds === undefined) return "not known";
  return seconds < 1 ? "now" : `in about ${duration(Math.ceil(seconds))}`;
}
