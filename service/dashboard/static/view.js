/* Views as plain data, and the one function that makes the document equal to them.

`h("p", { class: "x", onclick: f }, "text", child)` describes an element. Text is only ever a text node, so what a job is
called or logs cannot become markup. `render(parent, views)` changes what differs and leaves the rest alone: what has the
focus, what is typed and where one has scrolled stay. A view with a `key` keeps its element when its place changes. An
`href` that is a path gets the prefix of the dashboard. */

import { root } from "./root.js";

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "indeterminate", "open", "disabled", "selected"]);

/** An element as data. `hook: { mount(element, hook), update(element, hook), unmount(element) }` runs what views
 * cannot say. */
export function h(tag, props, ...children) {
  return {
    tag,
    props: props ?? {},
    children: children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== true),
  };
}

/** Make the children of `parent` equal to `views`. */
export function render(parent, views) {
  reconcile(parent, [views].flat(Infinity).filter(Boolean));
}

function reconcile(parent, views) {
  const byKey = new Map();
  const rest = [];
  for (const node of parent.childNodes) {
    const key = node.view?.props?.key;
    if (key !== undefined) byKey.set(key, node);
    else rest.push(node);
  }
  const nodes = views.map((view) => {
    const key = view.props?.key;
    if (key !== undefined) return fits(byKey.get(key), view) ? byKey.get(key) : null;
    const index = rest.findIndex((candidate) => fits(candidate, view));
    return index < 0 ? null : rest.splice(0, index + 1).pop();
  });
  const kept = new Set(nodes);
  for (const node of [...parent.childNodes]) if (!kept.has(node)) remove(node);
  let position = parent.firstChild;
  views.forEach((view, index) => {
    const node = nodes[index] ?? create(view, parent.namespaceURI === SVG);
    if (nodes[index]) update(node, view);
    if (node === position) position = position.nextSibling;
    else parent.insertBefore(node, position);
  });
}

function fits(node, view) {
  if (!node) return false;
  if (typeof view !== "object") return node.nodeType === Node.TEXT_NODE;
  return (
    node.nodeType === Node.ELEMENT_NODE &&
    node.view?.tag === view.tag &&
    node.view.props.hook?.mount === view.props.hook?.mount
  );
}

function create(view, inSvg) {
  if (typeof view !== "object") return document.createTextNode(String(view));
  const svg = inSvg || view.tag === "svg";
  const element = svg ? document.createElementNS(SVG, view.tag) : document.createElement(view.tag);
  element.view = { tag: view.tag, props: {}, children: [] };
  update(element, view, true);
  return element;
}

function update(node, view, isNew = false) {
  if (typeof view !== "object") {
    if (node.data !== String(view)) node.data = String(view);
    return;
  }
  const before = node.view.props;
  node.view = view;
  const { props } = view;
  // A select accepts a value only after its options exist.
  if (!props.hook?.owns) reconcile(node, view.children);
  for (const name of Object.keys(before)) if (!(name in props)) assign(node, name, null, before[name]);
  for (const [name, value] of Object.entries(props)) {
    if (PROPERTIES.has(name) || value !== before[name]) assign(node, name, value, before[name]);
  }
  if (props.hook)
    queueMicrotask(() => (isNew ? props.hook.mount(node, props.hook) : props.hook.update?.(node, props.hook)));
}

function assign(node, name, value, before) {
  if (name === "key" || name === "hook") return;
  if (name.startsWith("on")) {
    const type = name.slice(2);
    if (!before) node.addEventListener(type, dispatch);
    if (!value) node.removeEventListener(type, dispatch);
  } else if (name === "vars") {
    for (const variable of Object.keys(before ?? {}))
      if (!value || !(variable in value)) node.style.removeProperty(variable);
    for (const [variable, text] of Object.entries(value ?? {})) node.style.setProperty(variable, text);
  } else if (PROPERTIES.has(name)) {
    const wanted = value ?? (name === "value" ? "" : false);
    // While the user types, the input is ahead of the view.
    const typing = name === "value" && node === document.activeElement && node.tagName !== "SELECT";
    if (node[name] !== wanted && !typing) node[name] = wanted;
  } else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (name === "href" && value.startsWith("/")) node.setAttribute(name, root + value);
  else node.setAttribute(name, value === true ? "" : value);
}

function dispatch(event) {
  event.currentTarget.view.props[`on${event.type}`]?.(event);
}

function remove(node) {
  unmount(node);
  node.remove();
}

function unmount(node) {
  node.view?.props?.hook?.unmount?.(node);
  for (const child of node.childNodes) unmount(child);
}
