/* Charts of one page with the same horizontal axis: pointing at one shows the same place in the others, and zooming one
 * zooms the others. The zoom is in the address, as everything that is chosen on a page.

A drawing joins by `link(element)` and sets `element.scale`, which is `{ toPixels(x), toValue(pixels), left, right }`
once it is drawn. */

import { url } from "./url.js";

const PARAMETER = "zoom";
const DIGITS = 6;
/** A shorter drag is a click. */
const LEAST_DRAG_PX = 6;

const joined = new Set();

/** Whether charts with these axes are linked: those of a quantity, not of categories. */
const isLinked = (axes) => !axes.categories;

const areLinked = (a, b) => isLinked(a) && isLinked(b) && a.x === b.x;

/** The range of x that is chosen for charts with these axes, `[low, high]`; null for all of it. */
export function zoomOf(axes) {
  const [low, high, ...name] = url.get(PARAMETER, "").split(",");
  if (!isLinked(axes) || name.join(",") !== axes.x) return null;
  const range = [Number(low), Number(high)];
  return range.every(Number.isFinite) && range[0] < range[1] && !(axes.logX && range[0] <= 0) ? range : null;
}

/** Show a range of x in all charts with these axes; null: all of it. */
export function zoomTo(axes, range) {
  if (!isLinked(axes)) return;
  const [low, high] = (range ?? []).map((x) => Number(x.toPrecision(DIGITS)));
  url.change({ [PARAMETER]: range && low < high ? [low, high, axes.x].join(",") : null }, { replace: true });
}

/** Join a drawing to the others of its page. `drags`: whether a drag on it chooses a range; plotly.js has its own. */
export function link(element, { drags = false } = {}) {
  joined.add(element);
  element.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    if (element.dragged !== undefined) drag(element, event);
    point(element, element.scale?.toValue(placeOf(element, event)) ?? null);
  });
  element.addEventListener("pointerleave", () => point(element, null));
  if (!drags) return;
  element.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0 || !element.scale) return;
    event.preventDefault();
    element.setPointerCapture(event.pointerId);
    element.dragged = placeOf(element, event);
  });
  element.addEventListener("pointerup", (event) => dropped(element, event));
  element.addEventListener("pointercancel", () => (cover(element, null), delete element.dragged));
  element.addEventListener("dblclick", () => zoomTo(element.drawn.axes, null));
}

/** A drawing leaves the page. */
export function unlink(element) {
  joined.delete(element);
}

const placeOf = (element, event) => event.clientX - element.getBoundingClientRect().left;

/** Show where `x` is in the linked drawings; null: nowhere. */
function point(element, x) {
  for (const other of joined) if (other !== element && areLinked(other.drawn.axes, element.drawn.axes)) mark(other, x);
}

function mark(element, x) {
  const at = x === null ? null : element.scale?.toPixels(x);
  const cursor = part(element, "cursor");
  cursor.hidden = at === null || at === undefined || !(at >= element.scale.left && at <= element.scale.right);
  if (cursor.hidden) return;
  cursor.style.setProperty("--x", `${at}px`);
  cursor.textContent = element.drawn.axes.formatX(x);
  cursor.classList.toggle("to-the-left", at > element.clientWidth / 2);
}

function drag(element, event) {
  const [from, to] = [element.dragged, placeOf(element, event)].sort((a, b) => a - b);
  cover(element, [Math.max(from, element.scale.left), Math.min(to, element.scale.right)]);
}

/** Show which part is chosen by a drag, in pixels; null: none. */
function cover(element, range) {
  const chosen = part(element, "chosen");
  chosen.hidden = range === null;
  if (range === null) return;
  chosen.style.setProperty("--x", `${range[0]}px`);
  chosen.style.setProperty("--width", `${Math.max(0, range[1] - range[0])}px`);
}

function dropped(element, event) {
  if (element.dragged === undefined) return;
  const [from, to] = [element.dragged, placeOf(element, event)].sort((a, b) => a - b);
  delete element.dragged;
  cover(element, null);
  if (to - from < LEAST_DRAG_PX) return;
  const { left, right, toValue } = element.scale;
  zoomTo(element.drawn.axes, [toValue(Math.max(from, left)), toValue(Math.min(to, right))]);
}

/** An element over the drawing. plotly.js removes it when it draws for the first time. */
function part(element, name) {
  let found = element.querySelector(`:scope > .${name}`);
  if (!found) {
    found = document.createElement("div");
    found.className = name;
    found.hidden = true;
    found.ariaHidden = "true";
    element.append(found);
  }
  return found;
}
