/* The history of a job: its statuses, and its attempts with their workers. */

import { tableExport } from "../exports.js";
import { ago, bytes, duration, whole, zoned } from "../format.js";
import { statusMark } from "../status.js";
import { h } from "../view.js";

/** The statuses of a job, newest first. */
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
              h("time", { class: "muted", datetime: entry.time }, zoned(entry.time)),
            ),
          ),
      ),
    ),
  );
}

/** The worker of an attempt and its node; of several, the first one, with the others by rank as a tooltip. */
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

/** What the training process of rank 0 has used: a column each of CPU time, memory and, on a GPU, its memory and its time. */
const USAGE = [
  ["CPU time", "of all threads, user and system", (attempt) => duration(attempt.cpu_s)],
  ["Peak memory", "resident, sampled about once a second", (attempt) => size(attempt.peak_memory_bytes)],
  ["Peak GPU memory", "of tensors", (attempt) => size(attempt.peak_gpu_memory_bytes)],
  ["GPU utilization", "fraction of the time in which it computed", (attempt) => share(attempt.gpu_utilization)],
];

const size = (count) => (count === null ? "–" : bytes(count));
const share = (fraction) => (fraction === null ? "–" : `${Math.round(100 * fraction)} %`);

/** The attempts of a job, newest first. */
export function attemptsCard(job, say) {
  const rows = job.attempts.toReversed();
  const onGpu = rows.some((attempt) => attempt.peak_gpu_memory_bytes !== null);
  const usage = onGpu ? USAGE : USAGE.slice(0, 2);
  return h(
    "section",
    { class: "card", key: "attempts" },
    h(
      "header",
      {},
      h("h2", {}, "Attempts"),
      rows.length > 0 && h("div", { class: "actions" }, tableExport({ name: `${job.id}-attempts`, say })),
    ),
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
                ["#", "Worker", "Device", "From step", "Ended", "Duration"].map((name) =>
                  h("th", { key: name, scope: "col" }, name),
                ),
                usage.map(([name, title]) => h("th", { key: name, scope: "col", class: "number", title }, name)),
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
                  usage.map(([name, , show]) => h("td", { key: name, class: "number" }, show(attempt))),
                ),
              ),
            ),
          ),
        )
      : h("div", { class: "body muted" }, `It was queued ${ago(job.queued_at)} and waits for a worker.`),
  );
}
