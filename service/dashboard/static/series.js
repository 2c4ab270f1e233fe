/* A series of a chart: `{ id, name, points: [{x, y, raw?, low?, high?}], colour, dash, markers }`. Where `raw` is given it
is drawn faintly behind, where `low` and `high` are, as a band or as bars. */

export const COLOURS = 8;
export const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];

/** What a series is told by: several that share it are shown, hidden and highlighted together. */
export const idOf = (one) => one.id ?? one.name;

/** The colour and dash of a series, as variables of a style; by default dashes follow when the colours are used up. */
export const styleOf = (colour, dash = Math.floor(colour / COLOURS)) => ({
  "--series": `var(--series-${(colour % COLOURS) + 1})`,
  "--dash": ["solid", "dashed", "dotted", "double", "groove"][dash % DASHES.length],
});

/** The value of a colour of the style sheets, where `element` stands, as a drawing takes it. */
export function resolved(element, name, opacity = 1) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  element.parentElement.append(probe);
  const rgb = getComputedStyle(probe).color;
  probe.remove();
  return opacity === 1 ? rgb : rgb.replace("rgb(", "rgba(").replace(")", `, ${opacity})`);
}
