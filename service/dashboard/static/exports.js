/* Export menus: figures, which the service draws in the formats of a paper, and tables as CSV. */

import { download, save, withQuery } from "./api.js";
import { button, menu } from "./parts.js";

/** Widths of a figure in millimetres, as papers have columns. */
const WIDTHS = [
  [84, "one column"],
  [174, "two columns"],
];
const PICTURES = ["pdf", "svg", "png"];

/** The menu of a chart. `path` is that of its figure without the format, `query` selects what is drawn, `name` is the
 * name of the files, `say(text, tone)` reports a problem. */
export function figureExport({ path, query, name, say }) {
  const keep = (format, width) => () =>
    download(withQuery(`${path}.${format}`, { ...query, width }), `${name}.${format}`);
  const pictures = PICTURES.flatMap((format) =>
    WIDTHS.map(([width, words]) => [`${format.toUpperCase()}, ${words} (${width} mm)`, keep(format, width)]),
  );
  return exportMenu([...pictures, ["CSV of what is drawn", keep("csv", null)]], say);
}

/** The menu of a table in the same card: CSV of what it shows, then `more` entries of `exportMenu`. `label` is that of the
 * region of the table, where the card has several. */
export function tableExport({ name, say, label = null, more = [] }) {
  const region = label === null ? "" : `[aria-label="${CSS.escape(label)}"] `;
  const keep = async (card) =>
    save(new Blob([csvOf(card.querySelector(`${region}table`))], { type: "text/csv" }), `${name}.csv`);
  return exportMenu([["CSV of this table", keep], ...more], say);
}

/** A menu of `entries`, each `[text, action]`. `say(text, tone)` reports the problem of an action. */
export function exportMenu(entries, say) {
  const entry = ([text, act]) =>
    button(
      text,
      async ({ currentTarget }) => {
        currentTarget.closest("details").open = false;
        try {
          await act(currentTarget.closest(".card"));
        } catch (problem) {
          say(problem.detail ?? String(problem), "bad");
        }
      },
      { kind: "quiet", key: text },
    );
  return menu("Export", entries.map(entry), { side: "right exports", kind: "quiet" });
}

/** A table as CSV (RFC 4180): the text of its cells, without the columns that select rows or act on them. */
export function csvOf(table) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const isData = (cell) => !cell.matches(".pick, .act");
  return [...table.rows]
    .map(
      (row) =>
        [...row.cells]
          .filter(isData)
          .map((cell) => quoted(textOf(cell)))
          .join(",") + "\r\n",
    )
    .join("");
}

/** The text of a cell: what its `data-csv` says, a point in time instead of its distance from now, or what it shows. */
function textOf(cell) {
  const exact = cell.dataset.csv ?? cell.querySelector("time")?.getAttribute("datetime");
  return (exact ?? cell.textContent)
    .replace(/(?<=\d)\u202f(?=\d)/g, "")
    .replace(/\s+/g, " ")
    .trim();
}
