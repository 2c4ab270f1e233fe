/* Telemetry of the normalization layers of a job: a strip per layer over epochs, and the error that the gaps cause. */

import { chart } from "../chart.js";
import { axesOf, points } from "../curves.js";
import { tableExport } from "../exports.js";
import { significant } from "../format.js";
import { button, choice, emptyState, problemNotice } from "../parts.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { specification } from "../vocabulary.js";

/** Maximum number of rows to request: a strip shows no more columns. */
export const MOST_EPOCHS = 60;

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
  const errors = ["eval_mode_error", "train_mode_error"].filter((name) => rows.some((row) => name in row));
  const how = { x: "epoch", logX: false, logY: false };
  return [
    strips(rows, quantity, title, help, there, tableExport({ name: `${job.id}-${quantity}`, say })),
    errors.length
      ? chart({
          key: "modes",
          title: "What the gaps cost",
          note: "error on the same images with running averages, and with the statistics of each batch",
          series: errors.map((name, n) => ({
            name: name === "eval_mode_error" ? "evaluation mode" : "training mode",
            points: points(rows, name, job),
            colour: n,
            stamp: String(rows.length),
          })),
          axes: { ...axesOf(errors[0], how), y: "error (%)" },
          height: 260,
          exported: {
            path: "/v1/curves",
            query: { job: job.id, metric: errors },
            name: `${job.id}-modes`,
            say,
          },
        })
      : null,
  ];
}

/** The metrics that are measured of every layer: name, title and definition. */
const quantities = () =>
  specification.metrics
    .filter((metric) => metric.per_layer)
    .map(({ name, title, description }) => [name, title.replace(/^./, (c) => c.toUpperCase()), description]);

function strips(rows, quantity, title, help, there, exported) {
  const layers = Object.keys(rows.at(-1))
    .filter((name) => name.endsWith(`/${quantity}`))
    .map((name) => name.split("/")[0]);
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
