/* Jobs that are pointed at or picked in one drawing of a page, and shown in the others. What is picked is in the address. */

import { url } from "./url.js";

const PARAMETER = "picked";
const MOST = 20;

/** The ids of the jobs that are picked. */
export const picked = () => url.list(PARAMETER);

/** Pick a job, or drop it. */
export function pick(id) {
  const all = picked();
  const next = all.includes(id) ? all.filter((one) => one !== id) : [...all, id].slice(-MOST);
  url.change({ [PARAMETER]: next.join(",") }, { replace: true });
}

/** Pick no job. */
export const pickNone = () => url.change({ [PARAMETER]: null }, { replace: true });

/** Show a job in all drawings of the page; null: none. */
export function pointAt(id) {
  for (const line of document.querySelectorAll(".parallel .job"))
    line.classList.toggle("pointed", line.dataset.job === id);
  for (const drawing of document.querySelectorAll(".drawing")) drawing.pointAt?.(id);
}
