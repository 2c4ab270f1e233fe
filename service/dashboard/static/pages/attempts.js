/* How a job got to where it is: its states, and its attempts with their workers. */

import { ago, clock, duration, whole } from "../format.js";
import { statusMark } from "../status.js";
import { h } from "../view.js";

/** The states a job went through, the newest first. */
export function historyCard(job) {
  return h(
    "section",
    { class: "card", key: "history" },
    h("header", {}, h("h2", {}, "History")),
    h(
      "div",
      { class: "body" },
      h(
        "ol",
        { class: "history" },
        job.history
          .toReversed()
          .map((entry, n) =>
            h(
              "li",
              { key: job.history.length - n },
              statusMark(entry.status),
              h("span", { class: "why" }, entry.reason ?? ""),
              h(
                "time",
                { class: "muted", datetime: entry.time, title: clock(entry.time) },
                clock(entry.time).slice(11),
              ),
            ),
          ),
      ),
    ),
  );
}

/** Who trained it, and where: of several the first, which reports, and the others behind it, by rank. */
function workersOf({ workers }) {
  const lines = workers.map(({ worker, node }) => `${worker} on ${node}`);
  if (lines.length === 1) return lines[0];
  return h(
    "details",
    { class: "more" },
    h("summary", {}, `${lines[0]} and ${lines.length - 1} more`),
    h(
      "ol",
      {},
      lines.map((line, rank) => h("li", { key: rank }, `rank ${rank}: ${line}`)),
    ),
  );
}

/** Its runs on workers, the newest first. */
export function attemptsCard(job) {
  const rows = job.attempts.toReversed();
  return h(
    "section",
    { class: "card", key: "attempts" },
    h("header", {}, h("h2", {}, "Attempts")),
    rows.length
      ? h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Attempts" },
          h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["#", "Worker", "Device", "From step", "Ended", "Took"].map((name) =>
                  h("th", { key: name, scope: "col" }, name),
                ),
              ),
            ),
            h(
              "tbody",
              {},
              rows.map((attempt) =>
                h(
                  "tr",
                  { key: attempt.id },
                  h("th", { scope: "row" }, attempt.number),
                  h("td", {}, workersOf(attempt)),
                  h("td", {}, attempt.device ?? "–"),
                  h("td", {}, whole(attempt.resumed_from_step)),
                  h(
                    "td",
                    {},
                    h(
                      "span",
                      { title: attempt.reason ?? null },
                      attempt.outcome ?? "runs",
                      attempt.reason ? `: ${attempt.reason}` : "",
                    ),
                  ),
                  h(
                    "td",
                    {},
                    duration(
                      ((attempt.ended_at ? new Date(attempt.ended_at) : Date.now()) - new Date(attempt.started_at)) /
                        1000,
                    ),
                  ),
                ),
              ),
            ),
          ),
        )
      : h("div", { class: "body muted" }, `It waits for a worker since ${ago(job.queued_at)}.`),
  );
}
