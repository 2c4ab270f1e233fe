/* A client of the HTTP API: JSON requests and answers, and problems as errors. */

import { root } from "./root.js";
import { parseShown } from "./request.js";

let signInNeeded = () => {};
let unreachable = () => {};

/** An error that the API answered. `fields` are `{pointer, parameter, detail}`, one for each invalid field. */
export class Problem extends Error {
  constructor(status, title, detail, { requestId = null, fields = [] } = {}) {
    super(detail);
    Object.assign(this, { status, title, detail, requestId, fields });
  }
}

/** The token of a browser that accepts no cookies, while the page is open; else null, because the session is a cookie. */
export const bearer = { token: null };

/** Call `callback(problem)` whenever the API answers 401. */
export function onSignInNeeded(callback) {
  signInNeeded = callback;
}

/** Call `callback()` whenever the service does not answer a request. */
export function onUnreachable(callback) {
  unreachable = callback;
}

/** The headers of a request: `more`, and the token where there is no cookie. */
export function headers(more = {}) {
  return bearer.token ? { Authorization: `Bearer ${bearer.token}`, ...more } : more;
}

/** A path with a query. Values that are null or "" are left out, lists are repeated. */
export function withQuery(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") parameters.append(name, one);
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}

/** Send a request to a path of the API and return its successful Response. Throws Problem, or AbortError after an abort. */
export async function request(path, { method = "GET", body, accept = "application/json", signal, more = {} } = {}) {
  const extra = { Accept: accept, ...more, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  let response;
  try {
    response = await fetch(root + path, {
      method,
      headers: headers(extra),
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    unreachable();
    const again = method === "GET" ? " The page tries again." : "";
    throw new Problem(
      0,
      "Not reachable",
      `The service does not answer. It may be restarting, or the connection is interrupted.${again}`,
    );
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (problem.status === 401) signInNeeded(problem);
  throw problem;
}

/** GET `path` and return the JSON. An integer that a number cannot hold is a text. */
export async function get(path, query, options = {}) {
  return parseShown(await (await request(withQuery(path, query), options)).text());
}

/** Send a request and return the JSON, or null for an answer without a body. */
export async function send(method, path, body, options = {}) {
  const response = await request(path, { method, body, ...options });
  return response.status === 204 ? null : parseShown(await response.text());
}

/** Download a file of the API by script, which can say why it fails. */
export async function download(path, name, accept = "*/*") {
  const bytes = await (await request(path, { accept })).blob();
  save(bytes, name);
}

/** Save a Blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function problemOf(response) {
  try {
    const { title, detail, request_id: requestId, errors = [] } = await response.json();
    return new Problem(
      response.status,
      title ?? response.statusText,
      detail ?? `The service answered ${response.status}.`,
      { requestId, fields: errors },
    );
  } catch {
    return new Problem(
      response.status,
      response.statusText,
      `The service answered ${response.status} with an unexpected body.`,
    );
  }
}
