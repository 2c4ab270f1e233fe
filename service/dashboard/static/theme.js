// A classic script, which runs before the first paint; after a module, the page would flash.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("normlab.theme");
  } catch {
    // Site data are blocked: the theme of the system stays. A classic script cannot import storage.js.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
