/* Parallel coordinates: a line for each job through its values on several vertical axes. */

import { pick, picked, pointAt } from "../brush.js";
import { figureExport } from "../exports.js";
import { colourOf, swatch } from "../series.js";
import { plain } from "../format.js";
import { h } from "../view.js";

const MOST = 300;
const [WIDTH, HEIGHT, MARGIN, TOP, BOTTOM] = [1000, 320, 70, 34, 26];

/** The card. `groups` are those of the jobs, `sides` the quantities of the axes, `hidden` the names of hidden groups,
 * `exported` the figure that the service draws of it. */
export function parallel(groups, sides, { hidden, datasets, exported }) {
  const chosen = picked();
  const shown = groups.all.filter(({ name }) => !hidden.includes(name));
  const jobs = shown.flatMap(({ members, colour }) => members.map((job) => ({ job, colour }))).slice(0, MOST);
  const axes = sides.map((side, n) =>
    axisOf(side, jobs, MARGIN + (n * (WIDTH - 2 * MARGIN)) / Math.max(1, sides.length - 1)),
  );
  return h(
    "section",
    { class: "card", key: "parallel" },
    h(
      "header",
      {},
      h("h2", {}, "Side by side"),
      h("small", {}, `a line a job, images: ${datasets.join(", ")}; jobs without a value on an axis have a gap`),
      sides.length > 1 && jobs.length > 0 && h("div", { class: "actions" }, figureExport(exported)),
    ),
    h(
      "div",
      { class: "body chart" },
      h(
        "div",
        { class: "legend", key: "legend" },
        shown.map((one) => h("span", { key: one.name, class: "entry" }, swatch(one), one.name)),
      ),
      sides.length < 2
        ? h("div", { class: "waiting", key: "waiting" }, "Choose two or more quantities under “Lines through”.")
        : h(
            "svg",
            {
              key: "drawing",
              class: "parallel",
              viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
              role: "img",
              "aria-label": `${jobs.length} jobs by ${sides.map(({ title }) => title).join(", ")}`,
            },
            jobs.map((one) => line(one, axes, chosen)),
            axes.map(axisView),
          ),
    ),
  );
}

/** An axis: its place, the height of a value, and its ticks. Numbers are spread by value, or by logarithm over decades. */
function axisOf(side, jobs, x) {
  const values = jobs.map(({ job }) => side.of(job)).filter((value) => value !== null);
  const height = (share) => HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
  if (side.numeric && values.length) {
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const scale = least > 0 && most / least >= 100 ? Math.log : (value) => value;
    const span = scale(most) - scale(least);
    const y = (value) => height(span ? (scale(value) - scale(least)) / span : 0.5);
    const ticks = (span ? [least, most] : [least]).map((value) => [side.format(value), y(value)]);
    return { side, x, ticks, y: (job) => (side.of(job) === null ? null : y(side.of(job))) };
  }
  const names = [...new Set(values.map(plain))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const y = (value) => height(names.length > 1 ? names.indexOf(plain(value)) / (names.length - 1) : 0.5);
  return {
    side,
    x,
    ticks: names.map((name) => [name, y(name)]),
    y: (job) => (side.of(job) === null ? null : y(side.of(job))),
  };
}

function line({ job, colour }, axes, chosen) {
  let pen = "M";
  let path = "";
  for (const { x, y } of axes) {
    const at = y(job);
    if (at === null) pen = "M";
    else {
      path += `${pen}${x.toFixed(1)} ${at.toFixed(1)}`;
      pen = "L";
    }
  }
  return h(
    "path",
    {
      key: job.id,
      class: !chosen.length ? "job" : chosen.includes(job.id) ? "job picked" : "job behind",
      "data-job": job.id,
      d: path || "M0 0",
      vars: { "--series": `var(--${colourOf({ colour })})` },
      onpointerenter: () => pointAt(job.id),
      onpointerleave: () => pointAt(null),
      onclick: () => pick(job.id),
    },
    h("title", {}, job.title),
  );
}

function axisView({ side, x, ticks }, n, all) {
  const anchor = n === all.length - 1 ? "end" : n === 0 ? "start" : "middle";
  const towards = n === all.length - 1 ? -6 : 6;
  return h(
    "g",
    { key: side.name, class: "axis" },
    h("path", { d: `M${x} ${TOP}V${HEIGHT - BOTTOM}` }),
    h("text", { x, y: 14, "text-anchor": "middle", class: "name" }, side.title),
    ticks.map(([text, y]) =>
      h("text", { key: text, x: x + towards, y: y + 4, "text-anchor": anchor === "end" ? "end" : "start" }, text),
    ),
  );
}
