/* Named views: addresses that are saved under a name for all users. */

import { get, send } from "./api.js";
import { isolated } from "./format.js";
import { button, confirmed, copyText, menu } from "./parts.js";
import { Resource } from "./resource.js";
import { writing } from "./session.js";
import { url } from "./url.js";
import { h } from "./view.js";

export class Views {
  constructor(shell) {
    this.shell = shell;
    this.views = new Resource(shell.refresh);
  }

  /** The menu: the saved views, and a form that saves the current one. */
  view() {
    const { here } = url;
    return menu(
      "Views",
      [
        this.views.problem && h("p", { class: "muted", key: "problem" }, this.views.problem.detail),
        this.views.data?.length === 0 && h("p", { class: "muted", key: "none" }, "No views are saved."),
        h(
          "ul",
          { key: "list" },
          (this.views.data ?? []).map((view) =>
            h(
              "li",
              { key: view.id },
              h("a", { href: view.path, "aria-current": view.path === here ? "page" : null }, view.name),
              h(
                "button",
                {
                  type: "button",
                  class: "remove",
                  "aria-label": `Delete the view ${view.name}`,
                  onclick: () => this.#forget(view),
                  ...writing(),
                },
                "×",
              ),
            ),
          ),
        ),
        button("Copy the link to this view", () => copyText(location.href, this.shell.say), {
          key: "copy",
          kind: "quiet",
          icon: "copy",
        }),
        h(
          "form",
          { key: "save", onsubmit: (event) => this.#save(event) },
          h("input", {
            name: "name",
            required: true,
            maxlength: "100",
            autocomplete: "off",
            "aria-label": "Name for the current view",
            placeholder: "Name for this view",
          }),
          h("button", { type: "submit", class: "button", ...writing() }, "Save"),
        ),
      ],
      { side: "right", kind: "quiet", onopen: () => this.#read() },
    );
  }

  #read() {
    this.views.load("views", async (signal) => (await get("/v1/views", {}, { signal })).data);
    this.views.reload();
  }

  async #save(event) {
    event.preventDefault();
    const form = event.currentTarget;
    const name = form.elements.name.value.trim();
    if (!name) return;
    try {
      await send("POST", "/v1/views", { name, path: url.here });
      form.reset();
      this.shell.say(`Saved as “${isolated(name)}” for all users.`);
    } catch (problem) {
      this.shell.say(problem.detail, "bad");
    }
    this.views.reload();
  }

  async #forget({ id, name }) {
    if (!confirmed(`Delete the view “${isolated(name)}” for all users?`)) return;
    try {
      await send("DELETE", `/v1/views/${id}`);
    } catch (problem) {
      this.shell.say(problem.detail, "bad");
    }
    this.views.reload();
  }
}
