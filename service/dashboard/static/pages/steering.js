/* The heading of an experiment, with all its buttons. */

import { download, send } from "../api.js";
import { whole } from "../format.js";
import { submitterLink } from "../metrics.js";
import { button, confirmed, copyButton, linkButton } from "../parts.js";
import { parseJson } from "../request.js";
import { shared, writing } from "../session.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { experimentStatus } from "../vocabulary.js";
import { experimentMark } from "./experiments.js";
import { changePriority } from "./queueplace.js";
import { Shares } from "./shares.js";

/** The heading of an experiment as a view. `changed(experiment)` receives the answer of the service; `asked()` is the
 * query of its results. */
export function steering(shell, id, { changed, asked }) {
  const shares = new Shares(shell, id);

  async function ask(verb, question = null) {
    if (question && !confirmed(question)) return;
    const go = url.fromHere();
    try {
      if (verb === "delete") {
        await send("DELETE", `/v1/experiments/${id}`);
        return go("/experiments");
      }
      changed(await send("POST", `/v1/experiments/${id}/${verb}`));
      shell.say(
        {
          pause: "Pause of its jobs requested.",
          resume: "Its paused jobs are queued again.",
          cancel: "Cancellation of its jobs requested.",
        }[verb],
      );
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  async function rename(it) {
    const name = window.prompt("Name of the experiment", it.name ?? "");
    if (name === null || name.trim() === "" || name === it.name) return;
    try {
      changed(await send("PATCH", `/v1/experiments/${id}`, { name: name.trim() }));
      shell.say("The experiment is renamed.");
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  async function prioritize(it) {
    const answer = await changePriority(`/v1/experiments/${id}`, it.priority, shell);
    if (answer) changed(answer);
  }

  async function addSeeds(it) {
    const seeds = it.grid.seed ?? [0];
    const answer = window.prompt("How many more seeds should every cell get?", "2");
    const count = Number(answer);
    if (answer === null || !Number.isInteger(count) || count < 1) return;
    const last = seeds.map(BigInt).reduce((most, one) => (one > most ? one : most));
    try {
      const seed = Array.from({ length: count }, (_, n) => parseJson(String(last + BigInt(n + 1))));
      changed(await send("PATCH", `/v1/experiments/${id}`, { grid: { seed } }));
      shell.say(`Every cell gets ${count} more ${count === 1 ? "seed" : "seeds"}.`);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  async function bundle() {
    try {
      await download(`/v1/experiments/${id}/bundle`, `${id}.tar`);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  async function report() {
    try {
      // A report has both tables of a tuned experiment.
      const { stage: _, ...question } = asked();
      const query = new URLSearchParams(Object.entries(question).filter(([, value]) => value));
      await download(`/v1/experiments/${id}/report?${query}`, `${id}.html`);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  return function heading(it) {
    const { actions } = experimentStatus(it.status);
    return h(
      "div",
      { class: "heading", key: "heading" },
      h("h1", {}, it.title),
      experimentMark(it.status),
      h(
        "div",
        { class: "actions" },
        actions.includes("pause") && button("Pause", () => ask("pause"), { key: "pause", ...writing() }),
        actions.includes("resume") &&
          button("Resume", () => ask("resume"), { key: "resume", kind: "primary", ...writing() }),
        it.request.seeds || !actions.includes("extend")
          ? null
          : button("Add seeds", () => addSeeds(it), { key: "seeds", ...writing() }),
        !experimentStatus(it.status).ended &&
          button("Priority", () => prioritize(it), {
            key: "priority",
            title: `Priority of its jobs: ${it.priority}. A higher one starts first.`,
            ...writing(),
          }),
        !shared() && button("Rename", () => rename(it), { key: "rename", ...writing() }),
        !shared() && linkButton("Clone", url.with({ kind: "experiment", from: id }, "/new"), { key: "clone" }),
        shares.view(),
        button("Report", report, {
          key: "report",
          icon: "download",
          title: "A page with the table, the figure, every comparison, and everything needed to repeat the experiment",
        }),
        !shared() &&
          button("Bundle", bundle, {
            key: "bundle",
            icon: "download",
            title: "Specifications, metrics and results in one file, for another installation",
          }),
        actions.includes("cancel") &&
          button(
            "Cancel",
            () => ask("cancel", "Stop all its jobs for good? Jobs that have ended keep their results."),
            { key: "cancel", kind: "danger", ...writing() },
          ),
        actions.includes("delete") &&
          button(
            "Delete",
            () =>
              ask("delete", "Delete this experiment with all its jobs and their checkpoints? This cannot be undone."),
            { key: "delete", kind: "danger", ...writing() },
          ),
      ),
      h(
        "p",
        {},
        `${whole(it.jobs)} jobs · `,
        h("a", { href: `/jobs?experiment=${id}` }, "show them"),
        it.budget < 1 ? ` · budget ${it.budget}: run at a fraction of the cost` : "",
        " · ",
        h("span", { class: "hash" }, id),
        copyButton(id, "Copy the id of the experiment", shell.say),
        it.submitted_by !== null && [" · submitted by ", submitterLink(it, "/experiments")],
      ),
    );
  };
}
