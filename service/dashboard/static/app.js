/* The shell of every page: navigation, sign-in, the state of the service; and the page that the address names. */

import { onSignInNeeded, onUnreachable, Problem } from "./api.js";
import { duration, isolated } from "./format.js";
import { Health } from "./health.js";
import { help, shortcuts } from "./keyboard.js";
import { button, problemNotice } from "./parts.js";
import { forgetSession, readSession, shared, signInForm, takeLink, userMenu } from "./session.js";
import { Stream } from "./stream.js";
import { shape } from "./status.js";
import { chooseTheme, theme } from "./themes.js";
import { url } from "./url.js";
import { Views } from "./views.js";
import { h, render } from "./view.js";
import { readVocabulary } from "./vocabulary.js";

const ROUTES = [
  [/^\/$/, "experiments"],
  [/^\/experiments$/, "experiments"],
  [/^\/experiments\/([a-z0-9_]+)$/, "experiment"],
  [/^\/jobs$/, "jobs"],
  [/^\/jobs\/([a-z0-9_]+)$/, "job"],
  [/^\/compare$/, () => (url.get("experiments") === null ? "compare" : "comparison")],
  [/^\/explore$/, "explore"],
  [/^\/new$/, "new"],
  [/^\/cluster$/, "cluster"],
  [/^\/docs$/, "docs"],
];
/** The pages for which nobody needs to sign in. */
const OPEN = new Set(["docs"]);
const NAVIGATION = [
  ["/experiments", "Experiments"],
  ["/jobs", "Jobs"],
  ["/new", "New"],
  ["/cluster", "Cluster"],
];
/** The entry of the navigation that a page without an own one belongs to. */
const PARTS = {
  experiment: "experiments",
  comparison: "experiments",
  job: "jobs",
  compare: "jobs",
  explore: "jobs",
};

const SCROLLING_MS = 5000;

const app = document.getElementById("app");
let page = null;
let makePage = null;
let route = null;
let stream = null;
let signIn = null;
let scheduled = false;
let toast = null;
let arriving = true;
let scrolling = null;

/** The functions of the shell that pages use. */
const shell = {
  refresh() {
    if (scheduled) return;
    scheduled = true;
    // A hidden page gets no animation frames, so a timer draws it.
    const run = () => {
      if (!scheduled) return;
      scheduled = false;
      draw();
    };
    requestAnimationFrame(run);
    setTimeout(run, 200);
  },
  /** Open the event stream of the page, in place of an earlier one. Resolves once no later event can be missed. */
  async live(path, query, onevent) {
    // A link shows no events.
    if (shared()) return;
    stream?.close();
    stream = new Stream(path, query, { onevent, onreset: startAnew, onstate: () => (health.ask(), shell.refresh()) });
    await stream.opened;
  },
  say(text, tone = "info") {
    toast = { text, tone, until: Date.now() + 5000 };
    setTimeout(() => shell.refresh(), 5100);
    shell.refresh();
  },
};

const views = new Views(shell);
const health = new Health({ onchange: shell.refresh, onback: goOn });

function place() {
  for (const [pattern, name] of ROUTES) {
    const match = pattern.exec(url.path);
    if (match) return { name: typeof name === "function" ? name() : name, id: match[1] ?? null };
  }
  return { name: "missing", id: null };
}

async function navigate() {
  const next = place();
  if (route && page && next.name === route.name && next.id === route.id) {
    page.load?.();
    return shell.refresh();
  }
  if (route) arriving = false;
  route = next;
  page?.close?.();
  stream?.close();
  stream = null;
  page = null;
  let unread = null;
  const [module] = await Promise.all([
    import(`./pages/${next.name}.js`).catch(() => null),
    Promise.all([readVocabulary(), OPEN.has(next.name) || readSession()]).catch((problem) => (unread = problem)),
  ]);
  if (route !== next || unread?.status === 401) return;
  // Without the vocabulary and the session a page would show wrong units and wrong actions.
  makePage = () => (!module ? unloaded() : unread ? unreadable(unread) : module.default(shell, next.id));
  page = makePage();
  page.load?.();
  draw();
  if (!arriving) {
    // A screen reader announces the new page, and the next Tab starts there.
    document.getElementById("main").focus({ preventScroll: true });
    scrolling = { to: history.state?.scroll ?? 0, until: Date.now() + SCROLLING_MS };
    scrollToPlace();
  }
  arriving = false;
}

/** Scroll to where the page was left, once it is long enough again. */
function scrollToPlace() {
  if (!scrolling) return;
  scrollTo(0, scrolling.to);
  if (Math.abs(scrollY - scrolling.to) < 2 || Date.now() > scrolling.until) scrolling = null;
}

/** Read the page again, because the database of the service is another one than before. */
function startAnew() {
  page.close?.();
  page = makePage();
  page.load?.();
  shell.say("The service has other data than before. The page was read again.", "warn");
}

/** Read what could not be read while the service did not answer. */
function goOn() {
  if (page?.recover) page.recover();
  else page?.load?.();
}

/** What stands in place of a page until the vocabulary and the session can be read. */
const unreadable = (problem) => standIn(problem, () => ((route = null), navigate()));

/** A page that shows a problem. `recover()` tries again, also by itself once the service answers. */
const standIn = (problem, recover) => ({
  title: () => problem.title,
  view: () => [h("h1", { class: "visually-hidden", key: "title" }, problem.title), problemNotice(problem, recover)],
  recover,
});

const NOT_LOADED = new Problem(
  0,
  "This page cannot be loaded now",
  "The service may be restarting. The page will be loaded once the service answers.",
);

/** What stands in place of a page whose module cannot be fetched. Browsers do not fetch a module again that they could
 * not fetch once, so the document is loaded again; the address has all of its state. */
function unloaded() {
  // A reload that did not help is not repeated, unless the service was away meanwhile.
  if (!(arriving && performance.getEntriesByType("navigation")[0].type === "reload")) health.lost();
  return standIn(NOT_LOADED, () => location.reload());
}

function draw() {
  document.title = page ? `${isolated(page.title())} · normlab` : "normlab";
  render(app, [
    h("a", { class: "skip", href: "#main", key: "skip" }, "Skip to the content"),
    header(),
    h(
      "main",
      { id: "main", tabindex: "-1", key: "main" },
      signIn && !OPEN.has(route?.name)
        ? signInForm(signIn.problem, signedIn)
        : page
          ? h("div", { class: `page page-${route.name}`, key: `${route.name} ${route.id}` }, page.view())
          : null,
    ),
    h("div", { class: "notices", key: "notices" }, staleNotice(), toastNotice()),
    h(
      "div",
      { class: "visually-hidden", role: "status", "aria-live": "polite", key: "said" },
      toast && toast.until > Date.now() ? toast.text : "",
    ),
  ]);
  scrollToPlace();
}

function header() {
  const at = route?.name ?? "";
  const current = PARTS[at] ?? at;
  return h(
    "header",
    { class: "top", key: "top" },
    h(
      "a",
      { class: "brand", href: shared() ? `/experiments/${shared().experiment}` : "/", "aria-label": "normlab, start" },
      shape("M1.5 12.5c3.5 0 3.5-9 6.5-9s3 9 6.5 9"),
      h("span", {}, "normlab"),
    ),
    h(
      "nav",
      { class: "main-nav", "aria-label": "Main" },
      (shared() ? [] : NAVIGATION).map(([href, text]) =>
        h("a", { href, key: href, "aria-current": href === `/${current}` ? "page" : null }, text),
      ),
    ),
    h(
      "div",
      { class: "tools" },
      health.view(),
      !shared() && views.view(),
      themePicker(),
      button("Keys", help, { key: "keys", kind: "quiet keys", title: "Keyboard shortcuts" }),
      userMenu(startOver, shell.say),
    ),
  );
}

function themePicker() {
  return h(
    "select",
    {
      class: "quiet",
      "aria-label": "Theme",
      value: theme(),
      onchange: (event) => (chooseTheme(event.target.value), shell.refresh()),
    },
    ["system", "light", "dark"].map((name) =>
      h("option", { value: name, key: name }, name[0].toUpperCase() + name.slice(1)),
    ),
  );
}

function staleNotice() {
  if (!stream || stream.state !== "stopped" || signIn) return null;
  const since = duration(Math.round((Date.now() - stream.since) / 1000));
  return h(
    "div",
    { class: "toast warn", role: "status", key: "stale" },
    h("span", {}, h("strong", {}, "Updates stopped"), ` ${since} ago. Reconnecting.`),
    button("Try now", () => stream.retry()),
  );
}

function toastNotice() {
  return toast && toast.until > Date.now()
    ? h("div", { class: `toast ${toast.tone}`, key: "toast" }, toast.text)
    : null;
}

function signedIn(problem) {
  signIn = problem && { problem };
  if (!problem) startOver();
  shell.refresh();
}

/** Read everything again, as another user. */
function startOver() {
  page?.close?.();
  stream?.close();
  page = null;
  route = null;
  navigate();
}

onSignInNeeded((problem) => {
  signIn ??= { problem: forgetSession() ? problem : null };
  stream?.close();
  shell.refresh();
});
takeLink();
history.scrollRestoration = "manual";
for (const type of ["wheel", "pointerdown", "keydown"])
  addEventListener(type, () => (scrolling = null), { passive: true });
onUnreachable(() => health.lost());
url.onchange(navigate);
shortcuts(shell, () => page);
setInterval(() => stream?.state === "stopped" && shell.refresh(), 1000);
navigate();
