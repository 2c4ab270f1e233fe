/* The buttons of a job. */

import { send } from "./api.js";
import { button, confirmed, linkButton } from "./parts.js";
import { shared, writing } from "./session.js";
import { url } from "./url.js";
import { jobStatus } from "./vocabulary.js";

/** The buttons of a job. `changed(job)` receives the answer of the service. */
export function jobButtons(job, shell, changed) {
  const { actions } = jobStatus(job.status);
  const ask = async (verb, question = null, body = undefined) => {
    if (question && !confirmed(question)) return;
    const go = url.fromHere();
    try {
      const answer =
        verb === "delete"
          ? await send("DELETE", `/v1/jobs/${job.id}`)
          : await send("POST", `/v1/jobs/${job.id}/${verb}`, body);
      if (verb === "delete") return go("/jobs");
      if (verb === "retry" || verb === "extend") return go(`/jobs/${answer.id}`);
      changed(answer);
      shell.say(
        {
          cancel: "Cancellation requested.",
          pause: "Pause requested.",
          resume: "The job is queued again.",
        }[verb],
      );
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  };
  const extend = () => {
    const { epochs } = job.spec;
    const given = window.prompt(`It has trained ${epochs} epochs. How many should it have in all?`, String(2 * epochs));
    if (given !== null) return ask("extend", null, { epochs: Number(given) });
  };
  return [
    actions.includes("pause") && button("Pause", () => ask("pause"), { key: "pause", ...writing() }),
    actions.includes("resume") &&
      button("Resume", () => ask("resume"), { key: "resume", kind: "primary", ...writing() }),
    actions.includes("cancel") &&
      button("Cancel", () => ask("cancel", "Stop this job for good? Its checkpoints are kept."), {
        key: "cancel",
        kind: "danger",
        ...writing(),
      }),
    actions.includes("retry") && button("Retry", () => ask("retry"), { key: "retry", kind: "primary", ...writing() }),
    actions.includes("extend") &&
      button("Extend", extend, {
        key: "extend",
        title: "Continue it for more epochs, as a new job",
        ...writing(),
      }),
    linkButton("Compare", url.with({ selected: job.id, experiment: job.experiment }, "/jobs"), {
      key: "compare",
      title: "Select other jobs to compare it with",
    }),
    !shared() && linkButton("Clone", url.with({ from: job.id }, "/new"), { key: "clone" }),
    actions.includes("delete") &&
      button(
        "Delete",
        () => ask("delete", "Delete this job with its metrics, logs and checkpoints? This cannot be undone."),
        { key: "delete", kind: "danger", ...writing() },
      ),
  ];
}
