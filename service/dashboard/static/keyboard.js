/* Keyboard shortcuts, listed under "?". A page adds its own with `key(event)`. */

import { browserStorage } from "./storage.js";
import { url } from "./url.js";

const KEPT = "normlab.keys";

const HELP = [
  ["/", "search"],
  ["g then e, j, n, c", "go to Experiments, Jobs, New, Cluster"],
  ["j, k", "next, previous row"],
  ["x", "select the row"],
  ["Enter", "open the row"],
  ["c", "compare the selected jobs"],
  ["Shift with a column's head", "sort by it too"],
  ["?", "this list"],
  ["Escape", "close"],
];
const PLACES = { e: "/experiments", j: "/jobs", n: "/new", c: "/cluster" };

/** Listen for keys outside of inputs. */
export function shortcuts(shell, page) {
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      browserStorage.get(KEPT) === "off" ||
      event.target.closest("input, select, textarea, dialog, [contenteditable]")
    )
      return;
    if (going) {
      going = false;
      if (PLACES[event.key]) return url.go(PLACES[event.key]);
    }
    if (event.key === "g") going = true;
    else if (event.key === "?") help();
    else if (event.key === "/") {
      const field = document.querySelector("input[type=search]");
      if (!field) return;
      event.preventDefault();
      field.focus();
    } else page()?.key?.(event);
  });
}

/** List the shortcuts, in a dialog in which they can be switched off. */
export function help() {
  const dialog = document.createElement("dialog");
  dialog.className = "help";
  dialog.setAttribute("aria-label", "Keyboard shortcuts");
  const list = document.createElement("dl");
  for (const [keys, text] of HELP) {
    const term = list.appendChild(document.createElement("dt"));
    term.appendChild(document.createElement("kbd")).textContent = keys;
    list.appendChild(document.createElement("dd")).textContent = text;
  }
  const close = document.createElement("button");
  close.className = "button";
  close.textContent = "Close";
  close.onclick = () => dialog.close();
  const chosen = document.createElement("input");
  chosen.type = "checkbox";
  chosen.checked = browserStorage.get(KEPT) !== "off";
  chosen.onchange = () => browserStorage.set(KEPT, chosen.checked ? null : "off");
  const label = document.createElement("label");
  label.className = "check";
  label.append(chosen, "Use these keys in this browser");
  dialog.append(Object.assign(document.createElement("h2"), { textContent: "Keyboard" }), list, label, close);
  dialog.onclose = () => dialog.remove();
  document.body.append(dialog);
  dialog.showModal();
}
