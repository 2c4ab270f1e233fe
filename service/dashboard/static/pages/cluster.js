/* The cluster: its nodes, its workers and the queue. */

import { get } from "../api.js";
import { tableExport } from "../exports.js";
import { ago, whole } from "../format.js";
import { facts, linkButton, notice, problemNotice } from "../parts.js";
import { Resource } from "../resource.js";
import { shape, statusMark } from "../status.js";
import { h } from "../view.js";
import { diskCard } from "./disk.js";

const REREAD_MS = 2000;
const REREAD_DISK_MS = 60_000;
const ACTIVE = ["starting", "running", "pausing", "cancelling"];

export default function clusterPage(shell) {
  const cluster = new Resource(shell.refresh);
  const jobs = new Resource(shell.refresh);
  // The state of the cluster has no events, so it is polled while the page is visible.
  const timer = setInterval(() => {
    if (document.hidden) return;
    if (!cluster.pending) cluster.reload();
    if (!jobs.pending) jobs.reload();
  }, REREAD_MS);
  const disk = diskCard(shell);
  const diskTimer = setInterval(() => document.hidden || disk.reload(), REREAD_DISK_MS);

  function away({ dispatcher, ray }) {
    const queueing =
      "Submitted jobs stay in the queue and start when the dispatcher is back. All results remain available.";
    if (!dispatcher.alive)
      return notice(
        "warn",
        dispatcher.renewed_at ? "The dispatcher is away" : "No dispatcher has been started",
        dispatcher.renewed_at
          ? `Its last heartbeat was ${ago(dispatcher.renewed_at)}. The page shows its last report.`
          : "The dispatcher assigns jobs to workers. Start it with: normlab up.",
        queueing,
      );
    if (ray.status !== "connected")
      return notice(
        "warn",
        "Ray cannot be reached",
        `The dispatcher lives, and tries again${ray.address ? ` at ${ray.address}` : ""}.`,
        queueing,
      );
    return null;
  }

  function slots({ slots: { total, busy } }) {
    return h(
      "div",
      { class: "slots", role: "img", "aria-label": `${busy} of ${total} slots busy` },
      Array.from({ length: Math.min(total, 256) }, (_, n) =>
        h("span", { key: n, class: n < busy ? "slot busy" : "slot" }, shape(n < busy ? "M5.5 3.5v9l7-4.5z" : "M5 8h6")),
      ),
    );
  }

  /** Notices on queued jobs that need several workers. */
  function queued({ next_up: next, too_large: tooLarge }) {
    if (!next && !tooLarge) return null;
    return h(
      "p",
      { class: "muted", key: "queued" },
      next && [
        h("a", { href: `/jobs/${next.job}` }, "A job"),
        ` of ${next.num_workers} workers is next: it starts once as many are free at once, and no other starts before. `,
      ],
      tooLarge
        ? `${whole(tooLarge)} queued ${tooLarge === 1 ? "job needs" : "jobs need"} more workers than there are slots, and ${tooLarge === 1 ? "waits" : "wait"} for more.`
        : null,
    );
  }

  function table(label, heads, rows, empty) {
    return h(
      "section",
      { class: "card", key: label },
      h(
        "header",
        {},
        h("h2", {}, label),
        rows.length > 0 && h("div", { class: "actions" }, tableExport({ name: label.toLowerCase(), say: shell.say })),
      ),
      rows.length
        ? h(
            "div",
            { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
            h(
              "table",
              {},
              h(
                "thead",
                {},
                h(
                  "tr",
                  {},
                  heads.map(([name, number]) =>
                    h("th", { key: name, scope: "col", class: number ? "number" : null }, name),
                  ),
                ),
              ),
              h("tbody", {}, rows),
            ),
          )
        : h("div", { class: "body muted" }, empty),
    );
  }

  function workers(it) {
    const names = new Map((jobs.data?.data ?? []).map((job) => [job.id, job]));
    return table(
      "Workers",
      [["Worker"], ["State"], ["Job"], ["Device"], ["Node"], ["Process", true]],
      it.workers.map((worker) => {
        const job = names.get(worker.job);
        return h(
          "tr",
          { key: worker.id },
          h("th", { scope: "row" }, worker.id),
          h(
            "td",
            {},
            statusMark({ busy: "running", idle: "queued", starting: "starting" }[worker.state]).children[0],
            ` ${worker.state}`,
          ),
          h("td", {}, worker.job ? h("a", { href: `/jobs/${worker.job}` }, job ? job.title : worker.job) : "–"),
          h("td", {}, worker.device ?? "–"),
          h("td", {}, worker.node ?? "–"),
          h("td", { class: "number" }, worker.pid ?? "–"),
        );
      }),
      "No worker is warm. One starts with the next job, in a few seconds.",
    );
  }

  return {
    title: () => "Cluster",
    load() {
      cluster.load("cluster", (signal) => get("/v1/cluster", {}, { signal }));
      disk.load();
      jobs.load("jobs", (signal) => get("/v1/jobs", { status: ACTIVE, limit: 200 }, { signal }));
    },
    view() {
      const it = cluster.data;
      const heading = h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "Cluster"),
        h("div", { class: "actions" }, linkButton("HTTP API", "/docs")),
      );
      if (!it)
        return [
          heading,
          cluster.problem
            ? problemNotice(cluster.problem, () => cluster.reload())
            : h("div", { class: "empty", "aria-busy": "true" }, "Asking the cluster…"),
        ];
      return [
        heading,
        cluster.problem && problemNotice(cluster.problem, () => cluster.reload()),
        away(it),
        h(
          "section",
          { class: "card", key: "slots" },
          h("header", {}, h("h2", {}, "Slots"), h("small", {}, "a slot trains one job at a time")),
          h(
            "div",
            { class: "body live" },
            facts(
              [
                ["Busy", whole(it.slots.busy)],
                ["Free", whole(it.slots.free)],
                ["Waiting jobs", h("a", { href: "/jobs?status=queued" }, whole(it.queue.queued))],
                ["Longest wait", it.queue.oldest_queued_at ? ago(it.queue.oldest_queued_at).replace(" ago", "") : "–"],
                ["Dispatcher", it.dispatcher.alive ? "alive" : "away"],
                ["Ray", it.ray.status],
              ],
              { class: "facts big" },
            ),
            it.slots.total ? slots(it) : null,
            it.slots.problem ? h("p", { key: "problem" }, it.slots.problem) : null,
            queued(it.queue),
          ),
        ),
        workers(it),
        table(
          "Nodes",
          [["Node"], ["Address"], ["State"], ["CPUs", true], ["GPUs", true]],
          it.nodes.map((node) =>
            h(
              "tr",
              { key: node.id },
              h("th", { scope: "row" }, node.id),
              h("td", {}, node.address ?? "–"),
              h("td", {}, node.alive ? "alive" : "gone"),
              h("td", { class: "number" }, whole(node.cpus)),
              h("td", { class: "number" }, whole(node.gpus)),
            ),
          ),
          "No node is known.",
        ),
        disk.view(),
      ];
    },
    close() {
      clearInterval(timer);
      clearInterval(diskTimer);
      disk.close();
      cluster.close();
      jobs.close();
    },
  };
}
