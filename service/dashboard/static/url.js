/* The address: it holds the page and everything that was chosen on it, so that a copied link shows the same. */

const changed = new Set();

export const url = {
  get path() {
    return location.pathname.replace(/\/+$/, "") || "/";
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
  with(changes, path = location.pathname) {
    const query = new URLSearchParams(path === location.pathname ? location.search : "");
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
    if (address === location.pathname + location.search) return;
    history[replace ? "replaceState" : "pushState"](state, "", address);
    for (const callback of changed) callback();
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
  event.preventDefault();
  url.go(link.pathname + link.search);
});
