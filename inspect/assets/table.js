// A table whose rows are updated in place and sorted by its headings.

import { el, set, setText, newID } from "./dom.js";

// Table sorts by itself, or asks by onsort if the server sorts. A low table has a fixed height and scrolls.
//
// A column is {key, name, cell, node, value, num, sort, narrow, title}: cell returns a row's text; node, in place
// of cell, returns a node that is made once per row; value is what is compared (default: cell); num aligns to
// the right; sort: false has no button; narrow: false hides the column on narrow screens; title explains it.
export class Table {
  constructor({ caption, columns, rowKey, sort, onsort, empty, hideCaption, low }) {
    Object.assign(this, { columns, rowKey, sort: sort ?? null, onsort, rows: [], made: new Map() });
    const id = newID("table");
    this.body = el("tbody");
    this.heads = columns.map((c) => this.head(c));
    this.none = el("p", { class: "none", hidden: true }, empty ?? "There is none.");
    const table = el("table", { "aria-labelledby": id }, el("thead", null, el("tr", null, this.heads)), this.body);
    const box = el("div", { class: low ? "scroll low" : "scroll" }, table, this.none);
    this.node = el("div", { class: "table" }, el("p", { id, class: hideCaption ? "unseen" : "caption" }, caption), box);
    this.showSort();
    // What scrolls has to be reachable by the keyboard, and then needs a name.
    new ResizeObserver(() => {
      const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
      for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", caption + ", table"]]) {
        if (scrolls) set(box, name, value);
        else box.removeAttribute(name);
      }
    }).observe(table);
  }

  head(c) {
    const attributes = { scope: "col", class: classes(c), title: c.title };
    if (c.sort === false) return el("th", attributes, c.name);
    const button = el("button", { type: "button", onclick: () => this.sortBy(c), onkeydown: (e) => this.arrow(e, c) },
      c.name, el("span", { class: "arrow", "aria-hidden": "true" }));
    return el("th", { ...attributes, "data-key": c.key, "aria-sort": "none" }, button);
  }

  // arrow moves between the headings, and sorts up and down.
  arrow(event, c) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      const buttons = this.heads.map((h) => h.querySelector("button")).filter((b) => b && b.offsetParent);
      buttons[buttons.indexOf(event.currentTarget) + step]?.focus();
    } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      this.sortBy(c, event.key === "ArrowDown");
    } else {
      return;
    }
    event.preventDefault();
  }

  // sortBy sorts by a column; a second time, the other way round. Figures begin with the largest.
  sortBy(c, desc) {
    const again = this.sort?.key === c.key;
    this.sort = { key: c.key, desc: desc ?? (again ? !this.sort.desc : Boolean(c.num)) };
    this.showSort();
    if (this.onsort) this.onsort(this.sort);
    else this.update(this.rows);
  }

  showSort() {
    this.columns.forEach((c, i) => {
      if (c.sort === false) return;
      const way = this.sort?.key === c.key ? (this.sort.desc ? "descending" : "ascending") : "none";
      set(this.heads[i], "aria-sort", way);
      setText(this.heads[i].querySelector(".arrow"), { ascending: "▲", descending: "▼", none: "" }[way]);
    });
  }

  update(rows) {
    this.rows = rows;
    const focused = document.activeElement;
    const seen = new Set();
    let place = this.body.firstElementChild;
    for (const row of this.ordered()) {
      const key = this.rowKey(row);
      if (seen.has(key)) continue;
      seen.add(key);
      const tr = this.fill(key, row);
      if (tr === place) place = place.nextElementSibling;
      else this.body.insertBefore(tr, place);
    }
    for (const [key, made] of this.made) {
      if (seen.has(key)) continue;
      made.tr.remove();
      this.made.delete(key);
    }
    this.none.hidden = rows.length > 0;
    // A row that was moved has lost the focus.
    if (focused && focused !== document.activeElement && this.body.contains(focused)) focused.focus({ preventScroll: true });
  }

  ordered() {
    const c = !this.onsort && this.columns.find((column) => column.key === this.sort?.key);
    if (!c) return this.rows;
    const value = c.value ?? c.cell;
    const way = this.sort.desc ? -1 : 1;
    return [...this.rows].sort((a, b) => way * compare(value(a), value(b)));
  }

  fill(key, row) {
    let made = this.made.get(key);
    if (!made) {
      const cells = this.columns.map((c, i) => {
        const content = c.node ? c.node(row) : c.cell(row);
        return i === 0
          ? el("th", { scope: "row", class: classes(c) }, content)
          : el("td", { class: classes(c) }, content);
      });
      made = { tr: el("tr", null, cells), cells };
      this.made.set(key, made);
      return made.tr;
    }
    this.columns.forEach((c, i) => {
      if (!c.node) setText(made.cells[i], c.cell(row) ?? "");
    });
    return made.tr;
  }
}

function classes(c) {
  return [c.num && "num", c.narrow === false && "wide-only", c.mono && "mono"].filter(Boolean).join(" ") || null;
}

const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a ?? ""), String(b ?? ""));
}
