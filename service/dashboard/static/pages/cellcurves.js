/* Learning curves by cell: the mean with the range or the interval over its seeds, or every seed. */

import { chart } from "../chart.js";
import { axesOf, drawing, figureQuery } from "../curves.js";
import { banded, CurveSet } from "../curveset.js";
import { metricName } from "../format.js";
import { choice } from "../parts.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { cellKey } from "./heatmap.js";

const MOST_JOBS = 500;
/** What is drawn of the seeds of a cell, with the words of the choice and of the note. */
const SPREADS = {
  range: ["Mean and range", "mean and range over the seeds"],
  interval: ["Mean and 95 % interval", "mean over the seeds and its 95 % interval at each point"],
  each: ["Every seed", "a line a seed"],
};

export class CellCurves {
  #drawn = new Map();

  constructor(shell, id) {
    Object.assign(this, { id, say: shell.say, cells: [], left: 0, axes: [[], []], seeds: new Map() });
    this.set = new CurveSet(shell);
  }

  /** Read the curves of the jobs of `cells`, not more than the service answers at once. A row has a colour, a column a
   * dash. */
  load(cells, { rows, columns }, metric) {
    this.axes = [rows, columns].map(({ values }) => values.map(({ label }) => label));
    const drawn = [];
    let room = MOST_JOBS;
    for (const cell of cells) {
      if (cell.jobs.length > room) break;
      room -= cell.jobs.length;
      drawn.push(cell);
    }
    this.cells = drawn;
    this.left = cells.length - drawn.length;
    this.seeds = new Map(drawn.flatMap((cell) => cell.values.map(({ job, seed }) => [job, seed])));
    return this.set.load(
      drawn.flatMap((cell) => cell.jobs),
      metric,
      drawing().smooth,
    );
  }

  /** Apply an event of one of the jobs. */
  take(event) {
    this.set.take(event);
  }

  /** The card. */
  view(metric, chosen) {
    const how = drawing();
    const asked = url.get("seeds", "range");
    const spread = asked in SPREADS ? asked : "range";
    const series = this.cells.flatMap((cell) => {
      const style = {
        colour: this.axes[0].indexOf(cell.row),
        dash: this.axes[1].indexOf(cell.column),
        name: `${cell.row} at ${cell.column}`,
        id: cellKey(cell),
      };
      const curves = cell.jobs.map((id) => this.set.points(id, how));
      if (spread !== "each") return [{ ...style, points: this.#band(style.id, curves, spread) }];
      return curves.map((points, n) => ({
        ...style,
        points,
        detail: `${style.name}, seed ${this.seeds.get(cell.jobs[n]) ?? n}`,
      }));
    });
    const note = this.left
      ? `the first ${this.cells.length} cells; choose cells above to see others`
      : chosen
        ? "of the chosen cells"
        : SPREADS[spread][1];
    const extra = choice(
      "Seeds",
      Object.entries(SPREADS).map(([name, [words]]) => [name, words]),
      spread,
      (value) => url.change({ seeds: value === "range" ? null : value }, { replace: true }),
    );
    const shown = this.cells.map(cellKey).filter((key) => !url.all("hidden").includes(key));
    return h(
      "div",
      { key: "cell curves" },
      chart({
        key: "cells",
        title: `Learning curves, ${metricName(metric)}`,
        note,
        series,
        axes: axesOf(metric, how),
        height: 380,
        extra,
        exported: {
          path: `/v1/experiments/${this.id}/curves`,
          query: { ...figureQuery(how), metric, cell: shown, spread },
          name: `${this.id}-curves`,
          say: this.say,
        },
      }),
    );
  }

  /** The band of a cell, computed again only if one of its curves has changed. */
  #band(key, curves, spread) {
    const known = this.#drawn.get(key);
    if (
      known?.spread === spread &&
      known.curves.length === curves.length &&
      curves.every((one, n) => one === known.curves[n])
    )
      return known.points;
    const points = banded(curves, spread);
    this.#drawn.set(key, { curves, points, spread });
    return points;
  }

  close() {
    this.set.close();
  }
}
