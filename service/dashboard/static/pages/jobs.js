/* All jobs, as a table with pages. */

import { download, get, withQuery } from "../api.js";
import { tableExport } from "../exports.js";
import { distinct, whole } from "../format.js";
import { advance } from "../live.js";
import { COLUMNS, DEFAULT_COLUMNS } from "../metrics.js";
import { button, emptyState, linkButton, picker, problemNotice, shortened } from "../parts.js";
import { Resource, throttled } from "../resource.js";
import { url } from "../url.js";
import { h } from "../view.js";
import { JOBS, Selection } from "./bulk.js";
import { groupedTable, loadGroups } from "./groups.js";
import { filterBar, filterOf, headOf, isFiltered, options, sortOf, titleOf } from "./jobfilter.js";
import { Rows } from "./rows.js";
import { sortable, sortedBy } from "./sorting.js";

const FILES = [
  ["CSV", "jobs.csv", "text/csv"],
  ["Parquet", "jobs.parquet", "application/vnd.apache.parquet"],
];
const LIMITS = [25, 50, 100, 200];

export default function jobsPage(shell) {
  const jobs = new Resource(shell.refresh);
  const groups = new Resource(shell.refresh);
  let arrived = 0;
  const reread = throttled(() => groups.key && groups.reload(), 3000);

  const query = () => ({
    ...filterOf(),
    sort: sortedBy().join(","),
    limit: url.get("limit", "50"),
    cursor: url.get("cursor"),
  });
  const selection = new Selection(shell, JOBS, { filter: filterOf, changed: () => jobs.reload() });
  const selected = () => selection.ids;

  function onevent(event) {
    if (
      event.type === "status" &&
      event.data.status === "queued" &&
      !jobs.data?.data.some((job) => job.id === event.data.job)
    )
      arrived++;
    if (jobs.data) jobs.data.data = jobs.data.data.map((job) => advance(job, event));
    if (event.type === "status" || event.type === "metrics") reread();
    shell.refresh();
  }

  async function load() {
    const { status: _, ...lasting } = filterOf();
    if (streaming !== JSON.stringify(lasting)) {
      streaming = JSON.stringify(lasting);
      await shell.live("/v1/events", lasting, onevent);
    }
    const grouping = url.list("group");
    if (grouping.length)
      groups.load(JSON.stringify([filterOf(), grouping, options()]), (signal) =>
        loadGroups(filterOf(), grouping, options().metric, signal),
      );
    else groups.key = null;
    selection.load();
    jobs.load(JSON.stringify(query()), async (signal) => {
      const page = await get("/v1/jobs", { ...query(), count: true }, { signal });
      arrived = 0;
      return page;
    });
  }
  let streaming = null;

  const arrivals = () =>
    arrived
      ? button(
          `Show ${arrived} new ${arrived === 1 ? "job" : "jobs"}`,
          () => (url.get("cursor") ? url.change({ cursor: null }) : jobs.reload()),
          { kind: "chosen" },
        )
      : null;
  const pick = (id) => selection.toggle(id);
  /** Keep the value of the metric of every filtered job. */
  const keep = (name, type) =>
    download(withQuery("/v1/results", { ...filterOf(), metric: options().metric, table: "observations" }), name, type);
  const rows = new Rows(shell, {
    ids: () => (jobs.data?.data ?? []).map((job) => job.id),
    pick,
    address: (id) => `/jobs/${id}`,
    compare: () => (selected().length > 1 ? compareAddress() : null),
  });

  function table(listed) {
    const columns = url.list("columns", DEFAULT_COLUMNS).filter((name) => COLUMNS[name]);
    // The names of the jobs of an experiment start with the same words.
    const titles = listed.map((job) => job.title);
    const names = url.get("experiment") ? distinct(titles) : titles;
    const all = listed.length > 0 && listed.every((job) => selected().includes(job.id));
    const some = listed.some((job) => selected().includes(job.id));
    return h(
      "div",
      { class: "scroll", key: "table", tabindex: "0", role: "region", "aria-label": "Jobs" },
      h(
        "table",
        { class: "jobs" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h(
              "th",
              { class: "pick", key: "pick" },
              h("input", {
                type: "checkbox",
                "aria-label": "Select all on this page",
                checked: all,
                indeterminate: some && !all,
                onchange: () =>
                  (selection.ids = all
                    ? selected().filter((id) => !listed.some((job) => job.id === id))
                    : [...new Set([...selected(), ...listed.map((job) => job.id)])]),
              }),
            ),
            sortable("name", "Name", "name"),
            columns.map((name) =>
              sortable(name, headOf(COLUMNS[name]), sortOf(COLUMNS[name]), {
                number: COLUMNS[name].number,
                title: titleOf(COLUMNS[name]),
              }),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          listed.map((job, index) => row(job, names[index], index, columns)),
        ),
      ),
    );
  }

  function row(job, shown, index, columns) {
    const picked = selected().includes(job.id);
    const name = job.title;
    return h(
      "tr",
      { key: job.id, class: `${picked ? "selected" : ""}${rows.isAt(index) ? " at" : ""}` },
      h(
        "td",
        { class: "pick" },
        h("input", { type: "checkbox", "aria-label": `Select ${name}`, checked: picked, onchange: () => pick(job.id) }),
      ),
      h("th", { class: "name", scope: "row" }, h("a", { href: `/jobs/${job.id}`, title: name }, shortened(shown))),
      columns.map((column) =>
        h("td", { key: column, class: COLUMNS[column].number ? "number" : null }, COLUMNS[column].cell(job, options())),
      ),
    );
  }

  function placeholder() {
    return h(
      "div",
      { class: "scroll", key: "waiting", "aria-busy": "true" },
      h(
        "table",
        { class: "jobs" },
        h(
          "tbody",
          {},
          Array.from({ length: 10 }, (_, n) => h("tr", { key: n }, h("td", {}, h("span", { class: "placeholder" })))),
        ),
      ),
    );
  }

  function below() {
    const trail = history.state?.trail ?? [];
    const { next_cursor: next, total } = jobs.data;
    const to = (cursor, newTrail) => url.go(url.with({ cursor }), { state: { trail: newTrail } });
    return h(
      "div",
      { class: "below", key: "below" },
      h("span", { key: "total", role: "status" }, total === 1 ? "1 job matches" : `${whole(total)} jobs match`),
      picker(
        "Rows",
        LIMITS.map((n) => [String(n), `${n} a page`]),
        url.get("limit", "50"),
        (limit) => url.change({ limit, cursor: null }),
        { hiddenLabel: true },
      ),
      h(
        "a",
        { class: "button quiet", href: withQuery("/v1/jobs", query()), target: "_blank", rel: "noopener" },
        "JSON",
      ),
      h(
        "span",
        { class: "push actions" },
        tableExport({
          name: "jobs-of-this-page",
          say: shell.say,
          more: FILES.map(([text, name, type]) => [`${text} of every filtered job`, () => keep(name, type)]),
        }),
        url.get("cursor") &&
          button(trail.length > 1 ? "Previous page" : "First page", () => to(trail.at(-2) ?? null, trail.slice(0, -1))),
        next && button("Next page", () => to(next, [...trail, next])),
      ),
    );
  }

  const compareAddress = () => url.with({ jobs: selected().join(","), metric: url.get("metric") }, "/compare");

  function content() {
    if (jobs.problem && !jobs.data) return problemNotice(jobs.problem, () => jobs.reload());
    if (!jobs.data) return h("section", { class: "card", key: "card" }, placeholder());
    const { data: shown } = jobs.data;
    if (!shown.length && !isFiltered() && !url.get("cursor"))
      return h(
        "section",
        { class: "card", key: "card" },
        emptyState(
          "No jobs yet",
          "A job trains one model with one normalization at one batch size. Submit one here, or with the command line: normlab submit --normalization group --batch-size 2.",
          linkButton("New job", "/new", { kind: "primary", icon: "plus" }),
        ),
      );
    return [
      jobs.problem && problemNotice(jobs.problem, () => jobs.reload()),
      url.list("group").length ? groupedTable(groups, options().metric, shell.say) : null,
      h(
        "section",
        { class: "card", key: "card", "aria-busy": String(jobs.pending) },
        shown.length
          ? table(shown)
          : emptyState("No jobs match this filter", "Change or clear the filter to see more."),
        below(),
      ),
    ];
  }

  return {
    title: () => "Jobs",
    load,
    key: (event) => rows.key(event),
    view: () => [
      h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "Jobs"),
        h(
          "div",
          { class: "actions" },
          linkButton("Explore", url.with(filterOf(), "/explore"), { title: "The filtered jobs as points and lines" }),
          linkButton("New job", "/new", { kind: "primary", icon: "plus" }),
        ),
      ),
      filterBar(jobs.data?.data ?? [], arrivals()),
      content(),
      selection.view({
        compare: compareAddress(),
        hasMore: Boolean(jobs.data?.next_cursor || url.get("cursor")),
      }),
    ],
    close() {
      jobs.close();
      groups.close();
      selection.close();
      reread.cancel();
    },
  };
}
