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

/** The menu of the table in the same card: CSV of what it shows. */
export function tableExport({ name, say }) {
  const keep = async (card) =>
    save(new Blob([csvOf(card.querySelector("table"))], { type: "text/csv" }), `${name}.csv`);
  return exportMenu([["CSV of this table", keep]], say);
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

/** A table as CSV (RFC 4180): the text of its cells. */
export function csvOf(table) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [...table.rows]
    .map((row) => [...row.cells].map((cell) => quoted(cell.textContent.replace(/\s+/g, " ").trim())).join(",") + "\r\n")
    .join("");
}
