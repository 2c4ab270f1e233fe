/* Who uses the dashboard, and what they may do. The session is a cookie, which scripts cannot read. */

import { bearer, get, send } from "./api.js";
import { isolated } from "./format.js";
import { button, labelled, menu } from "./parts.js";
import { tabStorage } from "./storage.js";
import { h } from "./view.js";

const UNKNOWN = { name: null, may_write: true, share: null };
const LINK = "normlab.share";

let session = UNKNOWN;
let reading = null;

/** Take the token of a link out of the address, where it follows `#share=`. This tab keeps it until it is closed. */
export function takeLink() {
  const [, token = null] = /^#share=([\w-]+)$/.exec(location.hash) ?? [];
  if (token) {
    tabStorage.set(LINK, token);
    history.replaceState(history.state, "", location.pathname + location.search);
  }
  bearer.token = tabStorage.get(LINK);
}

function leaveLink() {
  tabStorage.set(LINK, null);
  bearer.token = null;
}

/** What the link shows with which the page was opened, `{experiment, anonymous, expires_at}`; null without a link. */
export const shared = () => session.share;

/** Whether somebody with a name is signed in. */
export const isNamed = () => session.name !== null;

/** Read who is signed in, once. Throws a problem with the status 401 if nobody is, and the service requires it. */
export async function readSession() {
  reading ??= get("/v1/session");
  try {
    session = await reading;
  } catch (problem) {
    reading = null;
    throw problem;
  }
}

/** Forget who is signed in. Returns whether anybody was, or the page was opened by a link. */
export function forgetSession() {
  const known = session.name !== null || bearer.token !== null;
  session = UNKNOWN;
  reading = null;
  return known;
}

async function signIn(token) {
  leaveLink();
  await send("POST", "/v1/session", { token });
  try {
    await readSession();
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    // The browser accepts no cookies: this page keeps the token until it is closed.
    bearer.token = token;
    await readSession();
  }
}

/** Sign out, in all tabs of this browser. */
async function signOut() {
  leaveLink();
  await send("DELETE", "/v1/session");
  forgetSession();
}

/** The properties of a control that changes something: disabled, with the reason, if the token is read-only. */
export const writing = () =>
  session.may_write
    ? {}
    : {
        disabled: true,
        title: `Not permitted: ${session.share ? "this link" : `the token of ${isolated(session.name)}`} is read-only.`,
      };

/** Whether the user may change anything. */
export const mayWrite = () => session.may_write;

/** The menu with the name of the user; nothing where the service has no tokens. `done()` is called after signing out. */
export function userMenu(done, say) {
  const { name, may_write: writes } = session;
  if (session.share)
    return h(
      "span",
      { class: "tag", title: "A link without an account. Reload the page to see newer results." },
      "Shared, read-only",
    );
  if (name === null) return null;
  const leave = async () => {
    try {
      await signOut();
      done();
    } catch (problem) {
      say(problem.detail, "bad");
    }
  };
  return menu(
    h("bdi", { class: "truncated user" }, name),
    [
      h("p", { key: "who" }, "Signed in as ", h("bdi", {}, name), writes ? "." : ". Read-only."),
      button("Sign out", leave, { key: "out" }),
    ],
    { side: "right", kind: "quiet", label: `Signed in as ${name}`, title: `Signed in as ${isolated(name)}` },
  );
}

/** The form to sign in. `done(problem)` is called after each try; the problem is null after a success. */
export function signInForm(problem, done) {
  const submit = async (event) => {
    event.preventDefault();
    const { token } = event.currentTarget.elements;
    try {
      await signIn(token.value.trim());
      done(null);
    } catch (failure) {
      done(failure);
    }
  };
  return h(
    "form",
    { class: "sign-in", onsubmit: submit, key: "sign-in" },
    h("h1", {}, "Sign in"),
    h(
      "p",
      {},
      "This service requires a token: one of those in its setting NORMLAB_API_TOKENS. This browser stays signed in for seven days, in all tabs, or until you sign out.",
    ),
    labelled(
      "Token",
      h("input", {
        name: "token",
        type: "password",
        autocomplete: "current-password",
        required: true,
        "aria-describedby": problem ? "sign-in-problem" : null,
        hook: FOCUS,
      }),
    ),
    problem && h("p", { id: "sign-in-problem", class: "field-problem", role: "alert" }, problem.detail),
    h("button", { class: "button primary", type: "submit" }, "Sign in"),
  );
}

const FOCUS = { mount: (element) => element.focus() };
