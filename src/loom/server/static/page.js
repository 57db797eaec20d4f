// The page of Loom's control plane: one stream of views (/events), and rows that change only where a view differs.
//
// What comes from the fleet is a stranger's word: it is set as text, never as markup. Rows are keyed, so focus, open
// details and scrolling stay while numbers move. The token is in sessionStorage and in one header, nowhere else.

const BACKOFF_S = [1, 2, 5, 10];
const SILENT_MS = 40_000; // the control plane says something every 15 s: a connection that does not is dead
const STALLED_MS = 30_000;
const WINDOW_MS = 20_000; // nodes report every few seconds: a rate over less would jump
const MAX_ROWS = 500; // what the control plane puts into one view
const MAX_HELD = 200; // rows of an opened node

const root = document.documentElement;
const $ = (id) => document.getElementById(id);

// Words

const count = new Intl.NumberFormat("en").format;
const { compare } = new Intl.Collator("en", { numeric: true }); // node2 before node10
const percent = (part) => (part === null ? "" : `${Math.floor(part * 100)}\u00a0%`);

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

function make(tag, attributes = {}, ...children) {
  const isSvg = tag === "svg" || tag === "rect";
  const one = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
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

/** Return a name that, where it is too long, gives way before its end: that is what tells names apart. */
function nameOf(text) {
  const start = Array.from(visible(text));
  const end = start.length > 32 ? start.splice(-20).join("") : "";
  return make("bdi", { class: "name", title: visible(text) }, make("span", {}, start.join("")), make("span", {}, end));
}

function makeBar(attributes) {
  const rects = ["origin", "peers"].map((from) => make("rect", { class: from, height: "100%", width: 0 }));
  return make("svg", { class: "bar", ...attributes }, ...rects);
}

/** Draw how much is there (of 1), and which share of it came from peers. */
function setBar(bar, part, peers) {
  setAttribute(bar.children[0], "width", `${(part * 100).toFixed(1)}%`);
  setAttribute(bar.children[1], "width", `${(part * peers * 100).toFixed(1)}%`);
}

// Tables. A column has a label, a `value` to sort by, and is shown as `text` of an item; a name is part of the key.

const isSame = (a, b) => a !== null && Object.keys({ ...a, ...b }).every((key) => a[key] === b[key]);

class Table {
  constructor(home, label, columns, key, detail = null) {
    Object.assign(this, { columns, key, detail, rows: new Map(), items: [], by: columns[0], descends: false });
    this.heads = columns.map((column) => this.makeHead(column));
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...this.heads));
    this.body = make("tbody", { role: "rowgroup" });
    this.table = make("table", { role: "table", "aria-label": label }, head, this.body);
    this.none = make("p", { class: "none" });
    home.append(this.none, make("div", { class: "scroll" }, this.table));
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
    place(this.body, wanted);
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    if (!this.body.querySelector(".row button[tabindex='0']")) reach(this.body.querySelector(".row button"));
    this.table.hidden = !items.length;
    setText(this.none, items.length ? "" : none);
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
    const cell = make("td", { role: "cell", colspan: this.columns.length }, facts);
    const table = new Table(cell, `${this.detail.label} ${visible(row.key)}`, this.detail.columns, this.detail.key);
    table.show([]);
    row.open = { tr: make("tr", { role: "row", class: "detail" }, cell), facts, table, isBusy: false };
    row.tr.after(row.open.tr);
    this.refresh(row);
  }

  refreshOpen() {
    this.rows.forEach((row) => row.open && !row.open.isBusy && this.refresh(row));
  }

  async refresh({ key, open, item }) {
    open.isBusy = true;
    try {
      const reply = await ask(this.detail.path(key));
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
function step(tr, direction) {
  do tr = tr[`${direction}ElementSibling`];
  while (tr && !tr.classList.contains("row"));
  return tr?.querySelector("button");
}

/** Make a row's button the one of its table at which Tab stops: nobody wants to pass five hundred. */
function reach(button) {
  button?.closest("tbody").querySelector("button[tabindex='0']")?.setAttribute("tabindex", -1);
  button?.setAttribute("tabindex", 0);
}

// What is shown

const column = (label, value, more = {}) => ({ label, value, ...more });
const number = (label, value, text = (it) => count(value(it)), kind = "") =>
  column(label, value, { text, class: `number ${kind}` });
const bytes = (label, value) => number(label, value, (it) => (value(it) === null ? "" : formatBytes(value(it))));

const node = column("Node", (it) => it.node, { isName: true });
const model = column("Model", (it) => it.model, { isName: true });
const zone = column("Zone", (it) => visible(it.zone ?? ""), { class: "zone" });
const load = number("Load", (it) => it.load ?? 0);
const size = bytes("Size", (it) => it.size ?? null);
const progressed = (it) => (it.state === "partial" && it.size ? percent((it.received ?? 0) / it.size) : it.state);
const state = column("State", progressed, { class: "state" });

const ofNode = {
  label: "Models of",
  path: (name) => `nodes/${encodeURIComponent(name)}`,
  key: (it) => it.model,
  columns: [
    model, state, size, bytes("Peers", (it) => it.from_peers ?? 0), bytes("Origin", (it) => it.from_origin ?? 0),
  ],
  items: (reply) => reply.inventory.slice(0, MAX_HELD),
  facts: ({ node: it, inventory: { length } }) => [
    it.address ?? "no address", it.zone && `zone ${visible(it.zone)}`,
    length > MAX_HELD ? `the first ${MAX_HELD} of ${count(length)} models` : `${count(length)} models`,
  ],
};

const ofModel = {
  label: "Replicas of",
  path: (name) => `locate/${encodeURIComponent(name)}?limit=100`,
  key: (it) => it.node,
  columns: [node, state, zone, column("Address", (it) => it.address ?? ""), load],
  items: (reply) => reply.replicas,
  facts: ({ total, replicas: { length } }, it) => [
    it.digest ?? "no digest", size.text(it),
    length < total ? `the best ${length} of ${count(total)} nodes` : `${count(total)} nodes`,
  ],
};

function drawProgress(cell, it) {
  const label = visible(`${it.model}, ${it.node}`);
  const roles = { role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 };
  if (!cell.firstChild) cell.append(makeBar(roles), make("span"));
  const [bar, text] = cell.children;
  setBar(bar, it.part ?? 0, it.peers ?? 0);
  if (it.part !== null) setAttribute(bar, "aria-valuenow", String(Math.floor(it.part * 100)));
  setText(text, percent(it.part));
}

function formatRate({ rate }) {
  if (rate === null) return "";
  return rate ? `${formatBytes(rate)}/s` : "stalled";
}

const tables = {
  fetches: new Table($("fetches"), "Fetches", [
    model, node, column("Progress", (it) => it.part, { draw: drawProgress, class: "progress" }),
    bytes("Received", (it) => it.received), size,
    number("Rate", (it) => it.rate, formatRate, "wide"),
    number("Left", (it) => it.left, (it) => (it.left === null ? "" : formatTime(it.left)), "wide"),
    number("Peers", (it) => it.peers, (it) => percent(it.peers)),
  ], (it) => `${it.model}\n${it.node}`),
  nodes: new Table($("nodes"), "Nodes", [
    node, zone, number("Models", (it) => it.models), number("Fetching", (it) => it.fetching), load,
    bytes("Served", (it) => it.served),
  ], (it) => it.node, ofNode),
  models: new Table($("models"), "Models", [
    model, size, number("Complete", (it) => it.complete), number("Fetching", (it) => it.partial),
  ], (it) => it.model, ofModel),
};

let paces = new Map(); // fetch -> when it was seen to have how much, a while back
let shown = null; // the last view, with the search that it answers
let opensFirst = false; // Enter was pressed in the search: its first row opens

/** Return a fetch with its rate: null as long as it is unknown, 0 when nothing has come for long. */
function paced(it, points = [], now = performance.now()) {
  const before = points.at(-1);
  if (!before || it.received < before.received) points = [{ at: now, received: it.received }];
  else if (it.received > before.received) points = [...points, { at: now, received: it.received }];
  while (points.length > 2 && now - points[0].at > WINDOW_MS) points.shift();
  const [first, last] = [points[0], points.at(-1)];
  const grown = first === last ? null : ((last.received - first.received) * 1000) / (last.at - first.at);
  const rate = now - last.at > STALLED_MS ? 0 : grown;
  const left = rate && it.size ? Math.ceil((it.size - it.received) / rate) : null;
  const moved = it.from_origin + it.from_peers;
  const part = it.size ? Math.min(1, it.received / it.size) : null;
  return [points, { ...it, rate, left, part, peers: moved ? it.from_peers / moved : null }];
}

function show(view) {
  const { totals, nodes, models, trouble, search } = (shown = view);
  const all = view.fetches.map((it) => [tables.fetches.key(it), ...paced(it, paces.get(tables.fetches.key(it)))]);
  paces = new Map(all);
  const names = new Set([...nodes.map((it) => it.node), ...models.map((it) => it.model)]);
  const fetches = all.map((it) => it[2]).filter((it) => !search || names.has(it.node) || names.has(it.model));
  reveal(totals.nodes ? "main" : "welcome");
  showTotals(totals, all.map((it) => it[2]));
  showWelcome();
  setText($("trouble"), trouble && `The registry behind cannot be written: ${trouble}`);
  $("trouble").hidden = !trouble;
  const match = search ? ` matches “${visible(search)}”` : " yet";
  tables.fetches.show(fetches, search ? "Nothing that matches is being fetched." : "Nothing is being fetched.");
  tables.nodes.show(nodes, `No node${match}.`);
  tables.models.show(models, `No model${match}.`);
  showBound("fetches", fetches.length, totals.fetching);
  showBound("nodes", nodes.length, totals.nodes, !search || nodes.length >= MAX_ROWS);
  showBound("models", models.length, totals.models, !search || models.length >= MAX_ROWS);
  setText($("found"), search && `${nodes.length} nodes and ${models.length} models found`);
  if (opensFirst && search === $("search").value.trim()) openFirst();
}

function showTotals({ nodes, models, fetching, from_origin: origin, from_peers: peers }, fetches) {
  const rate = fetches.length === fetching ? fetches.reduce((sum, it) => sum + (it.rate ?? 0), 0) : 0;
  const share = origin + peers ? peers / (origin + peers) : null;
  setText($("all-nodes"), count(nodes));
  setText($("all-models"), count(models));
  setText($("all-fetches"), count(fetching));
  setText($("rate"), rate ? `at ${formatBytes(rate)}/s` : "");
  setText($("from-peers"), formatBytes(peers) + (share === null ? "" : ` (${percent(share)})`));
  setText($("from-origin"), formatBytes(origin));
  if (!$("share").firstChild) $("share").append(makeBar({ "aria-hidden": "true" }));
  setBar($("share").firstChild, share === null ? 0 : 1, share ?? 0);
  document.title = fetching ? `${count(fetching)} fetching · Loom` : "Loom";
}

/** Say beside a heading how many of all there are. */
function showBound(id, some, all, canNarrow = false) {
  const hint = canNarrow ? "; search to narrow" : "";
  setText($(`some-${id}`), some < all ? `${count(some)} of ${count(all)}${hint}` : count(all));
}

/** Show how a first node gets here. */
function showWelcome() {
  const token = session["loom-token"] ? ' \\\n  -H "Authorization: Bearer $LOOM_TOKEN"' : "";
  const register = new URL("register", location.href);
  setText($("example"), `curl ${register} \\\n  -d '{"node": "node1", "model": "llama-2-7b"}'${token}`);
}

function reveal(id) {
  for (const one of ["lock", "welcome", "main"]) $(one).hidden = one !== id;
  $("totals").hidden = id !== "main";
}

// The stream

let link = new AbortController();
let heardAt = 0; // when the control plane last said something
let shownAt = 0;
const retry = { timer: 0, tries: 0, at: 0 };

function storage(kind) {
  try {
    return window[kind];
  } catch {
    return {}; // the browser keeps nothing for this page: then it lasts as long as the page
  }
}
const [session, local] = [storage("sessionStorage"), storage("localStorage")];

/** Ask the control plane. A header is made of bytes: those of the token are its UTF-8. */
async function ask(path, signal) {
  const token = session["loom-token"];
  const headers = token ? { Authorization: `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}` } : {};
  const reply = await fetch(path, { headers, signal, cache: "no-store" });
  if (reply.status === 401) lock(token);
  return reply;
}

function stop() {
  clearTimeout(retry.timer);
  link.abort();
}

async function connect() {
  stop();
  const { signal } = (link = new AbortController());
  retry.at = 0;
  try {
    await follow($("search").value.trim(), signal);
    throw new Error("the stream has ended");
  } catch (error) {
    if (!signal.aborted) lose(error.told ?? "Connection lost");
  }
}

/** Show views until the stream ends. EventSource would do this, but it cannot send a token. */
async function follow(search, signal) {
  heardAt = performance.now();
  const reply = await ask(search ? `events?search=${encodeURIComponent(search)}` : "events", signal);
  if (!reply.ok) throw Object.assign(new Error(), { told: `The control plane answers ${reply.status}` });
  const [reader, decoder] = [reply.body.getReader(), new TextDecoder()];
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) return;
    heardAt = performance.now();
    const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = events.pop();
    const data = events.findLast((event) => event.startsWith("data: ")); // the others only keep the connection
    if (data) receive({ ...JSON.parse(data.slice(6)), search });
  }
}

function receive(view) {
  shownAt = performance.now();
  retry.tries = 0;
  say("live", "Live");
  $("forget").hidden = !session["loom-token"];
  show(view);
  tables.nodes.refreshOpen();
  tables.models.refreshOpen();
}

function lose(why) {
  const wait_s = BACKOFF_S[Math.min(retry.tries++, BACKOFF_S.length - 1)];
  retry.at = performance.now() + wait_s * 1000;
  retry.timer = setTimeout(connect, wait_s * 1000);
  link.abort();
  say("lost", why);
}

function say(how, text) {
  root.dataset.state = how;
  setText($("status"), text);
  tick();
}

/** Once a second: what depends on time alone. */
function tick() {
  const now = performance.now();
  const again = retry.at ? `, again in ${formatTime(Math.max(0, retry.at - now) / 1000)}` : ", trying again";
  const age = shown ? `; what is shown is ${formatTime((now - shownAt) / 1000)} old` : "";
  setText($("age"), root.dataset.state === "lost" ? again + age : "");
  if (root.dataset.state !== "live" || document.hidden) return;
  if (now - heardAt > SILENT_MS) lose("Connection lost");
  else if (shown?.fetches.length && now - shownAt > 2000) show(shown); // a fetch that stalls is no news to the server
}

// The token

function lock(token) {
  stop();
  delete session["loom-token"];
  setText($("refused"), token ? "That token was refused." : "");
  document.title = "Loom";
  reveal("lock");
  say("locked", "Locked");
  $("token").focus();
}

$("lock").addEventListener("submit", (event) => {
  event.preventDefault();
  session["loom-token"] = $("token").value.trim();
  $("token").value = "";
  connect();
});
$("forget").addEventListener("click", () => {
  $("forget").hidden = true;
  lock();
});

// Keys, search, theme

let typing = 0;
function search(wait_ms) {
  clearTimeout(typing);
  typing = setTimeout(connect, wait_ms);
}

/** Open the first row that the search finds: now, or once the view that answers it is there. */
function openFirst() {
  opensFirst = shown?.search !== $("search").value.trim();
  if (opensFirst) return search(0);
  const button = document.querySelector("#nodes .row button, #models .row button");
  if (button?.getAttribute("aria-expanded") === "false") button.click();
  return button?.focus();
}

function escape(target) {
  const row = target.closest(".detail")?.previousElementSibling ?? target.closest(".row");
  const button = row?.querySelector("button[aria-expanded='true']");
  if (button) {
    button.click();
    button.focus();
  } else if ($("search").value) {
    $("search").value = "";
    search(0);
  } else target.blur();
}

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const tr = target.closest(".row");
  const arrow = { ArrowDown: "next", ArrowUp: "previous" }[key];
  if (key === "/" && !target.matches("input")) $("search").select();
  else if (key === "Escape" && target.id !== "token") escape(target);
  else if (arrow && tr) step(tr, arrow)?.focus();
  else if (key === "ArrowDown" && target.id === "search") document.querySelector("main .row button")?.focus();
  else if (key === "Enter" && target.id === "search") openFirst();
  else return;
  event.preventDefault();
});
document.addEventListener("focusin", ({ target }) => target.matches(".row button") && reach(target));
$("search").addEventListener("input", () => search(200));

const dark = matchMedia("(prefers-color-scheme: dark)");
function showTheme() {
  const chosen = local["loom-theme"];
  if (chosen) root.dataset.theme = chosen;
  else delete root.dataset.theme; // as the system has it
  const isDark = chosen ? chosen === "dark" : dark.matches;
  setText($("theme"), isDark ? "Light" : "Dark");
  setAttribute($("theme"), "aria-label", isDark ? "Use the light theme" : "Use the dark theme");
}
$("theme").addEventListener("click", () => {
  const system = dark.matches ? "dark" : "light";
  if (local["loom-theme"] && local["loom-theme"] !== system) delete local["loom-theme"]; // follow the system again
  else local["loom-theme"] = system === "dark" ? "light" : "dark";
  showTheme();
});
dark.addEventListener("change", showTheme);

// The beginning

document.addEventListener("visibilitychange", () => {
  if (root.dataset.state === "locked") return;
  if (!document.hidden) return connect();
  document.title = "Loom";
  return stop();
});
setInterval(tick, 1000);
showTheme();
say("connecting", "Connecting");
if (!document.hidden) connect();
