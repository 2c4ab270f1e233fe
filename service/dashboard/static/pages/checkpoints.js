/* The checkpoints of a job, and their files. */

import { bearer, download } from "../api.js";
import { tableExport } from "../exports.js";
import { ago, bytes, metricName, metricValue, whole, zoned } from "../format.js";
import { copyButton, emptyState, ICONS, problemNotice } from "../parts.js";
import { shape } from "../status.js";
import { h } from "../view.js";

/** The checkpoints as a table, newest first. */
export function checkpointTable(checkpoints, hasEnded, shell) {
  if (checkpoints.problem) return problemNotice(checkpoints.problem, () => checkpoints.reload());
  if (!checkpoints.data)
    return h(
      "section",
      { class: "card", key: "checkpoints", "aria-busy": "true" },
      h("div", { class: "body muted" }, "Reading the checkpoints…"),
    );
  const { data, removed } = checkpoints.data;
  if (!data.length)
    return h(
      "section",
      { class: "card", key: "checkpoints" },
      removed
        ? emptyState("No checkpoint any more", gone(removed))
        : hasEnded
          ? emptyState("No checkpoint", "It ended before it took one, or was imported: bundles contain none.")
          : emptyState(
              "No checkpoint yet",
              "The first one is taken at the end of the first epoch, or when the job pauses.",
            ),
    );
  return h(
    "section",
    { class: "card", key: "checkpoints" },
    h(
      "header",
      {},
      h("h2", {}, "Checkpoints"),
      h("div", { class: "actions" }, tableExport({ name: "checkpoints", say: shell.say })),
    ),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Checkpoints" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["Step", "Epoch", "Metrics", "Taken", "File", "Size", "SHA-256", ""].map((name, n) =>
              h(
                "th",
                { key: n, scope: "col", class: n < 2 || n === 5 ? "number" : name ? null : "act" },
                name || h("span", { class: "visually-hidden" }, "Download"),
              ),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          data.flatMap((checkpoint) => checkpoint.files.map((file, n) => fileRow(checkpoint, file, n === 0, shell))),
        ),
      ),
    ),
    removed ? h("div", { class: "body muted", key: "removed" }, gone(removed)) : null,
  );
}

const gone = (removed) =>
  `${whole(removed)} ${removed === 1 ? "checkpoint was" : "checkpoints were"} removed some time after the end of the job, as NORMLAB_RETENTION says.`;

function fileRow(checkpoint, file, first, shell) {
  const metrics = Object.entries(checkpoint.metrics)
    .map(([name, value]) => `${metricName(name)} ${metricValue(name, value)}`)
    .join(", ");
  return h(
    "tr",
    { key: `${checkpoint.id} ${file.name}` },
    h("td", { class: "number" }, first ? whole(checkpoint.step) : ""),
    h("td", { class: "number" }, first ? whole(checkpoint.epoch) : ""),
    h(
      "td",
      {},
      first
        ? [checkpoint.best && h("span", { class: "tag best", key: "best" }, "best"), " ", metrics || "within an epoch"]
        : "",
    ),
    h(
      "td",
      {},
      first
        ? h(
            "time",
            { datetime: checkpoint.created_at, title: zoned(checkpoint.created_at) },
            ago(checkpoint.created_at),
          )
        : "",
    ),
    h("th", { scope: "row" }, file.name),
    h("td", { class: "number", "data-csv": String(file.size) }, bytes(file.size)),
    h(
      "td",
      { "data-csv": file.sha256 },
      h("span", { class: "hash", title: file.sha256 }, `${file.sha256.slice(0, 12)}…`),
      copyButton(file.sha256, `Copy the sha256 of ${file.name}`, shell.say),
    ),
    h("td", { class: "act" }, downloadLink(checkpoint, file, shell)),
  );
}

function downloadLink(checkpoint, file, shell) {
  const path = `/v1/checkpoints/${checkpoint.id}/files/${encodeURIComponent(file.name)}`;
  const label = `Download ${file.name} of step ${checkpoint.step}`;
  const fetched = async (event) => {
    // A link cannot send a token.
    if (!bearer.token) return;
    event.preventDefault();
    try {
      await download(path, file.name);
    } catch (problem) {
      shell.say(problem.detail, "bad");
    }
  };
  return h(
    "a",
    { class: "button", href: path, download: file.name, "aria-label": label, onclick: fetched },
    shape(ICONS.download),
    "Download",
  );
}
