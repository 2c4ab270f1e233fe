/* The components of pages. */

import { cut } from "./format.js";
import { shape } from "./status.js";
import { h } from "./view.js";

export const ICONS = {
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9ZM10.5 10.5 14 14",
  plus: "M8 3v10M3 8h10",
  close: "M4 4l8 8M12 4l-8 8",
  down: "M4 6l4 4 4-4",
  up: "M4 10l4-4 4 4",
  download: "M8 2v8M4.5 7 8 10.5 11.5 7M3 13.5h10",
  warning: "M8 2 14.5 13.5h-13zM8 6.5v3M8 11.5v.2",
  info: "M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5ZM8 7.5v4M8 4.8v.2",
  copy: "M5.5 5.5h7v8h-7zM3.5 10.5v-8h7",
};

/** A button; `kind` is "primary", "danger", "quiet" or "". */
export function button(text, onclick, { kind = "", icon = null, ...props } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, onclick, ...props }, icon && shape(ICONS[icon]), text);
}

/** A link that looks like a button. */
export function linkButton(text, href, { kind = "", icon = null, ...props } = {}) {
  return h("a", { class: `button ${kind}`, href, ...props }, icon && shape(ICONS[icon]), text);
}

/** A problem as a sentence, with a button that tries again. */
export function problemNotice(problem, retry = null) {
  if (!problem) return null;
  const id = problem.requestId ? h("small", {}, ` Request ${problem.requestId}`) : null;
  return h(
    "div",
    { class: "notice bad", role: "alert", key: "problem" },
    shape(ICONS.warning),
    h(
      "div",
      {},
      h("strong", {}, problem.title || "The request failed"),
      h("p", {}, problem.detail ?? String(problem), id),
    ),
    retry && button("Try again", retry),
  );
}

/** What a page shows in place of what cannot be read; `list` is the link to all of its kind, `[text, address]`. */
export function unavailable(problem, retry, list) {
  const heading = h("h1", { key: "title" }, problem.status === 404 ? "Not found" : "Not available");
  if (problem.status !== 404)
    return [h("div", { class: "heading", key: "heading" }, heading), problemNotice(problem, retry)];
  return h(
    "div",
    { class: "empty", key: "missing" },
    heading,
    h("p", {}, `${problem.detail} It may have been deleted, or the address is mistyped.`),
    h("div", { class: "actions" }, linkButton(...list, { kind: "primary" })),
  );
}

/** A notice; `tone` is "info", "warn" or "bad". */
export function notice(tone, title, ...text) {
  return h(
    "div",
    { class: `notice ${tone}`, role: "status" },
    shape(tone === "info" ? ICONS.info : ICONS.warning),
    h("div", {}, title && h("strong", {}, title), ...text.map((line) => h("p", {}, line))),
  );
}

/** The content of an empty page or card, with what to do next. */
export function emptyState(title, text, ...actions) {
  return h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), h("div", { class: "actions" }, actions));
}

/** A control with its label. */
export function labelled(text, control) {
  return h("label", { class: "labelled" }, h("span", {}, text), control);
}

/** A choice of a few options, in a row. `options` are `[value, text]`. */
export function choice(label, options, chosen, onchoose) {
  return h(
    "div",
    { class: "choice", role: "group", "aria-label": label },
    options.map(([value, text]) =>
      h(
        "button",
        { type: "button", key: value, "aria-pressed": String(value === chosen), onclick: () => onchoose(value) },
        text,
      ),
    ),
  );
}

/** A choice from a list. `options` are `[value, text]`. */
export function picker(label, options, chosen, onchoose, { hiddenLabel = false } = {}) {
  const select = h(
    "select",
    { value: chosen, "aria-label": hiddenLabel ? label : null, onchange: (event) => onchoose(event.target.value) },
    options.map(([value, text]) => h("option", { value, key: value }, text)),
  );
  return hiddenLabel ? select : labelled(label, select);
}

/** A panel that a button opens. Escape and a click elsewhere close it. */
export function menu(text, content, { side = "", kind = "", label = text, title = null, onopen = () => {} } = {}) {
  return h(
    "details",
    {
      class: `menu ${side}`,
      key: `menu ${label}`,
      hook: MENU,
      ontoggle: (event) => event.currentTarget.open && onopen(),
    },
    h("summary", { class: `button ${kind}`, title }, text, shape(ICONS.down)),
    h("div", { class: "panel", role: "group", "aria-label": label }, content),
  );
}

/** A choice of several options, in a panel that a button opens. Escape and a click elsewhere close it. */
export function checklist(label, options, chosen, ontoggle, { counted = true } = {}) {
  const count = !counted ? 0 : options.filter(([value]) => chosen.includes(value)).length;
  return h(
    "details",
    { class: "menu", key: `menu ${label}`, hook: MENU },
    h(
      "summary",
      { class: `button${count ? " chosen" : ""}` },
      count ? `${label}: ${count === 1 ? options.find(([v]) => chosen.includes(v))[1] : count}` : label,
      shape(ICONS.down),
    ),
    h(
      "div",
      { class: "panel", role: "group", "aria-label": label },
      options.map(([value, text]) =>
        h(
          "label",
          { class: "check", key: value },
          h("input", { type: "checkbox", checked: chosen.includes(value), onchange: () => ontoggle(value) }),
          text,
        ),
      ),
    ),
  );
}

const MENU = {
  mount(element) {
    element.away = (event) => {
      if (event.type === "keydown" ? event.key === "Escape" && element.open : !element.contains(event.target)) {
        if (event.type === "keydown") element.querySelector("summary").focus();
        element.open = false;
      }
    };
    document.addEventListener("pointerdown", element.away);
    element.addEventListener("keydown", element.away);
  },
  unmount(element) {
    document.removeEventListener("pointerdown", element.away);
  },
};

/** A progress bar. */
export function progressBar(share, label) {
  const per_cent = Math.round(100 * Math.min(1, Math.max(0, share ?? 0)));
  return h(
    "div",
    {
      class: "bar",
      role: "progressbar",
      "aria-label": label,
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      "aria-valuenow": String(per_cent),
    },
    h("div", { class: "done", vars: { "--done": `${per_cent}%` } }),
  );
}

/** Names and values. `entries` are `[name, value, title]`. */
export function facts(entries, props = {}) {
  return h(
    "dl",
    { class: "facts", ...props },
    entries.map(([name, value, title]) =>
      h("div", { key: name }, h("dt", {}, name), h("dd", { title: title ?? null }, value)),
    ),
  );
}

/** A name whose head is truncated where it is long. */
export function shortened(name) {
  const [head, tail] = cut(name);
  return [h("span", { class: tail ? "truncated head" : "truncated" }, head), tail];
}

/** Tabs, chosen by the address. `options` are `[value, text]`. */
export function tabs(label, options, chosen, href) {
  return h(
    "nav",
    { class: "tabs", "aria-label": label },
    options.map(([value, text]) =>
      h("a", { key: value, href: href(value), "aria-current": value === chosen ? "page" : null }, text),
    ),
  );
}

/** Ask for confirmation. */
export function confirmed(question) {
  return window.confirm(question);
}

/** Copy text and confirm it with `say`. */
export async function copyText(text, say) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
  } catch {
    say(copiedBySelection(text) ? "Copied" : "This browser does not allow copying");
  }
}

/** Copy text that is selected in the document: on plain http, browsers have no clipboard except for this machine. */
function copiedBySelection(text) {
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } finally {
    area.remove();
    focused?.focus();
  }
}

/** A button that copies text and confirms it. */
export function copyButton(text, label, say) {
  return h(
    "button",
    {
      type: "button",
      class: "button quiet",
      "aria-label": label,
      title: label,
      onclick: () => copyText(text, say),
    },
    shape(ICONS.copy),
  );
}
