/* Evaluations of the checkpoints of a job: by running averages or by the statistics of batches, and what is mistaken. */

import { download, send } from "../api.js";
import { exportMenu, tableExport } from "../exports.js";
import { metricValue, significant, whole } from "../format.js";
import { button, notice, picker, problemNotice } from "../parts.js";
import { statusMark } from "../status.js";
import { url } from "../url.js";
import { writing } from "../session.js";
import { h } from "../view.js";
import { jobStatus } from "../vocabulary.js";
import { signed } from "./comparisons.js";

const LOOK_MS = 2000;
/** The largest batch whose statistics an evaluation takes. */
const MOST_BATCH = 10_000;
const SIZE = 32;
/** Training images that suffice for statistics (Wu & Johnson 2021 use 1,000 to 10,000). */
const PRECISE_IMAGES = 10_000;
const STATISTICS = [
  ["", "running averages"],
  ["precise", `statistics of ${whole(PRECISE_IMAGES)} training images`],
  ...[2, 4, 8, 16, 32, 128].map((size) => [String(size), `batches of ${size}`]),
];
const PRECISIONS = [
  ["", "as trained"],
  ["float32", "float32"],
  ["bfloat16", "bfloat16"],
];

export class Evaluations {
  #timer = null;

  constructor(shell, resource) {
    this.shell = shell;
    this.resource = resource;
    this.asked = { checkpoint: null, split: "", statistics: "", precision: "" };
  }

  /** Read again while an evaluation has not ended. */
  watch() {
    clearTimeout(this.#timer);
    if (this.resource.data?.some((one) => !jobStatus(one.status).ended))
      this.#timer = setTimeout(() => this.resource.reload().then(() => this.watch()), LOOK_MS);
  }

  close() {
    clearTimeout(this.#timer);
  }

  /** Evaluate by running averages and by the statistics of batches as in training, and show both side by side. */
  async #evaluateBoth(job, checkpoint) {
    const size = Number(this.asked.statistics) || Math.min(job.spec.batch_size, MOST_BATCH);
    for (const statistics of ["", String(size)]) await this.#evaluate(checkpoint, { ...this.asked, statistics });
  }

  async #evaluate(checkpoint, { split, statistics, precision } = this.asked) {
    const body = {
      ...(split && { split }),
      ...(statistics === "precise" ? { precise_statistics: PRECISE_IMAGES } : {}),
      ...(Number(statistics) && { batch_statistics: Number(statistics) }),
      ...(precision && { precision }),
    };
    try {
      const answer = await send("POST", `/v1/checkpoints/${checkpoint}/evaluate`, body);
      url.change({ evaluation: answer.id }, { replace: true });
      await this.resource.reload();
      this.watch();
    } catch (problem) {
      this.shell.say(problem.detail, "bad");
    }
  }

  view(job, checkpoints) {
    const { data: found, problem } = this.resource;
    if (problem) return problemNotice(problem, () => this.resource.reload());
    const shown = found?.find((one) => one.id === url.get("evaluation")) ?? found?.[0];
    return [
      h(
        "section",
        { class: "card", key: "evaluate", "aria-busy": String(!found) },
        h(
          "header",
          {},
          h("h2", {}, "Evaluations"),
          h(
            "div",
            { class: "actions" },
            this.#form(job, checkpoints),
            found?.length > 0 && tableExport({ name: `${job.id}-evaluations`, say: this.shell.say }),
          ),
        ),
        found?.length ? table(found, shown) : h("div", { class: "body muted" }, "No checkpoint was evaluated yet."),
      ),
      shown && pairCard(found, shown, this.shell.say),
      shown?.error && h("div", { key: "failed" }, notice("bad", "The evaluation failed", shown.error)),
      shown?.predictions && predictionsCard(shown, this.shell.say),
    ];
  }

  #form(job, checkpoints) {
    if (!checkpoints?.length) return null;
    const { asked } = this;
    const chosen =
      checkpoints.find((one) => one.id === asked.checkpoint) ?? checkpoints.find((one) => one.best) ?? checkpoints[0];
    const set = (name) => (value) => {
      asked[name] = value;
      this.shell.refresh();
    };
    const splits = job.spec.dataset.holdout ? ["holdout", "test", "train"] : ["test", "train"];
    return [
      picker(
        "Checkpoint",
        checkpoints.map((one) => [one.id, `step ${whole(one.step)}${one.best ? " (best)" : ""}`]),
        chosen.id,
        set("checkpoint"),
      ),
      picker(
        "Images",
        splits.map((split) => [split, split]),
        asked.split || splits[0],
        set("split"),
      ),
      picker("Normalized by", STATISTICS, asked.statistics, set("statistics")),
      picker("Precision", PRECISIONS, asked.precision, set("precision")),
      button("Evaluate", () => this.#evaluate(chosen.id), { key: "evaluate", kind: "primary", ...writing() }),
      button("Running averages against batches", () => this.#evaluateBoth(job, chosen.id), {
        key: "both",
        title: "Evaluates twice: by running averages, and by the statistics of batches of the size of the training",
        ...writing(),
      }),
    ];
  }
}

const lossOf = ({ predictions }) => (predictions?.loss ? significant(predictions.loss, 4) : "–");
const howOf = ({ batch_statistics: size, precise_statistics: images }) =>
  size !== null ? `batches of ${size}` : images !== null ? `${whole(images)} training images` : "running averages";

function table(found, shown) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Evaluations" },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Step", "Images", "Normalized by", "Precision", "Error", "Loss", "Status"].map((name) =>
            h(
              "th",
              { key: name, scope: "col", class: ["Step", "Error", "Loss"].includes(name) ? "number" : null },
              name,
            ),
          ),
        ),
      ),
      h(
        "tbody",
        {},
        found.map((one) =>
          h(
            "tr",
            { key: one.id, "aria-current": one === shown ? "true" : null },
            h("td", { class: "number" }, whole(one.step)),
            h("td", {}, one.split),
            h("th", { scope: "row" }, h("a", { href: url.with({ evaluation: one.id }) }, howOf(one))),
            h("td", {}, one.precision ?? "–"),
            h("td", { class: "number" }, metricValue("test_error", one.predictions?.error)),
            h("td", { class: "number" }, lossOf(one)),
            h("td", {}, statusMark(one.status)),
          ),
        ),
      ),
    ),
  );
}

/** Evaluations of the same checkpoint and images by running averages and by batches; null where one is missing. */
function pairCard(found, shown, say) {
  const alike = found.filter(
    (one) =>
      one.checkpoint === shown.checkpoint &&
      one.split === shown.split &&
      one.precision === shown.precision &&
      one.precise_statistics === null &&
      one.predictions,
  );
  const running = alike.find((one) => one.batch_statistics === null);
  const batches =
    shown.batch_statistics !== null && shown.predictions ? shown : alike.find((one) => one.batch_statistics !== null);
  if (!running || !batches) return null;
  const [a, b] = [running.predictions, batches.predictions];
  const rows = [
    [
      "Error",
      metricValue("test_error", a.error),
      metricValue("test_error", b.error),
      signed("test_error", b.error - a.error),
    ],
    ["Loss", lossOf(running), lossOf(batches), a.loss && b.loss ? signed("test_loss", b.loss - a.loss) : "–"],
    ...a.classes.map((one, n) => [
      `Error of ${one.name}`,
      metricValue("test_error", one.error),
      metricValue("test_error", b.classes[n].error),
      one.error === null ? "–" : signed("test_error", b.classes[n].error - one.error),
    ]),
  ];
  const label = "Running averages against batch statistics";
  return h(
    "section",
    { class: "card", key: "pair" },
    h(
      "header",
      {},
      h("h2", {}, label),
      h("small", {}, `step ${whole(running.step)}, ${whole(a.images)} ${running.split} images`),
      h("div", { class: "actions" }, tableExport({ name: `${running.job}-running-against-batches`, say })),
    ),
    h(
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
            ["", howOf(running), howOf(batches), "difference"].map((name, n) =>
              h("th", { key: n, scope: "col", class: n ? "number" : null }, name || "Quantity"),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map(([name, ...values]) =>
            h(
              "tr",
              { key: name },
              h("th", { scope: "row" }, name),
              values.map((value, n) => h("td", { key: n, class: "number" }, value)),
            ),
          ),
        ),
      ),
    ),
  );
}

function predictionsCard({ predictions, split, ...one }, say) {
  const keep = (ending, type) => () => download(`/v1/evaluations/${one.id}`, `${one.id}-confusion.${ending}`, type);
  return h(
    "section",
    { class: "card", key: "predictions" },
    h(
      "header",
      {},
      h("h2", {}, "Predictions"),
      h("small", {}, `step ${whole(one.step)}, ${whole(predictions.images)} ${split} images, ${howOf(one)}`),
      h(
        "div",
        { class: "actions" },
        exportMenu(
          [
            ["CSV of the confusion matrix", keep("csv", "text/csv")],
            ["LaTeX of the confusion matrix", keep("tex", "application/x-latex")],
          ],
          say,
        ),
      ),
    ),
    confusion(predictions),
    h(
      "div",
      { class: "body" },
      h("h3", {}, "Misclassified with the greatest confidence"),
      predictions.mistakes.length
        ? h(
            "ul",
            { class: "mistakes" },
            predictions.mistakes.map((mistake) => picture(mistake, predictions.classes)),
          )
        : h("p", { class: "muted" }, "No image is misclassified."),
    ),
  );
}

/** Rows are classes, columns what is predicted; the darker, the larger the share of the images of the class. */
function confusion({ classes, confusion: rows }) {
  return h(
    "div",
    { class: "scroll body", tabindex: "0", role: "region", "aria-label": "Confusion matrix" },
    h(
      "table",
      { class: "confusion" },
      h("caption", { class: "visually-hidden" }, "Number of images by class (row) and predicted class (column)"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "class \\ predicted"),
          classes.map(({ name }) => h("th", { key: name, scope: "col", class: "number" }, name)),
          h("th", { scope: "col", class: "number" }, "error"),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row, number) =>
          h(
            "tr",
            { key: classes[number].name },
            h("th", { scope: "row" }, classes[number].name),
            row.map((count, place) =>
              h(
                "td",
                {
                  key: place,
                  class: place === number ? "number right" : "number",
                  vars: { "--share": String(classes[number].images ? count / classes[number].images : 0) },
                },
                whole(count),
              ),
            ),
            h("td", { class: "number" }, metricValue("test_error", classes[number].error)),
          ),
        ),
      ),
    ),
  );
}

/** Draws the red, green and blue bytes of an image. */
const DRAW = {
  mount(canvas, { pixels }) {
    const bytes = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
    const image = new ImageData(SIZE, SIZE);
    for (let at = 0; at < SIZE * SIZE; at++) image.data.set([...bytes.subarray(3 * at, 3 * at + 3), 255], 4 * at);
    canvas.getContext("2d").putImageData(image, 0, 0);
  },
};

function picture({ index, label, predicted, confidence, pixels }, classes) {
  const told = `${classes[label].name}, taken for ${classes[predicted].name} (${metricValue("test_error", confidence)})`;
  return h(
    "li",
    { key: index },
    h("canvas", { key: index, width: SIZE, height: SIZE, role: "img", "aria-label": told, hook: { ...DRAW, pixels } }),
    h("span", {}, told),
  );
}
