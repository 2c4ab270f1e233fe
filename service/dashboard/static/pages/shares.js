/* The links that show one experiment to people without a token. */

import { get, send } from "../api.js";
import { ago } from "../format.js";
import { button, confirmed, copyButton, menu, picker } from "../parts.js";
import { Resource } from "../resource.js";
import { root } from "../root.js";
import { isNamed, writing } from "../session.js";
import { h } from "../view.js";

const DAY_S = 24 * 3600;
const LASTING = [
  [String(30 * DAY_S), "for 30 days"],
  [String(180 * DAY_S), "for 180 days"],
  ["", "until it is revoked"],
];

export class Shares {
  constructor(shell, id) {
    Object.assign(this, { shell, path: `/v1/experiments/${id}/shares`, made: null });
    Object.assign(this, { anonymous: false, lasts: LASTING[0][0] });
    this.shares = new Resource(shell.refresh);
  }

  /** The menu with the links and a form for a new one; nothing where the service has no tokens, or for a link. */
  view() {
    if (!isNamed()) return null;
    return menu(
      "Share",
      [
        h(
          "p",
          { key: "about" },
          "A link shows this experiment, its results and its jobs to everybody who has it, without an account, and nothing else.",
        ),
        this.shares.problem && h("p", { class: "field-problem", key: "problem" }, this.shares.problem.detail),
        h(
          "ul",
          { key: "list" },
          (this.shares.data ?? []).map((share) => this.#line(share)),
        ),
        h(
          "label",
          { class: "check", key: "anonymous" },
          h("input", {
            type: "checkbox",
            checked: this.anonymous,
            onchange: (event) => ((this.anonymous = event.target.checked), this.shell.refresh()),
          }),
          "For anonymous review: hide names of people and machines, notes and labels",
        ),
        h(
          "p",
          { key: "lasts" },
          picker("It works", LASTING, this.lasts, (value) => ((this.lasts = value), this.shell.refresh())),
        ),
        h(
          "p",
          { key: "create" },
          button("Create a link", () => this.#create(), { kind: "primary", ...writing() }),
        ),
        this.made &&
          h(
            "p",
            { key: "made" },
            "Copy it now, it cannot be read again: ",
            h("input", { readonly: true, "aria-label": "The new link", value: this.made }),
            copyButton(this.made, "Copy the link", this.shell.say),
          ),
      ],
      { side: "right", onopen: () => this.#read() },
    );
  }

  #line(share) {
    const expired = share.expires_at && new Date(share.expires_at) < new Date();
    const until = expired ? "expired" : share.expires_at ? `until ${share.expires_at.slice(0, 10)}` : "without an end";
    const about = [share.anonymous && "anonymous", share.created_by && `by ${share.created_by}`, until];
    const text = `${ago(share.created_at)}, ${about.filter(Boolean).join(", ")}`;
    return h(
      "li",
      { key: share.id },
      h("span", {}, text),
      h(
        "button",
        {
          type: "button",
          class: "remove",
          "aria-label": `Revoke the link of ${text}`,
          onclick: () => this.#revoke(share),
          ...writing(),
        },
        "×",
      ),
    );
  }

  #read() {
    this.shares.load("shares", async (signal) => (await get(this.path, {}, { signal })).data);
    this.shares.reload();
  }

  async #create() {
    const lasts = this.lasts === "" ? null : Number(this.lasts);
    try {
      const { path } = await send("POST", this.path, { anonymous: this.anonymous, expires_in_s: lasts });
      this.made = location.origin + (path.startsWith(`${root}/`) ? path : root + path);
    } catch (problem) {
      this.shell.say(problem.detail, "bad");
    }
    this.shares.reload();
  }

  async #revoke({ id }) {
    if (!confirmed("Revoke this link? Whoever has it will see nothing any more.")) return;
    try {
      await send("DELETE", `${this.path}/${id}`);
    } catch (problem) {
      this.shell.say(problem.detail, "bad");
    }
    this.shares.reload();
  }
}
