/* The HTTP API: JSON in and out, problems as errors that read as sentences, and who we are. */

const TOKEN = "normlab.token";
let signInNeeded = () => {};

/** What the API refused or could not do. `fields` are `{pointer, parameter, detail}`, where single fields are to
 * blame. */
export class Problem extends Error {
  constructor(status, title, detail, { requestId = null, fields = [] } = {}) {
    super(detail);
    Object.assign(this, { status, title, detail, requestId, fields });
  }
}

/** The bearer token. sessionStorage ends with the tab, and no script but ours runs here: see the Content-Security-
 * Policy. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  clear: () => sessionStorage.removeItem(TOKEN),
};

/** Have `callback(problem)` run whenever the API wants a token that it was not given. */
export function onSignInNeeded(callback) {
  signInNeeded = callback;
}

/** The headers of every request, with `more`. */
export function headers(more = {}) {
  return token.get() ? { Authorization: `Bearer ${token.get()}`, ...more } : more;
}

/** A path with a query: values that are null or "" are left out, those that are lists are repeated. */
export function withQuery(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") parameters.append(name, one);
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}

/** The answer of the API, as a Response that is well. Throws Problem; an abort throws AbortError. */
export async function request(path, { method = "GET", body, accept = "application/json", signal, more = {} } = {}) {
  const extra = { Accept: accept, ...more, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: headers(extra),
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(
      0,
      "Not reachable",
      "The service does not answer. It may be starting again, or the connection is cut.",
    );
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (problem.status === 401) signInNeeded(problem);
  throw problem;
}

/** The JSON that GET `path` answers. */
export async function get(path, query, options = {}) {
  return (await request(withQuery(path, query), options)).json();
}

/** The JSON that `method` `path` answers, or null where there is none. */
export async function send(method, path, body, options = {}) {
  const response = await request(path, { method, body, ...options });
  return response.status === 204 ? null : response.json();
}

/** Hand a file of the API to the browser's downloads. With a token it is fetched first: an address cannot carry one. */
export async function download(path, name, accept = "*/*") {
  const bytes = await (await request(path, { accept })).blob();
  save(bytes, name);
}

/** Hand a Blob to the browser's downloads. */
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
      `The service answered ${response.status}, and not what was expected.`,
    );
  }
}
