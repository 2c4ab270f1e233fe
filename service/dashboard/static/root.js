/* The prefix of all addresses behind a proxy, such as "/normlab"; "" without one. Within the dashboard, paths have none. */

/** The part of this module's own address before /assets. */
export const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

/** A path without the prefix. */
export function withoutRoot(pathname) {
  return root && `${pathname}/`.startsWith(`${root}/`) ? pathname.slice(root.length) || "/" : pathname;
}
