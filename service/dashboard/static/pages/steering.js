/* What may be asked of an experiment: its heading, with all its buttons. */

import { download, send } from "../api.js";
import { whole } from "../format.js";
import { button, confirmed, copyButton, linkButton } from "../parts.js";
import { texts } from "../schema.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { experimentMark } from "./experiments.js";

/** The states that do not change any more. */
export const ENDED = ["finished", "cancelled"];

/** The heading of an experiment as a view. `changed(experiment)` is given what the service answers, `asked()` the
 * question of its results. */
export function steering(shell, id, { changed, asked }) {
  async function ask(verb, question = null) {
    if (question && !confirmed(question)) return;
    try {
      if (verb === "delete") {
        await send("DELETE", `/v1/experiments/${id}`);
        return url.go("/experiments");
      }
      changed(await send("POST", `/v1/experiments/${id}/${verb}`));
      shell.say(
        {
          pause: "All its jobs are told to pause.",
          resume: "Its paused jobs are queued again.",
          cancel: "All its jobs are told to stop.",
        }[verb],
      );
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  async function addSeeds(it) {
    const seeds = it.grid.seed ?? [0];
    const answer = window.prompt("How many more seeds should every cell get?", "2");
    const count = Number(answer);
    if (answer === null || !Number.isInteger(count) || count < 1) return;
    const next = Math.max(...seeds) + 1;
    try {
      const seed = Array.from({ length: count }, (_, n) => next + n);
      changed(await send("PATCH", `/v1/experiments/${id}`, { grid: { seed } }));
      shell.say(`Every cell gets ${count} more ${count === 1 ? "seed" : "seeds"}.`);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  async function csv() {
    try {
      const query = new URLSearchParams(Object.entries(asked()).filter(([, value]) => value));
      await download(`/v1/experiments/${id}/results?${query}`, `${id}.csv`, "text/csv");
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
      const query = new URLSearchParams(Object.entries(asked()).filter(([, value]) => value));
      await download(`/v1/experiments/${id}/report?${query}`, `${id}.html`);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  }

  return function heading(it) {
    const ended = ENDED.includes(it.status);
    return h(
      "div",
      { class: "heading", key: "heading" },
      h("h1", {}, it.name || it.id),
      experimentMark(it.status),
      h(
        "div",
        { class: "actions" },
        !ended &&
          !["pausing", "paused", "cancelling"].includes(it.status) &&
          button("Pause", () => ask("pause"), { key: "pause" }),
        ["pausing", "paused"].includes(it.status) &&
          button("Resume", () => ask("resume"), { key: "resume", kind: "primary" }),
        it.request.seeds || it.status === "cancelled"
          ? null
          : button("Add seeds", () => addSeeds(it), { key: "seeds" }),
        linkButton("Clone", cloneAddress(it), { key: "clone" }),
        button("Report", report, {
          key: "report",
          icon: "download",
          title: "The answer as a page: table, figure, every comparison, and all it takes to repeat it",
        }),
        button("CSV", csv, { key: "csv", icon: "download" }),
        button("Bundle", bundle, {
          key: "bundle",
          icon: "download",
          title: "Specifications, metrics and results in one file, for another installation",
        }),
        !ended &&
          it.status !== "cancelling" &&
          button(
            "Cancel",
            () => ask("cancel", "Stop all its jobs for good? Those that have ended keep what they reached."),
            { key: "cancel", kind: "danger" },
          ),
        ended &&
          button(
            "Delete",
            () =>
              ask("delete", "Delete this experiment with all its jobs and their checkpoints? This cannot be undone."),
            { key: "delete", kind: "danger" },
          ),
      ),
      h(
        "p",
        {},
        `${whole(it.jobs)} jobs · `,
        h("a", { href: `/jobs?experiment=${id}` }, "show them"),
        it.budget < 1 ? ` · budget ${it.budget}: a look at a fraction of the cost, not the whole` : "",
        " · ",
        h("span", { class: "hash" }, id),
        copyButton(id, "Copy the id of the experiment", shell.say),
      ),
    );
  };
}

function cloneAddress({ request: it }) {
  const { normalization, batch_size: sizes, seed, ...others } = it.grid;
  const [field, values] = Object.entries(others)[0] ?? [];
  const name = (one) =>
    typeof one === "object"
      ? [one.type, one.num_groups ?? (one.channels_per_group ? `${one.channels_per_group} ch` : "")].join(" ").trim()
      : one;
  return url.with(
    {
      kind: "experiment",
      ...texts(it.base),
      name: it.name,
      budget: it.budget < 1 ? it.budget : null,
      "grid.normalization": normalization?.map(name).join(", "),
      "grid.batch_size": sizes?.join(", "),
      "grid.seed": seed?.join(", "),
      "grid.field": field,
      "grid.values": values?.join(", "),
    },
    "/new",
  );
}
