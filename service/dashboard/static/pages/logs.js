/* The log of a job: its latest lines, followed live, and a search. */

import { get, save } from "../api.js";
import { clock, zoned } from "../format.js";
import { button, checklist, emptyState, ICONS, problemNotice } from "../parts.js";
import { Resource } from "../resource.js";
import { shape } from "../status.js";
import { url } from "../url.js";
import { h } from "../view.js";

const LEVELS = ["debug", "info", "warning", "error"];
const PAGE = 1000;
const KEPT = 2000;
const TYPING_MS = 200;

export class LogView {
  constructor(shell, job) {
    Object.assign(this, { shell, job, lines: new Resource(shell.refresh), follows: true });
  }

  #filter() {
    return { search: url.get("q", ""), level: url.all("level") };
  }

  load() {
    const filter = this.#filter();
    return this.lines.load(JSON.stringify(filter), async (signal) => {
      let found = [];
      let dropped = 0;
      for await (const page of this.#pages(filter, signal)) {
        found = [...found, ...page];
        dropped += Math.max(0, found.length - KEPT);
        found = found.slice(-KEPT);
      }
      return { found, dropped };
    });
  }

  /** All lines, in pages, oldest first. */
  async *#pages(filter, signal) {
    for (let after = 0; after !== null;) {
      const page = await get(`/v1/jobs/${this.job}/logs`, { ...filter, after, limit: PAGE }, { signal });
      yield page.data;
      after = page.next_cursor;
    }
  }

  /** Download the whole log, which can be longer than the page shows, or all lines that match the filter. */
  async #download() {
    this.downloading = true;
    this.shell.refresh();
    try {
      const parts = [];
      for await (const page of this.#pages(this.#filter()))
        parts.push(page.map((line) => `${line.time} ${line.level} ${line.message}\n`).join(""));
      save(new Blob(parts, { type: "text/plain" }), `${this.job}.log`);
    } catch (problem) {
      this.shell.say(problem.detail, "bad");
    }
    this.downloading = false;
    this.shell.refresh();
  }

  /** Add a new line. */
  add(line) {
    if (!this.lines.data) return;
    const { search, level } = this.#filter();
    if (level.length && !level.includes(line.level)) return;
    if (search && !line.message.toLowerCase().includes(search.toLowerCase())) return;
    const { found, dropped } = this.lines.data;
    if (found.some((one) => one.id === line.id)) return;
    const next = [...found, line];
    this.lines.data = { found: next.slice(-KEPT), dropped: dropped + Math.max(0, next.length - KEPT) };
  }

  view() {
    const { search, level } = this.#filter();
    const { data, problem } = this.lines;
    const toggle = (value) =>
      url.change({ level: level.includes(value) ? level.filter((one) => one !== value) : [...level, value] });
    const typed = (event) => {
      clearTimeout(this.typing);
      const { value } = event.target;
      this.typing = setTimeout(() => url.change({ q: value }, { replace: true }), TYPING_MS);
    };
    return h(
      "section",
      { class: "card", key: "logs" },
      h(
        "header",
        {},
        h(
          "div",
          { class: "search" },
          shape(ICONS.search),
          h("input", {
            type: "search",
            "aria-label": "Search the log",
            placeholder: "Search the log",
            value: search,
            oninput: typed,
          }),
        ),
        checklist(
          "Level",
          LEVELS.map((name) => [name, name]),
          level,
          toggle,
        ),
        h(
          "label",
          { class: "inline" },
          h("input", {
            type: "checkbox",
            checked: this.follows,
            onchange: (event) => ((this.follows = event.target.checked), this.shell.refresh()),
          }),
          "Follow",
        ),
        h(
          "div",
          { class: "actions" },
          data &&
            button(
              this.downloading ? "Downloading…" : search || level.length ? "Download matching lines" : "Download",
              () => this.#download(),
              { icon: "download", kind: "quiet", disabled: Boolean(this.downloading) },
            ),
        ),
      ),
      problem && problemNotice(problem, () => this.lines.reload()),
      data && !data.found.length
        ? emptyState(
            search || level.length ? "No line is like that" : "Nothing is logged yet",
            search || level.length ? "Change the search to see more." : "Lines appear here as the job writes them.",
          )
        : h(
            "div",
            {
              class: "log",
              tabindex: "0",
              role: "log",
              "aria-label": "Log",
              "aria-live": "off",
              hook: { mount: this.#stick, update: this.#stick, view: this },
            },
            data?.dropped
              ? h("p", { class: "body muted" }, `${data.dropped} earlier lines are not shown; search to find them.`)
              : null,
            h(
              "ol",
              {},
              (data?.found ?? []).map((line) =>
                h(
                  "li",
                  { key: line.id },
                  h("time", { datetime: line.time, title: zoned(line.time) }, clock(line.time)),
                  h("span", { class: `level-${line.level}` }, line.level),
                  h("span", { class: "message" }, marked(line.message, search)),
                ),
              ),
            ),
          ),
    );
  }

  #stick(element, { view }) {
    if (view.follows) element.scrollTop = element.scrollHeight;
  }

  close() {
    this.lines.close();
    clearTimeout(this.typing);
  }
}

/** A message with the matches of the search marked. */
function marked(message, search) {
  if (!search) return message;
  const parts = [];
  const low = message.toLowerCase();
  const wanted = search.toLowerCase();
  let from = 0;
  for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
    parts.push(message.slice(from, at), h("mark", {}, message.slice(at, at + search.length)));
    from = at + search.length;
  }
  return [...parts, message.slice(from)];
}
