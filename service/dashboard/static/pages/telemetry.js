/* Telemetry of a job: a strip per normalization layer over epochs, the percentiles of its features, and curves of the
 * whole network: the error that the gaps cause, the gradient and the loss along a step. */

import { chart } from "../chart.js";
import { axesOf, points } from "../curves.js";
import { tableExport } from "../exports.js";
import { significant } from "../format.js";
import { button, choice, emptyState, picker, problemNotice } from "../parts.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { specification } from "../vocabulary.js";

/** Maximum number of rows to request: a strip shows no more columns. */
export const MOST_EPOCHS = 60;

const BY_EPOCH = { x: "epoch", logX: false, logY: false };

/** The charts of the whole network: quantity, key, title, note and vertical axis. */
const CHARTS = [
  [
    "error",
    "modes",
    "What the gaps cost",
    "error on the same images with running averages, and with the statistics of each batch",
    "error (%)",
  ],
  [
    "gradient_norm",
    "gradient",
    "Gradient predictiveness",
    "how far the gradient moves along the step, from half of it to four times its length (Santurkar et al. 2018)",
    "l2 norm",
  ],
  ["loss", "steploss", "Loss along the step", "range of the training loss along the same step", "loss"],
  ["smoothness", "smoothness", "Effective smoothness", "change of the gradient per distance of the weights", "ratio"],
];

/** The cards. `telemetry` is the resource of the rows. */
export function telemetryCards(telemetry, job, say) {
  if (telemetry.problem) return problemNotice(telemetry.problem, () => telemetry.reload());
  const rows = telemetry.data;
  if (!rows?.length)
    return h(
      "section",
      { class: "card", key: "telemetry", "aria-busy": String(!rows) },
      emptyState("Nothing measured yet", "The layers are measured at the end of an epoch."),
    );
  const there = quantities().filter(([name]) => Object.keys(rows.at(-1)).some((key) => key.endsWith(`/${name}`)));
  const [quantity, title, help] = there.find(([name]) => name === url.get("quantity")) ?? there[0];
  return [
    strips(rows, quantity, title, help, there, tableExport({ name: `${job.id}-${quantity}`, say })),
    h(
      "div",
      { class: "columns", key: "telemetry charts" },
      features(rows, job, say),
      CHARTS.map((about) => ofNetwork(rows, job, say, about)),
    ),
  ];
}

/** The chart of the percentiles of the features of one layer; null if they were not measured. */
function features(rows, job, say) {
  const percentiles = specification.metrics.filter((metric) => metric.quantity === "features");
  const layers = layersOf(rows, percentiles[0]?.name);
  if (!layers.length) return null;
  // The paper has those of the last layer.
  const last = layers.at(-1);
  const layer = layers.find((name) => name === url.get("layer")) ?? last;
  return chart({
    key: "features",
    title: "Features before normalization",
    note: "percentiles over images, channels and pixels (Wu & He 2018)",
    series: percentiles.map(({ name, title }, n) => ({
      name: title,
      points: points(rows, `${layer}/${name}`, job),
      colour: n,
      stamp: `${layer} ${rows.length}`,
    })),
    axes: { ...axesOf(`${layer}/${percentiles[0].name}`, BY_EPOCH), y: "feature" },
    extra: picker(
      "Layer of the features",
      layers.map((name) => [name, name]),
      layer,
      (name) => url.change({ layer: name === last ? null : name }, { replace: true }),
      { hiddenLabel: true },
    ),
    exported: {
      path: "/v1/curves",
      query: { job: job.id, metric: percentiles.map(({ name }) => name), layer },
      name: `${job.id}-features`,
      say,
    },
  });
}

/** A chart of metrics of the whole network; null if they were not measured. */
function ofNetwork(rows, job, say, [quantity, key, title, note, y]) {
  const metrics = specification.metrics.filter(
    (metric) =>
      metric.kind === "telemetry" &&
      !metric.per_layer &&
      metric.quantity === quantity &&
      rows.some((row) => metric.name in row),
  );
  const names = metrics.map(({ name }) => name);
  if (!names.length) return null;
  return chart({
    key,
    title,
    note,
    series: metrics.map((metric, n) => ({
      name: metric.title,
      points: points(rows, metric.name, job),
      colour: n,
      stamp: String(rows.length),
    })),
    axes: { ...axesOf(names[0], BY_EPOCH), y },
    exported: { path: "/v1/curves", query: { job: job.id, metric: names }, name: `${job.id}-${key}`, say },
  });
}

/** The layers of which a metric was measured, in the order of the forward pass. */
const layersOf = (rows, metric) =>
  Object.keys(rows.at(-1))
    .filter((name) => name.endsWith(`/${metric}`))
    .map((name) => name.split("/")[0]);

/** The metrics of every layer that have strips: name, title and definition. */
const quantities = () =>
  specification.metrics
    .filter((metric) => metric.per_layer && metric.quantity !== "features")
    .map(({ name, title, description }) => [name, title.replace(/^./, (c) => c.toUpperCase()), description]);

function strips(rows, quantity, title, help, there, exported) {
  const layers = layersOf(rows, quantity);
  const values = rows.flatMap((row) => layers.map((layer) => row[`${layer}/${quantity}`] ?? null));
  const heat = heatOf(values);
  const numbers = url.list("tables").includes("layers");
  return h(
    "section",
    { class: "card", key: "layers" },
    h(
      "header",
      {},
      h("h2", {}, title),
      h("small", {}, help),
      h(
        "div",
        { class: "actions" },
        choice(
          "Quantity",
          there.map(([name, text]) => [name, text]),
          quantity,
          (name) => url.change({ quantity: name === there[0][0] ? null : name }, { replace: true }),
        ),
        button(numbers ? "Show as strips" : "Show as table", () => toggleTable(), {
          kind: "quiet",
          "aria-pressed": String(numbers),
        }),
        exported,
      ),
    ),
    h(
      "div",
      { class: "scroll body", tabindex: "0", role: "region", "aria-label": `${title} by layer and epoch` },
      h(
        "table",
        { class: numbers ? "strips numbers" : "strips" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "layer \\ epoch"),
            rows.map((row, n) =>
              h(
                "th",
                { key: row.epoch, scope: "col" },
                numbers || n % 5 === 0 || n === rows.length - 1 ? row.epoch : "",
              ),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          layers.map((layer) =>
            h(
              "tr",
              { key: layer },
              h("th", { scope: "row" }, layer),
              rows.map((row) => strip(row, layer, row[`${layer}/${quantity}`] ?? null, heat, numbers)),
            ),
          ),
        ),
      ),
    ),
    h(
      "div",
      { class: "below" },
      h("small", {}, "Input at the top, output at the bottom. "),
      h(
        "span",
        { class: "scale push" },
        significant(heat.least, 2),
        h("span", { class: "ramp" }),
        significant(heat.most, 2),
      ),
    ),
  );
}

function strip(row, layer, value, heat, numbers) {
  const text = value === null ? "–" : significant(value, 3);
  return h(
    "td",
    {
      key: row.epoch,
      title: `${layer}, epoch ${row.epoch}: ${text}`,
      vars: { "--heat": value === null ? 0 : heat.of(value).toFixed(3) },
    },
    numbers ? text : h("span", { class: "visually-hidden" }, text),
  );
}

/** The scale from values to colour strengths, logarithmic if the values span more than a factor of ten. */
export function heatOf(values) {
  const finite = values.filter((value) => value !== null);
  const [least, most] = [Math.min(...finite), Math.max(...finite)];
  const log = least > 0 && most / least > 10;
  const place = log ? Math.log : (value) => value;
  const span = place(most) - place(least);
  return { least, most, of: (value) => (span ? (place(value) - place(least)) / span : 0) };
}

function toggleTable() {
  const tables = url.list("tables");
  const next = tables.includes("layers") ? tables.filter((one) => one !== "layers") : [...tables, "layers"];
  url.change({ tables: next.join(",") }, { replace: true });
}
