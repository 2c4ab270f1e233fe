/* The rows of a table by keys: j and k move, x selects, Enter opens, c compares. */

import { url } from "../url.js";

export class Rows {
  #at = 0;
  #keyed = false;

  /** `ids()` are those of the rows; `pick(id)` selects one, or no longer; `address(id)` is where it is shown; `compare()`
   * is the address that compares the selected ones, or null. */
  constructor(shell, { ids, pick, address, compare }) {
    Object.assign(this, { shell, ids, pick, address, compare });
  }

  /** Whether the row with this index is the current one. */
  isAt(index) {
    return this.#keyed && index === this.#at;
  }

  /** Stay within the rows after they were read again. */
  keepWithin() {
    this.#at = Math.max(0, Math.min(this.#at, this.ids().length - 1));
  }

  /** Handle a key. */
  key(event) {
    const ids = this.ids();
    if (event.key === "j" || event.key === "k") {
      this.#at = this.#keyed ? Math.max(0, Math.min(ids.length - 1, this.#at + (event.key === "j" ? 1 : -1))) : 0;
      this.#keyed = true;
      // The row is marked in the next frame, before this callback.
      this.shell.refresh();
      requestAnimationFrame(() => document.querySelector("tr.at th a")?.focus());
    } else if (event.key === "x" && ids[this.#at]) this.pick(ids[this.#at]);
    else if (event.key === "Enter" && this.#keyed && ids[this.#at] && !event.target.closest("a, button, summary"))
      url.go(this.address(ids[this.#at]));
    else if (event.key === "c" && this.compare()) url.go(this.compare());
    this.shell.refresh();
  }
}
