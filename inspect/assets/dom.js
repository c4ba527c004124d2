// Elements of the page. Every text becomes a text node, so nothing that came from the network is read as HTML.

const svgSpace = "http://www.w3.org/2000/svg";

// build sets attributes and appends children. A function is a listener: {onclick: f}. Values null, undefined
// and false are left out. Children are nodes, strings, numbers, arrays of them, or null.
function build(e, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") e.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) e.setAttribute(name, value === true ? "" : value);
  }
  for (const c of children.flat(Infinity)) {
    if (c !== null && c !== undefined && c !== false) e.append(c instanceof Node ? c : String(c));
  }
  return e;
}

// el returns a new HTML element.
export function el(name, attributes, ...children) {
  return build(document.createElement(name), attributes, children);
}

// svg returns a new SVG element.
export function svg(name, attributes, ...children) {
  return build(document.createElementNS(svgSpace, name), attributes, children);
}

// setText changes the text of a node if it differs, so that unchanged nodes cause no work.
export function setText(e, text) {
  text = String(text);
  if (e.textContent !== text) e.textContent = text;
}

// set changes an attribute if it differs.
export function set(e, name, value) {
  value = String(value);
  if (e.getAttribute(name) !== value) e.setAttribute(name, value);
}

let ids = 0;

// newID returns an ID that no other element has.
export function newID(prefix) {
  return prefix + "-" + ++ids;
}

// Facts is a list of names and values that are updated in place.
export class Facts {
  // names maps a key to the name that is shown. A whole value moves to a line of its own before it breaks.
  constructor(names, { whole = false } = {}) {
    this.values = new Map();
    this.node = el("dl", { class: whole ? "facts whole" : "facts" });
    for (const [key, name] of Object.entries(names)) {
      const dd = el("dd", null, "–");
      this.values.set(key, dd);
      this.node.append(el("div", null, el("dt", null, name), dd));
    }
  }

  update(values) {
    for (const [key, value] of Object.entries(values)) {
      const dd = this.values.get(key);
      if (dd) setText(dd, value ?? "–");
    }
  }
}

// card returns a section with a heading.
export function card(title, ...children) {
  const id = newID("card");
  return el("section", { class: "card", "aria-labelledby": id }, el("h2", { id }, title), children);
}
