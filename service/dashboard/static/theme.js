// A classic script, which runs before the first paint; after a module, the page would flash.
(() => {
  const chosen = localStorage.getItem("normlab.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
