// A classic script, run before the first paint: a module would come after it, and the page would flash.
(() => {
  const chosen = localStorage.getItem("normlab.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
