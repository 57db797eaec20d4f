// The page of Loom's control plane: one stream of views (/events), and rows that change only where a view differs.
//
// What comes from the fleet is a stranger's word: it is set as text, never as markup. Rows are keyed, so focus, open
// details and scrolling stay while numbers move. The token is in sessionStorage and in one header, nowhere else.

const BACKOFF_S = [1, 2, 5, 10];
const SILENT_MS = 40_000; // the control plane says something every 15 s; a connection that does not is dead
const STALLED_MS = 30_000;
const WINDOW_MS = 20_000; // nodes report every few seconds: a rate over less would jump
const MAX_ROWS = 500; // what the control plane puts into one view
const MAX_HELD = 200; // rows of an opened node

const $ = (id) => document.getElementById(id);
const root = document.documentElement;

// Words

const count = new Intl.NumberFormat("en").format;
const { compare } = new Intl.Collator("en", { numeric: true }); // node2 before node10

export function formatBytes(size) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let unit = 0;
  for (; size >= 999.5 && unit < units.length - 1; unit++) size /= 1000;
  return `${unit ? size.toPrecision(3) : Math.round(size)}\u00a0${units[unit]}`;
}

export function formatTime(seconds) {
  const s = Math.ceil(seconds);
  if (s < 60) return `${s} s`;
  if (s < 600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

/** Show what has no shape or turns its neighbours around (Trojan Source, CVE-2021-42574) as its code point. */
export function visible(text) {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `‹U+${c.codePointAt(0).toString(16).toUpperCase()}›`);
}

const percent = (part) => (part === null ? "" : `${Math.floor(part * 100)} %`);
const size = (it) => (it.size === undefined || it.size === null ? "" : formatBytes(it.size));

// Elements

function make(tag, attributes = {}, ...children) {
  const svg = tag === "svg" || tag === "rect";
  const one = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  one.append(...children);
  return one;
}

function setText(one, text) {
  if (one.textContent !== text) one.textContent = text;
}

function setAttribute(one, name, value) {
  if (one.getAttribute(name) !== value) one.setAttribute(name, value);
}

/** A long name gives way in its middle: what tells names apart is mostly at their ends. */
function nameOf(text) {
  const name = [...visible(text)];
  const tail = name.length > 24 ? name.splice(-14).join("") : "";
  const title = text.length > 24 ? { title: visible(text) } : {};
  return make("bdi", { class: "name", ...title }, make("span", {}, name.join("")), make("span", {}, tail));
}

/** How much is there (of 1), and which share of it came from peers. */
function makeBar(attributes) {
  const part = (from) => make("rect", { class: from, height: "100%", width: 0 });
  return make("svg", { class: "bar", ...attributes }, part("origin"), part("peers"));
}

function setBar(bar, part, peers) {
  setAttribute(bar.children[0], "width", `${(part * 100).toFixed(1)}%`);
  setAttribute(bar.children[1], "width", `${(part * peers * 100).toFixed(1)}%`);
}

// Tables. A column: its label, `value` to sort by, and how it is shown: as `text`, `name`, or by `draw`.

const isSame = (a, b) => a && Object.keys(b).every((key) => a[key] === b[key]) && Object.keys(a).every((key) => key in b);

class Table {
  constructor(home, label, columns, key, detail = null) {
    Object.assign(this, { columns, key, detail, rows: new Map(), items: [], by: columns[0], descends: false });
    this.heads = columns.map((column) => this.head(column));
    this.body = make("tbody", { role: "rowgroup" });
    const heads = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...this.heads));
    this.none = make("p", { class: "none" });
    this.table = make("table", { role: "table", "aria-label": label }, heads, this.body);
    home.append(this.none, this.table);
    if (detail) this.body.addEventListener("click", (event) => this.clicked(event));
    this.mark();
  }

  head(column) {
    const button = make("button", { type: "button" }, column.label);
    button.addEventListener("click", () => this.sort(column));
    return make("th", { role: "columnheader", scope: "col", class: column.class ?? "" }, button);
  }

  sort(column) {
    this.descends = this.by === column ? !this.descends : column.class?.includes("number") ?? false;
    this.by = column;
    this.mark();
    this.show(this.items);
  }

  mark() {
    const direction = this.descends ? "descending" : "ascending";
    this.columns.forEach((column, i) => setAttribute(this.heads[i], "aria-sort", column === this.by ? direction : "none"));
  }

  order(a, b) {
    const [x, y] = [this.by.value(a), this.by.value(b)];
    const differ = typeof x === "string" ? compare(x, y) : (x ?? -1) - (y ?? -1);
    return (this.descends ? -differ : differ) || compare(this.key(a), this.key(b));
  }

  /** Show these items: rows that stay are kept, changed in the cells that differ, and moved only if out of place. */
  show(items, none = "") {
    this.items = [...items].sort((a, b) => this.order(a, b));
    const focused = document.activeElement;
    const gone = new Set(this.rows.keys());
    const wanted = this.items.flatMap((item) => {
      const key = this.key(item);
      gone.delete(key);
      const row = this.rows.get(key) ?? this.add(key, item);
      this.update(row, item);
      return row.open ? [row.tr, row.open.tr] : [row.tr];
    });
    for (const key of gone) this.drop(key, focused);
    place(this.body, wanted);
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    if (this.detail && !this.body.querySelector(".row button[tabindex='0']")) this.reachFirst();
    this.table.hidden = !items.length;
    setText(this.none, items.length ? "" : none);
  }

  add(key, item) {
    const cells = this.columns.map((column) => this.cell(column));
    const row = { key, cells, tr: make("tr", { role: "row", class: "row" }, ...cells), texts: [], item: null, open: null };
    this.columns.forEach((column, i) => column.name && this.fillName(row, cells[i], column.value(item)));
    this.rows.set(key, row);
    return row;
  }

  cell(column) {
    const role = column === this.columns[0] ? "rowheader" : "cell";
    const tag = role === "cell" ? "td" : "th";
    return make(tag, { role, class: column.class ?? "", "data-label": column.label, ...(tag === "th" && { scope: "row" }) });
  }

  /** Names are parts of the key: they are written once. The first one opens the row, and is where Tab stops (or not). */
  fillName(row, cell, name) {
    if (!this.detail || cell !== row.cells[0]) return cell.append(nameOf(name));
    row.button = make("button", { type: "button", "aria-expanded": "false", tabindex: -1 }, nameOf(name));
    return cell.append(row.button);
  }

  update(row, item) {
    if (isSame(row.item, item)) return;
    row.item = item;
    this.columns.forEach((column, i) => {
      if (column.draw) column.draw(row.cells[i], item);
      const text = column.text ? column.text(item) : column.name || column.draw ? "" : String(column.value(item) ?? "");
      if (column.name || column.draw || row.texts[i] === text) return;
      row.texts[i] = row.cells[i].textContent = text;
      row.cells[i].classList.toggle("zero", text === "0" || text === "0\u00a0B");
    });
  }

  /** Take a row away; focus that was in it goes to its neighbour. */
  drop(key, focused) {
    const { tr, open } = this.rows.get(key);
    this.rows.delete(key);
    if (tr.contains(focused) || open?.tr.contains(focused)) (step(tr, "next") ?? step(tr, "previous") ?? $("search")).focus();
    open?.tr.remove();
    tr.remove();
  }

  reachFirst() {
    this.body.querySelector(".row button")?.setAttribute("tabindex", 0);
  }

  clicked(event) {
    const row = [...this.rows.values()].find((one) => one.tr === event.target.closest("tr"));
    const isButton = event.target.closest("button");
    if (row && (isButton || !getSelection().toString())) this.toggle(row); // selecting a text is no click
  }

  toggle(row) {
    setAttribute(row.button, "aria-expanded", String(!row.open));
    if (row.open) {
      row.open.tr.remove();
      row.open = null;
      return;
    }
    const cell = make("td", { role: "cell", colspan: this.columns.length });
    const facts = make("p", { class: "facts" }, "loading…");
    row.open = { tr: make("tr", { role: "row", class: "detail" }, cell), facts, busy: false };
    cell.append(facts);
    row.open.table = new Table(cell, `${this.detail.label} ${visible(row.key)}`, this.detail.columns, this.detail.key);
    row.tr.after(row.open.tr);
    this.refresh(row);
  }

  refreshOpen() {
    for (const row of this.rows.values()) if (row.open && !row.open.busy) this.refresh(row);
  }

  async refresh(row) {
    const { open } = row;
    open.busy = true;
    try {
      const reply = await ask(this.detail.path(row.key));
      const facts = await reply.json();
      setText(open.facts, reply.ok ? this.detail.facts(facts, row.item) : facts.error.message);
      open.table.show(reply.ok ? this.detail.items(facts) : []);
    } catch {
      if (!open.table.items.length) setText(open.facts, "cannot be loaded now");
    }
    open.busy = false;
  }
}

/** Put elements into an order. Those that are in order already are not touched, for moving takes focus and scrolling. */
function place(body, wanted) {
  let at = body.firstElementChild;
  for (const one of wanted) {
    if (at && one !== at && one === at.nextElementSibling) {
      const early = at;
      at = one;
      early.remove(); // its turn comes later
    }
    if (one === at) at = at.nextElementSibling;
    else body.insertBefore(one, at);
  }
}

/** The button of the row after (or before) this one. */
function step(tr, direction) {
  do tr = tr[`${direction}ElementSibling`];
  while (tr && !tr.classList.contains("row"));
  return tr?.querySelector("button");
}

// What is shown

const number = "number";
const zone = { label: "Zone", value: (it) => visible(it.zone ?? ""), class: "zone" };
const load = { label: "Load", value: (it) => it.load ?? 0, class: number };
const state = { label: "State", value: (it) => (it.state === "complete" || !it.size ? it.state : percent(it.received / it.size)) };
const amount = (label, value) => ({ label, value, text: (it) => formatBytes(value(it)), class: number });
const model = { label: "Model", value: (it) => it.model, name: true };
const node = { label: "Node", value: (it) => it.node, name: true };
const whole = { label: "Size", value: (it) => it.size ?? null, text: size, class: number };

const ofNode = {
  label: "Models of",
  path: (name) => `nodes/${encodeURIComponent(name)}`,
  key: (it) => it.model,
  columns: [model, state, whole, amount("From peers", (it) => it.from_peers ?? 0), amount("From origin", (it) => it.from_origin ?? 0)],
  items: (reply) => reply.inventory.slice(0, MAX_HELD),
  facts: ({ node: it, inventory }) => [it.address ?? "no address", it.zone && `zone ${visible(it.zone)}`,
    inventory.length > MAX_HELD && `${MAX_HELD} of ${count(inventory.length)} models; loom nodes shows all`]
    .filter(Boolean).join(" · "),
};

const ofModel = {
  label: "Replicas of",
  path: (name) => `locate/${encodeURIComponent(name)}?limit=100`,
  key: (it) => it.node,
  columns: [node, state, zone, { label: "Address", value: (it) => it.address ?? "" }, load],
  items: (reply) => reply.replicas,
  facts: (reply, it) => [it.digest ?? "no digest", size(it),
    reply.total > reply.replicas.length && `${reply.replicas.length} best of ${count(reply.total)} replicas`]
    .filter(Boolean).join(" · "),
};

const progress = {
  label: "Progress", value: (it) => it.part, class: "progress",
  draw(cell, it) {
    if (!cell.firstChild) cell.append(makeBar({ role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }), make("span"));
    const [bar, text] = cell.children;
    setBar(bar, it.part ?? 0, it.peers ?? 0);
    setAttribute(bar, "aria-label", visible(`${it.model} to ${it.node}`));
    if (it.part !== null) setAttribute(bar, "aria-valuenow", String(Math.floor(it.part * 100)));
    setText(text, percent(it.part));
  },
};

const tables = {
  fetches: new Table($("fetches"), "Fetches", [model, node, progress,
    { label: "Received", value: (it) => it.received, text: (it) => formatBytes(it.received) + (it.size ? ` of ${size(it)}` : ""), class: `${number} received` },
    { label: "Rate", value: (it) => it.rate, text: (it) => (it.rate ? `${formatBytes(it.rate)}/s` : it.rate === 0 ? "stalled" : ""), class: number },
    { label: "Left", value: (it) => it.left, text: (it) => (it.left === null ? "" : formatTime(it.left)), class: number },
    { label: "Peers", value: (it) => it.peers, text: (it) => percent(it.peers), class: number },
  ], (it) => `${it.model}\n${it.node}`),
  nodes: new Table($("nodes"), "Nodes", [node, zone,
    { label: "Models", value: (it) => it.models, text: (it) => count(it.models), class: number },
    { label: "Fetching", value: (it) => it.fetching, text: (it) => count(it.fetching), class: number },
    load, amount("Served", (it) => it.served),
  ], (it) => it.node, ofNode),
  models: new Table($("models"), "Models", [model, whole,
    { label: "Replicas", value: (it) => it.complete, text: (it) => count(it.complete), class: number },
    { label: "Fetching", value: (it) => it.partial, text: (it) => count(it.partial), class: number },
  ], (it) => it.model, ofModel),
};

const paces = new Map(); // fetch -> when it was seen to have how much, a while back

/** Return a fetch with how fast it is: null as long as that is unknown, 0 when nothing has come for long. */
function paced(it, now) {
  const key = tables.fetches.key(it);
  let points = paces.get(key) ?? [];
  if (!points.length || it.received < points.at(-1).received) points = [{ at: now, received: it.received }];
  else if (it.received > points.at(-1).received) points.push({ at: now, received: it.received });
  while (points.length > 2 && now - points[0].at > WINDOW_MS) points.shift();
  paces.set(key, points);
  const [first, last] = [points[0], points.at(-1)];
  const grown = points.length > 1 ? ((last.received - first.received) * 1000) / (last.at - first.at) : null;
  const rate = now - last.at > STALLED_MS ? 0 : grown;
  const moved = it.from_origin + it.from_peers;
  return { ...it, rate, part: it.size ? Math.min(1, it.received / it.size) : null, peers: moved ? it.from_peers / moved : null,
    left: rate && it.size ? Math.ceil((it.size - it.received) / rate) : null };
}

let shown = null; // the last view, and the search that it answers

function show(view) {
  shown = view;
  const { totals, nodes, models, search } = view;
  const now = performance.now();
  const all = view.fetches.map((it) => paced(it, now));
  if (paces.size > 2 * all.length) for (const key of paces.keys()) if (!all.some((it) => tables.fetches.key(it) === key)) paces.delete(key);
  const names = new Set([...nodes.map((it) => it.node), ...models.map((it) => it.model)]);
  const fetches = search ? all.filter((it) => names.has(it.node) || names.has(it.model)) : all;
  reveal(totals.nodes ? "main" : "welcome");
  showTotals(totals, all);
  setText($("trouble"), view.trouble && `The registry behind cannot be written: ${view.trouble}`);
  $("trouble").hidden = !view.trouble;
  const matching = search && ` matches “${visible(search)}”`;
  tables.fetches.show(fetches, search ? "Nothing that matches is being fetched." : "Nothing is being fetched.");
  tables.nodes.show(nodes, `No node${matching}.`);
  tables.models.show(models, `No model${matching || " yet"}.`);
  showBound("fetches", fetches.length, totals.fetching, search);
  showBound("nodes", nodes.length, totals.nodes, search);
  showBound("models", models.length, totals.models, search);
  setText($("found"), search && `${nodes.length} nodes and ${models.length} models found`);
}

function showTotals(totals, fetches) {
  for (const [id, it] of [["nodes", totals.nodes], ["models", totals.models], ["fetches", totals.fetching]]) setText($(`all-${id}`), count(it));
  const moved = totals.from_origin + totals.from_peers;
  const rate = fetches.reduce((sum, it) => sum + (it.rate ?? 0), 0);
  setText($("rate"), rate && fetches.length === totals.fetching ? `at ${formatBytes(rate)}/s` : "");
  if (!$("share").firstChild) $("share").append(makeBar({ role: "img" }));
  setBar($("share").firstChild, moved ? 1 : 0, moved ? totals.from_peers / moved : 0);
  ...
}
