/* The theme: light, dark, or that of the system. */

import { browserStorage } from "./storage.js";

const KEY = "normlab.theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const watching = new Set();

/** The chosen theme: "light", "dark" or "system". */
export function theme() {
  return browserStorage.get(KEY) ?? "system";
}

/** Choose a theme and remember it in this browser. */
export function chooseTheme(name) {
  browserStorage.set(KEY, name === "system" ? null : name);
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  tell();
}

/** The current value of a colour of the style sheets. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Call `callback` when the theme changes. Returns a function that ends it. */
export function onTheme(callback) {
  watching.add(callback);
  return () => watching.delete(callback);
}

const tell = () => watching.forEach((callback) => callback());
system.addEventListener("change", tell);
