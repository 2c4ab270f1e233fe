/* Several experiments in one table: their cells side by side, and the differences of equal cells. */

import { download, get, withQuery } from "../api.js";
import { chart } from "../chart.js";
import { drawing } from "../curves.js";
import { exportMenu, tableExport } from "../exports.js";
import { isFraction, isolated, metricName, metricValue, significant } from "../format.js";
import { emptyState, linkButton, picker, problemNotice, shortened } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { swatch } from "../series.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { outcomes } from "../vocabulary.js";
import { assumptions, capital, confounds, signed, verdict } from "./comparisons.js";

const REREAD_MS = 2000;
const STATISTICS = [
  ["final", "final"],
  ["median_last_5", "median of the last 5"],
  ["best", "best"],
];

/** The short name of an experiment on this page, by its place. */
const letter = (n) => String.fromCharCode("A".charCodeAt(0) + n);
const words = (field) => field.replaceAll("_", " ");

export default function comparisonPage(shell) {
  const compared = new Resource(shell.refresh);
  const reread = throttled(() => compared.reload(), REREAD_MS);
  let opened = false;

  const ids = () => url.list("experiments");
  const query = () => ({ experiment: ids(), metric: url.get("metric"), statistic: url.get("statistic") });

  async function load() {
    if (!opened) {
      opened = true;
      // A job has a value once it has ended.
      await shell.live("/v1/events", {}, ({ type }) => type === "status" && reread());
    }
    if (ids().length < 2) return;
    await compared.load(JSON.stringify(query()), (signal) => get("/v1/comparison", query(), { signal }));
  }

  const table = (part, type = "text/csv", ending = "csv") =>
    download(withQuery("/v1/comparison", { ...query(), table: part }), `experiments-${part}.${ending}`, type);

  /** The line of a row of an experiment: its colour is that of the row, its dashes are those of the experiment. */
  const style = (it, row, n) => ({
    id: `${row} ${it.experiments[n].experiment}`,
    line: `${row}~${it.experiments[n].experiment}`,
    name: `${row}, ${letter(n)}`,
    colour: it.rows.values.findIndex(({ label }) => label === row),
    dash: n,
  });

  /** The rows of the table: each row of each experiment that has it. */
  const lines = (it) =>
    it.rows.values.flatMap(({ label }) =>
      it.experiments
        .map((one, n) => ({ row: label, n, cells: one.cells.filter((cell) => cell.row === label) }))
        .filter(({ cells }) => cells.length),
    );

  function members(it) {
    return h(
      "ul",
      { class: "members", key: "members", "aria-label": "Experiments" },
      it.experiments.map((one, n) =>
        h(
          "li",
          { key: one.experiment },
          h("strong", {}, letter(n)),
          " ",
          h("a", { href: `/experiments/${one.experiment}` }, one.title),
          it.experiments.length > 2 && [
            " ",
            h(
              "a",
              {
                class: "muted",
                href: url.with({
                  experiments: ids()
                    .filter((id) => id !== one.experiment)
                    .join(","),
                }),
                "aria-label": `Leave ${one.title} out`,
                title: "Leave out",
              },
              "×",
            ),
          ],
        ),
      ),
    );
  }

  function cells(it) {
    return h(
      "section",
      { class: "card", key: "cells" },
      h(
        "header",
        {},
        h("h2", {}, `${capital(metricName(it.metric))}, mean over seeds`),
        h("small", {}, `${it.statistic_title}, on ${it.datasets.join(", ")}`),
        h(
          "div",
          { class: "actions" },
          picker(
            "Metric",
            outcomes().map((name) => [name, metricName(name)]),
            it.metric,
            (value) => url.change({ metric: value }),
            { hiddenLabel: true },
          ),
          picker("Statistic", STATISTICS, it.statistic, (value) => url.change({ statistic: value }), {
            hiddenLabel: true,
          }),
          exportMenu(
            [
              ["CSV of the cells", () => table("cells")],
              ["CSV of the differences", () => table("differences")],
              ["LaTeX, with the differences", () => table("cells", "application/x-latex", "tex")],
            ],
            shell.say,
          ),
        ),
      ),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Cells of the experiments" },
        h(
          "table",
          { class: "comparison" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, words(it.rows.field)),
              h("th", { scope: "col" }, "Experiment"),
              it.columns.values.map(({ label }) =>
                h("th", { key: label, scope: "col", class: "number" }, `${words(it.columns.field)} ${label}`),
              ),
            ),
          ),
          h(
            "tbody",
            {},
            lines(it).map(({ row, n, cells: found }) =>
              h(
                "tr",
                { key: `${row} ${it.experiments[n].experiment}` },
                h("th", { scope: "row" }, swatch(style(it, row, n)), row),
                h(
                  "td",
                  { title: it.experiments[n].title },
                  h("strong", {}, letter(n)),
                  h("span", { class: "name" }, " ", shortened(it.experiments[n].title)),
                ),
                it.columns.values.map(({ label }) =>
                  value(
                    it,
                    label,
                    found.find((cell) => cell.column === label),
                  ),
                ),
              ),
            ),
          ),
        ),
      ),
      h(
        "div",
        { class: "below" },
        h(
          "small",
          {},
          `Evaluated on: ${it.evaluated_on}. ± is half of the ${Math.round(100 * it.confidence)} % interval of the mean by the t distribution; in brackets, the number of seeds.`,
        ),
      ),
    );
  }

  function value(it, key, cell) {
    if (!cell) return h("td", { key, class: "number muted" }, "–");
    if (cell.mean === null) return h("td", { key, class: "number muted", title: cell.note }, "no value yet");
    const half = cell.interval && (cell.interval[1] - cell.interval[0]) / 2;
    const text = half === null ? "" : ` ± ${signed(it.metric, half).slice(1)}`;
    return h(
      "td",
      { key, class: "number", title: cell.note },
      `${metricValue(it.metric, cell.mean)}${text} `,
      h("small", {}, `(${cell.n})`),
    );
  }

  function figure(it) {
    const factor = isFraction(it.metric) ? 100 : 1;
    const labels = it.columns.values.map(({ label }) => label);
    const hidden = url.all("hidden");
    const series = lines(it).map(({ row, n, cells: found }) => ({
      ...style(it, row, n),
      markers: true,
      stamp: JSON.stringify(found.map((cell) => [cell.mean, cell.interval])),
      points: labels
        .map((column) => found.find((cell) => cell.column === column))
        .filter((cell) => cell && cell.mean !== null)
        .map((cell) => ({
          x: cell.column,
          y: cell.mean * factor,
          ...(cell.interval ? { low: cell.interval[0] * factor, high: cell.interval[1] * factor } : {}),
        })),
    }));
    return chart({
      key: "experiments",
      title: `${capital(metricName(it.metric))} by ${words(it.columns.field)}`,
      note: "a colour a row, a kind of line an experiment",
      series,
      axes: {
        x: words(it.columns.field),
        y: metricName(it.metric, { unit: true }),
        categories: labels,
        formatX: String,
        formatY: (shown) => metricValue(it.metric, shown / factor),
        logY: drawing().logY,
      },
      height: 420,
      exported: {
        path: "/v1/comparison",
        query: {
          ...query(),
          line: hidden.length
            ? lines(it)
                .map(({ row, n }) => style(it, row, n))
                .filter(({ id }) => !hidden.includes(id))
                .map(({ line }) => line)
            : null,
          log_y: drawing().logY || null,
        },
        name: "experiments",
        say: shell.say,
      },
    });
  }

  function differences(it) {
    const letters = new Map(it.experiments.map((one, n) => [one.experiment, letter(n)]));
    const percent = Math.round(100 * it.confidence);
    const heads = [words(it.rows.field), words(it.columns.field), "a − b", "Significant (Holm)"];
    return h(
      "section",
      { class: "card", key: "differences" },
      h(
        "header",
        {},
        h("h2", {}, "Differences between the experiments"),
        h(
          "small",
          {},
          `paired over seeds, ${percent} % intervals, p adjusted for ${it.family_size} differences (Holm)`,
        ),
        it.differences.length > 0 &&
          h("div", { class: "actions" }, tableExport({ name: "experiments-differences", say: shell.say })),
      ),
      it.differences.length
        ? h(
            "div",
            { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Differences" },
            h(
              "table",
              { class: "compact differences" },
              h(
                "thead",
                {},
                h(
                  "tr",
                  {},
                  heads.map((name) => h("th", { key: name, scope: "col" }, name)),
                  ["Difference", "Interval", "p adjusted"].map((name) =>
                    h("th", { key: name, scope: "col", class: "number" }, name),
                  ),
                ),
              ),
              h(
                "tbody",
                {},
                it.differences.map((one) => difference(one, it, letters)),
              ),
            ),
          )
        : h("div", { class: "body muted" }, "Nothing is compared: the notes below say why."),
    );
  }

  function difference(one, it, letters) {
    const [a, b] = [letters.get(one.experiment_a), letters.get(one.experiment_b)];
    const p = one.p_adjusted === null ? "–" : one.p_adjusted < 0.001 ? "< 0.001" : significant(one.p_adjusted, 2);
    return h(
      "tr",
      { key: `${one.row} ${one.column} ${one.experiment_a} ${one.experiment_b}` },
      h("th", { scope: "row" }, one.row),
      h("td", {}, one.column),
      h("td", {}, `${a} − ${b}`),
      h("td", {}, verdict({ ...one, row_a: a, row_b: b }, it.metric)),
      h(
        "td",
        { class: "number", title: `over ${one.n} seeds${one.failed ? `; ${one.failed} failed` : ""}` },
        signed(it.metric, one.difference),
      ),
      h(
        "td",
        { class: "number" },
        one.interval ? `${signed(it.metric, one.interval[0])} to ${signed(it.metric, one.interval[1])}` : "–",
      ),
      h("td", { class: "number" }, p),
    );
  }

  function content() {
    const it = compared.data;
    if (ids().length < 2)
      return emptyState(
        "Nothing to compare",
        "Select two or more experiments in their table, then choose Compare.",
        linkButton("All experiments", "/experiments", { kind: "primary" }),
      );
    if (!it)
      return compared.problem
        ? problemNotice(compared.problem, () => compared.reload())
        : h("div", { class: "empty", "aria-busy": "true" }, "Comparing the experiments…");
    const own = it.experiments.flatMap((one) =>
      one.warnings.map((warning) => ({ ...warning, detail: `${isolated(one.title)}: ${warning.detail}` })),
    );
    return [
      compared.problem && problemNotice(compared.problem, () => compared.reload()),
      members(it),
      confounds(it.warnings.filter((one) => one.code === "experiments_differ")),
      figure(it),
      cells(it),
      differences(it),
      assumptions([...it.warnings.filter((one) => one.code !== "experiments_differ"), ...own]),
    ];
  }

  return {
    title: () => "Compare experiments",
    load,
    view: () => [
      h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "Compare experiments"),
        h("div", { class: "actions" }, linkButton("All experiments", "/experiments")),
      ),
      content(),
    ],
    close() {
      compared.close();
      reread.cancel();
    },
  };
}
