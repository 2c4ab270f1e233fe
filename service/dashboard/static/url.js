/* The address, without the prefix of a proxy: it holds the page and everything that was chosen on it, so that a copied link shows the same. */

import { root, withoutRoot } from "./root.js";

const changed = new Set();

export const url = {
  get path() {
    return withoutRoot(location.pathname).replace(/\/+$/, "") || "/";
  },

  /** This address within the dashboard. */
  get here() {
    return withoutRoot(location.pathname) + location.search;
  },

  /** The value of a query parameter, or `fallback`. */
  get(name, fallback = null) {
    return new URLSearchParams(location.search).get(name) ?? fallback;
  },

  /** All values of a repeated query parameter. */
  all(name) {
    return new URLSearchParams(location.search).getAll(name);
  },

  /** The values of a comma-separated query parameter. */
  list(name, fallback = []) {
    const text = this.get(name);
    return text === null ? fallback : text.split(",").filter(Boolean);
  },

  /** This address with some parameters changed; null, "" and [] leave one out. */
  with(changes, path = withoutRoot(location.pathname)) {
    const query = new URLSearchParams(path === withoutRoot(location.pathname) ? location.search : "");
    for (const [name, value] of Object.entries(changes)) {
      query.delete(name);
      for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") query.append(name, one);
    }
    const text = query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
    return text ? `${path}?${text}` : path;
  },

  /** Change some parameters. `replace` adds no step to the history, for changes while typing. */
  change(changes, { replace = false } = {}) {
    this.go(this.with(changes), { replace });
  },

  /** Go to an address of the dashboard. */
  go(address, { replace = false, state = null } = {}) {
    if (address === this.here) return;
    // Going back returns to this place of the page.
    if (!replace) history.replaceState({ ...history.state, scroll: scrollY }, "");
    history[replace ? "replaceState" : "pushState"](state, "", root + address);
    for (const callback of changed) callback();
  },

  /** A function like `go` that does nothing once another page was opened: for what follows the answer to a request. */
  fromHere() {
    const { path } = this;
    return (address, options) => {
      if (this.path === path) this.go(address, options);
    };
  },

  /** Call `callback` after every change of the address. */
  onchange(callback) {
    changed.add(callback);
  },
};

addEventListener("popstate", () => changed.forEach((callback) => callback()));

// A plain click on a link stays within the page; every other click opens it as usual.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (
    !link ||
    event.defaultPrevented ||
    event.button !== 0 ||
    event.metaKey ||
    event.ctrlKey ||
    event.shiftKey ||
    event.altKey
  )
    return;
  if (link.target || link.hasAttribute("download") || link.origin !== location.origin || link.hash) return;
  if (!`${link.pathname}/`.startsWith(`${root}/`)) return;
  event.preventDefault();
  url.go(withoutRoot(link.pathname) + link.search);
});
