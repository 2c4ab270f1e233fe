/* The order of the table of jobs: by one column or by several, in the address. */

import { ICONS } from "../parts.js";
import { shape } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";

const USUAL = "-created_at";
const MOST = 4;

/** What the jobs are sorted by, the first thing first; with a minus in front, the greatest first. */
export const sortedBy = () => url.list("sort", [USUAL]);

const bare = (key) => key.replace(/^-/, "");

/** The keys after a column was chosen: alone, or `added` behind those that are there; once more turns it around. */
export function chosen(keys, field, added) {
  const at = keys.findIndex((key) => bare(key) === field);
  const turned = at >= 0 && keys[at] === field ? `-${field}` : field;
  if (!added) return [turned];
  return at >= 0 ? keys.with(at, turned) : [...keys, field].slice(0, MOST);
}

/** The head of a column that the service sorts by as `field`; without one, only its name. */
export function sortable(key, text, field, number = false) {
  const props = { key, class: number ? "number" : null, scope: "col" };
  if (!field) return h("th", props, text);
  const keys = sortedBy();
  const at = keys.findIndex((one) => bare(one) === field);
  const descending = at >= 0 && keys[at].startsWith("-");
  return h(
    "th",
    // Only what is sorted by first is the order of the table, to those who hear it.
    { ...props, "aria-sort": at === 0 ? (descending ? "descending" : "ascending") : null },
    h(
      "button",
      {
        class: "sort",
        type: "button",
        title: "Shift adds it to what the jobs are sorted by",
        onclick: (event) => url.change({ sort: chosen(sortedBy(), field, event.shiftKey).join(","), cursor: null }),
      },
      text,
      at >= 0 && shape(descending ? ICONS.down : ICONS.up, at > 0 ? (descending ? "descending" : "ascending") : null),
      at >= 0 && keys.length > 1 && h("span", { class: "rank" }, String(at + 1)),
    ),
  );
}
