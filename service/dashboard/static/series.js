/* A series of a chart: `{ id, name, points: [{x, y, raw?, low?, high?, label?}], colour, dash, markers, scatter }`. Where
`raw` is given it is drawn faintly behind, where `low` and `high` are, as a band or as bars. `scatter` draws no line. */

import { h } from "./view.js";

export const COLOURS = 8;
/** Lengths of dashes and gaps in pixels, as a canvas, an SVG and plotly.js draw them. */
const DASHES = [[], [6, 4], [2, 3], [7, 3, 2, 3], [12, 4]];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
const SHAPES = {
  circle: "M15 2a4 4 0 1 0 0 8 4 4 0 0 0 0-8Z",
  square: "M11 2h8v8h-8Z",
  diamond: "M15 1l5 5-5 5-5-5Z",
  "triangle-up": "M15 1.5l4.5 8h-9Z",
  cross: "M13.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5Z",
  x: "M12 1.5l3 3 3-3 1.5 1.5-3 3 3 3-1.5 1.5-3-3-3 3-1.5-1.5 3-3-3-3Z",
};

/** What a series is told by: several that share it are shown, hidden and highlighted together. */
export const idOf = (one) => one.id ?? one.name;

/** The variable of the style sheets with the colour of a series. */
export const colourOf = ({ colour }) => `series-${(colour % COLOURS) + 1}`;

/** The dashes of a series; by default other dashes follow when the colours are used up. */
export const dashOf = ({ colour, dash = Math.floor(colour / COLOURS) }) => DASHES[dash % DASHES.length];

/** The marker of a series, as plotly.js names it. */
export const symbolOf = ({ colour }) => SYMBOLS[colour % SYMBOLS.length];

/** A piece of the line of a series, with its marker, for a legend. */
export function swatch(one) {
  return h(
    "svg",
    { class: "swatch", viewBox: "0 0 30 12", "aria-hidden": "true", vars: { "--series": `var(--${colourOf(one)})` } },
    h("path", { class: "line", d: "M0 6h30", "stroke-dasharray": dashOf(one).join(" ") || null }),
    one.markers ? h("path", { class: "marker", d: SHAPES[symbolOf(one)] }) : null,
  );
}

/** The value of a colour of the style sheets, where `element` stands, as a drawing takes it. */
export function resolved(element, name, opacity = 1) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  element.parentElement.append(probe);
  const rgb = getComputedStyle(probe).color;
  probe.remove();
  return opacity === 1 ? rgb : rgb.replace("rgb(", "rgba(").replace(")", `, ${opacity})`);
}
