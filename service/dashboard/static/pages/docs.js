/* The HTTP API: every operation of the OpenAPI document, with its parameters and an example. */

import { get } from "../api.js";
import { copyButton, problemNotice } from "../parts.js";
import { Resource } from "../resource.js";
import { root } from "../root.js";
import { url } from "../url.js";
import { h } from "../view.js";

const REFERENCE = "#/components/schemas/";

export default function docsPage(shell) {
  const description = new Resource(shell.refresh);

  async function load() {
    await description.load("openapi", (signal) => get("/openapi.json", {}, { signal }));
    requestAnimationFrame(() => document.getElementById(location.hash.slice(1))?.scrollIntoView());
  }

  function operations() {
    const words = url.get("search", "").toLowerCase();
    return Object.entries(description.data.paths)
      .flatMap(([path, methods]) => Object.entries(methods).map(([method, it]) => ({ path, method, it })))
      .filter(({ path, method, it }) =>
        `${method} ${path} ${it.summary} ${it.description}`.toLowerCase().includes(words),
      );
  }

  function card({ path, method, it }) {
    const sample = it["x-codeSamples"][0].source.replace("http://localhost:8000", location.origin + root);
    const body = it.requestBody && Object.values(it.requestBody.content)[0].schema.$ref;
    return h(
      "section",
      { class: "card operation", key: it.operationId, id: it.operationId },
      h("header", {}, h("h3", {}, it.summary), h("code", {}, h("strong", {}, method.toUpperCase()), ` ${path}`)),
      h(
        "div",
        { class: "body live" },
        it.description.split("\n\n").map((text) => h("p", { key: text }, text.replaceAll("`", ""))),
        it.parameters?.length ? table(`Parameters: ${it.summary}`, it.parameters.map(parameter)) : null,
        body && fields(body, it.summary),
        h(
          "div",
          { class: "sample" },
          h("pre", { class: "preview", tabindex: "0" }, sample),
          copyButton(sample, `Copy the example of ${it.summary}`, shell.say),
        ),
        h(
          "p",
          { class: "muted" },
          `Answers: ${Object.keys(it.responses)
            .filter((status) => status !== "default")
            .join(", ")}.`,
        ),
      ),
    );
  }

  const parameter = ({ name, in: place, required, description: text, schema }) => [
    name,
    `${place}${required ? ", required" : ""}`,
    typeOf(schema),
    text ?? schema.description ?? "",
  ];

  /** The fields of a body, if it is an object of the document. */
  function fields(reference, summary) {
    const schema = description.data.components.schemas[reference.replace(REFERENCE, "")];
    const required = schema.required ?? [];
    const rows = Object.entries(schema.properties ?? {}).map(([name, it]) => [
      name,
      required.includes(name) ? "required" : "",
      typeOf(it),
      it.description ?? "",
    ]);
    return h(
      "details",
      {},
      h("summary", {}, `Fields of the body (${rows.length})`),
      table(`Fields of the body: ${summary}`, rows),
    );
  }

  function table(label, rows) {
    return h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["Name", "In", "Type", "Meaning"].map((head) => h("th", { key: head, scope: "col" }, head)),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map(([name, ...rest]) =>
            h(
              "tr",
              { key: name },
              h("th", { scope: "row" }, h("code", {}, name)),
              rest.map((text, n) => h("td", { key: n, class: n === 2 ? "meaning" : null }, text)),
            ),
          ),
        ),
      ),
    );
  }

  function content() {
    const found = operations();
    const tags = [...new Set(found.map(({ it }) => it.tags[0]))];
    return tags.map((tag) => [
      h(
        "h2",
        { key: tag, class: "tag-name" },
        tag.replace(/^./, (c) => c.toUpperCase()),
      ),
      found.filter(({ it }) => it.tags[0] === tag).map(card),
    ]);
  }

  return {
    title: () => "HTTP API",
    load,
    view: () => [
      h(
        "div",
        { class: "heading", key: "heading" },
        h("h1", {}, "HTTP API"),
        h(
          "div",
          { class: "actions" },
          h("a", { class: "button", href: "/openapi.json", target: "_blank", rel: "noopener" }, "OpenAPI document"),
        ),
        h(
          "p",
          {},
          'JSON under /v1. Where the service requires a token, add -H "Authorization: Bearer $NORMLAB_TOKEN" to the examples.',
        ),
      ),
      h("input", {
        key: "search",
        type: "search",
        "aria-label": "Search the operations",
        placeholder: "Search the operations",
        value: url.get("search", ""),
        oninput: (event) => (url.change({ search: event.target.value }, { replace: true }), shell.refresh()),
      }),
      description.problem && problemNotice(description.problem, () => description.reload()),
      description.data
        ? content()
        : h("div", { class: "empty", key: "waiting", "aria-busy": "true" }, "Reading the description…"),
    ],
    close: () => description.close(),
  };
}

/** The type of a JSON schema in words. */
function typeOf(schema) {
  if (schema.$ref) return schema.$ref.replace(REFERENCE, "");
  if (schema.enum) return schema.enum.map(String).join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return [...new Set(several.map(typeOf))].join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return [schema.type].flat().join(" | ") || "any";
}
