// A classic script, which runs if a module cannot be fetched: without it the page would stay empty.
(() => {
  const WAIT_MS = 1000;
  const again = performance.getEntriesByType("navigation")[0]?.type === "reload";
  let away = false;

  function say(text) {
    const app = document.getElementById("app");
    const line = document.createElement("p");
    line.className = "empty";
    line.setAttribute("role", "alert");
    line.textContent = text;
    app?.replaceChildren(line);
  }

  async function recover(readyz) {
    try {
      await fetch(readyz, { credentials: "omit" });
      // A reload that did not help is not repeated, unless the service was away meanwhile.
      if (again && !away) return say("A file of the dashboard cannot be loaded. Reload the page to try again.");
      location.reload();
    } catch {
      away = true;
      setTimeout(() => recover(readyz), WAIT_MS);
    }
  }

  addEventListener(
    "error",
    ({ target }) => {
      if (target?.tagName !== "SCRIPT" || target.type !== "module") return;
      say(
        "The dashboard cannot be loaded now: the service may be restarting. It will be loaded once the service answers.",
      );
      setTimeout(() => recover(new URL("../../readyz", target.src)), WAIT_MS);
    },
    true,
  );
})();
