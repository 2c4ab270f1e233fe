/* The order of the table of jobs, by one or several columns, held in the address. */

import { ICONS } from "../parts.js";
import { shape } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";

const USUAL = "-created_at";
const MOST = 4;

/** The sort keys, the most significant first; a minus means descending. */
export const sortedBy = () => url.list("sort", [USUAL]);

const bare = (key) => key.replace(/^-/, "");

/** The sort keys after a column was chosen: alone, or `added` to the others. Choosing it again reverses the order. */
export function chosen(keys, field, added) {
  const at = keys.findIndex((key) => bare(key) === field);
  const turned = at >= 0 && keys[at] === field ? `-${field}` : field;
  if (!added) return [turned];
  return at >= 0 ? keys.with(at, turned) : [...keys, field].slice(0, MOST);
}

/** The head of a column, which sorts by `field` if the service can. */
export function sortable(key, text, field, { number = false, title = null } = {}) {
  const props = { key, class: number ? "number" : null, scope: "col", title };
  if (!field) return h("th", props, text);
  const keys = sortedBy();
  const at = keys.findIndex((one) => bare(one) === field);
  const descending = at >= 0 && keys[at].startsWith("-");
  return h(
    "th",
    // aria-sort describes only the first sort key.
    { ...props, "aria-sort": at === 0 ? (descending ? "descending" : "ascending") : null },
    h(
      "button",
      {
        class: "sort",
        type: "button",
        title: [title, "hold Shift to add it to the sort keys"].filter(Boolean).join("; "),
        onclick: (event) => url.change({ sort: chosen(sortedBy(), field, event.shiftKey).join(","), cursor: null }),
      },
      text,
      at >= 0 && shape(descending ? ICONS.down : ICONS.up, at > 0 ? (descending ? "descending" : "ascending") : null),
      at >= 0 && keys.length > 1 && h("span", { class: "rank" }, String(at + 1)),
    ),
  );
}
