// Words, elements and tables of Loom's page. Rows are keyed: rows whose item is unchanged are not touched, so focus,
// open details and scrolling stay while numbers move. Text is set as text, never as markup.

export const $ = (id) => document.getElementById(id);

// Words

export const count = new Intl.NumberFormat("en").format;
const { compare } = new Intl.Collator("en", { numeric: true }); // node2 before node10
export const percent = (part) => (part === null ? "" : `${Math.floor(part * 100)}\u00a0%`);

export function formatBytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let unit = 0;
  for (; bytes >= 999.5 && unit < units.length - 1; unit++) bytes /= 1000;
  return `${unit ? bytes.toPrecision(3) : Math.round(bytes)}\u00a0${units[unit]}`;
}

export function formatTime(seconds) {
  const s = Math.ceil(seconds);
  const [min, h] = [Math.floor(s / 60), Math.floor(s / 3600)];
  if (s < 60) return `${s} s`;
  if (min < 10) return `${min} min ${s % 60} s`;
  if (min < 60) return `${min} min`;
  return h < 24 ? `${h} h ${min % 60} min` : `${Math.floor(h / 24)} d`;
}

/** Show what has no shape, or turns its neighbours around (CVE-2021-42574), as its code point. */
export function visible(text) {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `<U+${c.codePointAt(0).toString(16).toUpperCase()}>`);
}

// Elements

export function make(tag, attributes = {}, ...children) {
  const isSvg = tag === "svg" || tag === "rect";
  const one = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  one.append(...children);
  return one;
}

export function setText(one, text) {
  if (one.textContent !== text) one.textContent = text;
}

export function setAttribute(one, name, value) {
  if (one.getAttribute(name) !== value) one.setAttribute(name, value);
}

const MAX_NAME = 160; // characters of a name that are shown while its row is closed

/** Return a name that is shown whole, on as many lines as it needs: what tells two apart may be anywhere in it. */
function nameOf(text) {
  const all = Array.from(visible(text));
  const isLong = all.length > MAX_NAME;
  const slash = isLong ? -1 : all.lastIndexOf("/", all.length - 2) + 1;
  const path = make("span", { class: "path" }, ...breakable(all.slice(0, Math.max(0, slash)).join("")));
  const whole = make("span", { class: isLong ? "whole" : "" }, ...breakable(all.slice(Math.max(0, slash)).join("")));
  const parts = slash > 0 ? [path, whole] : [whole];
  if (isLong) {
    const cut = `${all.slice(0, MAX_NAME / 2).join("")} … ${all.slice(-MAX_NAME / 2).join("")}`;
    parts.push(make("span", { class: "cut", "data-cut": cut }));
  }
  return make("bdi", { class: "name", title: visible(text) }, ...parts);
}

/** Return text that may be broken behind what separates its parts. */
function breakable(text) {
  return text.split(/(?<=[/._:@-])(?=[^/._:@-])/u).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
}

export function makeBar(attributes) {
  const rects = ["origin", "peers"].map((from) => make("rect", { class: from, height: "100%", width: 0 }));
  return make("svg", { class: "bar", ...attributes }, ...rects);
}

/** Draw how much is there (of 1), and which share of it came from peers. */
export function setBar(bar, part, peers) {
  setAttribute(bar.children[0], "width", `${(part * 100).toFixed(1)}%`);
  setAttribute(bar.children[1], "width", `${(part * peers * 100).toFixed(1)}%`);
}

// Tables. A column has a label, a `value` to sort by, and is shown as `text` of an item; a name is part of the key.

const FIRST_ROWS = 20; // on a phone, until more is asked for

const isSame = (a, b) => a !== null && Object.keys({ ...a, ...b }).every((key) => a[key] === b[key]);

export class Table {
  constructor(home, label, columns, key, detail = null) {
    Object.assign(this, { columns, key, detail, rows: new Map(), items: [], by: columns[0], descends: false });
    this.heads = columns.map((column) => this.makeHead(column));
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...this.heads));
    this.body = make("tbody", { role: "rowgroup" });
    this.table = make("table", { role: "table", "aria-label": label }, head, this.body);
    this.none = make("p", { class: "none" });
    this.more = make("button", { type: "button", class: "more", hidden: "" });
    this.more.addEventListener("click", () => home.classList.add("all"));
    home.append(this.none, make("div", { class: "scroll" }, this.table), this.more);
    if (detail) this.body.addEventListener("click", (event) => this.clicked(event.target));
    this.markHeads();
  }

  makeHead(column) {
    const button = make("button", { type: "button" }, column.label);
    button.addEventListener("click", () => this.sort(column));
    return make("th", { role: "columnheader", scope: "col", class: column.class ?? "" }, button);
  }

  sort(column) {
    this.descends = this.by === column ? !this.descends : (column.class ?? "").includes("number");
    this.by = column;
    this.markHeads();
    this.show(this.items);
  }

  markHeads() {
    const direction = this.descends ? "descending" : "ascending";
    this.columns.forEach((one, i) => setAttribute(this.heads[i], "aria-sort", one === this.by ? direction : "none"));
  }

  order(a, b) {
    const [x, y] = [this.by.value(a), this.by.value(b)];
    const differ = typeof x === "string" ? compare(x, y) : (x ?? -1) - (y ?? -1);
    return (this.descends ? -differ : differ) || compare(this.key(a), this.key(b));
  }

  show(items, none = "") {
    this.items = [...items].sort((a, b) => this.order(a, b));
    const focused = document.activeElement;
    const gone = new Map(this.rows);
    const wanted = this.items.flatMap((item) => {
      const row = this.rows.get(this.key(item)) ?? this.add(item);
      gone.delete(row.key);
      this.update(row, item);
      return row.open ? [row.tr, row.open.tr] : [row.tr];
    });
    gone.forEach((row) => this.drop(row));
    this.items.forEach((item, i) => this.rows.get(this.key(item)).tr.classList.toggle("late", i >= FIRST_ROWS));
    place(this.body, wanted);
    this.rows.forEach((row) => row.open && setAttribute(row.open.cell, "colspan", this.width));
    this.more.hidden = items.length <= FIRST_ROWS;
    setText(this.more, `Show all ${count(items.length)}`);
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    if (!this.body.querySelector(".row button[tabindex='0']")) reach(this.body.querySelector(".row button"));
    this.table.hidden = !items.length;
    setText(this.none, items.length ? "" : none);
  }

  /** How many columns are seen: a cell that spans more would make another one, and squeeze the others. */
  get width() {
    return String(this.heads.filter((head) => getComputedStyle(head).display !== "none").length || this.heads.length);
  }

  add(item) {
    const more = this.columns.slice(1).map((column) =>
      make("td", { role: "cell", class: column.class ?? "", "data-label": column.label }));
    const cells = [make("th", { role: "rowheader", scope: "row" }), ...more];
    const row = { key: this.key(item), cells, tr: make("tr", { role: "row", class: "row" }, ...cells), item: null };
    this.columns.forEach((column, i) => column.isName && cells[i].append(nameOf(column.value(item))));
    if (this.detail) {
      row.button = make("button", { type: "button", "aria-expanded": "false", tabindex: -1 }, cells[0].firstChild);
      cells[0].append(row.button);
    }
    this.rows.set(row.key, row);
    return row;
  }

  update(row, item) {
    if (isSame(row.item, item)) return;
    row.item = item;
    this.columns.forEach((column, i) => {
      if (column.draw) column.draw(row.cells[i], item);
      else if (!column.isName) setText(row.cells[i], column.text ? column.text(item) : String(column.value(item)));
      row.cells[i].classList.toggle("zero", column.value(item) === 0);
    });
  }

  /** Take a row away; focus that was in it goes to its neighbour. */
  drop({ key, tr, open }) {
    this.rows.delete(key);
    const hasFocus = [tr, open?.tr].some((one) => one?.contains(document.activeElement));
    if (hasFocus) (step(tr, "next") ?? step(tr, "previous") ?? $("search")).focus();
    open?.tr.remove();
    tr.remove();
  }

  clicked(target) {
    const tr = target.closest("tr");
    const row = [...this.rows.values()].find((one) => one.tr === tr);
    if (row && (target.closest("button") || !getSelection().toString())) this.toggle(row); // to select is not to click
  }

  toggle(row) {
    setAttribute(row.button, "aria-expanded", String(!row.open));
    if (row.open) {
      row.open.tr.remove();
      row.open = null;
      return;
    }
    const facts = make("p", { class: "facts" }, "loading…");
    const cell = make("td", { role: "cell", colspan: this.width }, facts);
    const table = new Table(cell, `${this.detail.label} ${visible(row.key)}`, this.detail.columns, this.detail.key);
    table.show([]);
    row.open = { tr: make("tr", { role: "row", class: "detail" }, cell), cell, facts, table, isBusy: false };
    row.tr.after(row.open.tr);
    this.refresh(row);
  }

  refreshOpen() {
    this.rows.forEach((row) => row.open && !row.open.isBusy && this.refresh(row));
  }

  async refresh({ key, open, item }) {
    if (this.detail.here) {
      setText(open.facts, this.detail.facts(item).filter(Boolean).join(" · "));
      return open.table.show(this.detail.here(key));
    }
    open.isBusy = true;
    try {
      const reply = await this.detail.load(key);
      const body = await reply.json();
      setText(open.facts, reply.ok ? this.detail.facts(body, item).filter(Boolean).join(" · ") : body.error.message);
      open.table.show(reply.ok ? this.detail.items(body) : []);
    } catch {
      if (!open.table.items.length) setText(open.facts, "cannot be loaded now");
    }
    open.isBusy = false;
  }
}

/** Put rows into an order. Those that are in order already are not touched: moving takes focus and scrolling. */
function place(body, wanted) {
  let at = body.firstElementChild;
  for (const one of wanted) {
    if (at && one !== at && one === at.nextElementSibling) {
      at.remove(); // its turn comes later
      at = one;
    }
    if (one === at) at = at.nextElementSibling;
    else body.insertBefore(one, at);
  }
}

/** Return the button of the row after or before this one. */
export function step(tr, direction) {
  do tr = tr[`${direction}ElementSibling`];
  while (tr && !tr.classList.contains("row"));
  return tr?.querySelector("button");
}

/** Make a row's button the only one of its table at which Tab stops: five hundred stops would be too many. */
export function reach(button) {
  button?.closest("tbody").querySelector("button[tabindex='0']")?.setAttribute("tabindex", -1);
  button?.setAttribute("tabindex", 0);
}
