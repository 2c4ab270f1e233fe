/* Light, dark, or what the system says. */

const KEY = "normlab.theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const watching = new Set();

/** What was chosen: "light", "dark" or "system". */
export function theme() {
  return localStorage.getItem(KEY) ?? "system";
}

/** Choose, and remember it in this browser. */
export function chooseTheme(name) {
  if (name === "system") {
    localStorage.removeItem(KEY);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(KEY, name);
    document.documentElement.dataset.theme = name;
  }
  tell();
}

/** The value of a colour of the style sheets, as it is now. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Have `callback` run when colours change; answers a function that ends it. */
export function onTheme(callback) {
  watching.add(callback);
  return () => watching.delete(callback);
}

const tell = () => watching.forEach((callback) => callback());
system.addEventListener("change", tell);
