// The page of Loom's control plane: one stream of views (/events), and rows that change only where a view differs.
//
// Data of the fleet may come from a stranger: it is set as text, never as markup. Rows are keyed, so focus, open
// details and scrolling stay while numbers move. The token is in sessionStorage and in one header, nowhere else.

import {
  $, count, percent, formatBytes, formatTime, visible, make, setText, setAttribute, makeBar, setBar, Table, step, reach,
} from "./table.js";

const BACKOFF_S = [1, 2, 5, 10];
const SILENT_MS = 40_000; // the control plane sends every 15 s: a silent connection is dead
const STALLED_MS = 30_000;
const WINDOW_MS = 20_000; // nodes report every few seconds: a rate over less would jump
const LEASES_EVERY_MS = 5000;
const MAX_ROWS = 500; // rows that the control plane puts into one view
const MAX_HELD = 200; // rows of an opened node

const root = document.documentElement;

// Columns and details

const column = (label, value, more = {}) => ({ label, value, ...more });
const number = (label, value, text = (it) => count(value(it)), kind = "") =>
  column(label, value, { text, class: `number ${kind}` });
const bytes = (label, value) => number(label, value, (it) => (value(it) === null ? "" : formatBytes(value(it))));

/** Return a node's name; eight digits of its identity, too, where a name is not enough to tell it from others. */
const nodeName = (it) => (it.namesakes ? `${it.node} (${it.identity.slice(0, 8)})` : it.node);
const nodeKey = (it) => `${it.node}\n${it.identity ?? ""}`;
const node = column("Node", nodeName, { isName: true });
const model = column("Model", (it) => it.model, { isName: true });
const zone = column("Zone", (it) => visible(it.zone ?? ""), { class: "zone" });
const load = number("Load", (it) => it.load ?? 0);
const rejected = (it) => it.rejected_by ?? 0;
const failed = (it) => it.failed ?? 0;
const some = (value) => (it) => (value(it) ? count(value(it)) : "");
const countOf = (n, one) => `${count(n)} ${n === 1 ? one : one === "fetch" ? "fetches" : `${one}s`}`;
const size = bytes("Size", (it) => it.size ?? null);
const progressed = (it) => (it.state === "partial" && it.size ? percent((it.received ?? 0) / it.size) : it.state);
const state = column("State", progressed, { class: "state" });

const ofNode = {
  label: "Models of",
  load: (key) => {
    const [name, identity] = key.split("\n");
    return ask(`nodes/${encodeURIComponent(name)}${identity && `?identity=${identity}`}`);
  },
  key: (it) => it.model,
  columns: [
    model, state, size, bytes("Peers", (it) => it.from_peers ?? 0), bytes("Origin", (it) => it.from_origin ?? 0),
  ],
  items: (reply) => reply.inventory.slice(0, MAX_HELD),
  facts: ({ node: it, inventory: { length }, failures = [] }) => [
    it.address ?? "no address", it.zone && `zone ${visible(it.zone)}`, it.version && `Loom ${visible(it.version)}`,
    it.expires_in_s === undefined ? "no heartbeat" : `lease ends in ${formatTime(Math.max(0, it.expires_in_s))}`,
    length > MAX_HELD ? `the first ${MAX_HELD} of ${count(length)} models` : countOf(length, "model"),
    ...failures.map((one) => `failed ${formatTime(one.age_s)} ago: ${visible(one.model)} (${reasonOf(one)})`),
  ],
};

const ofModel = {
  label: "Replicas of",
  load: (name) => ask(`locate/${encodeURIComponent(name)}?limit=100`),
  key: nodeKey,
  columns: [node, state, zone, column("Address", (it) => it.address ?? ""), load],
  items: (reply) => reply.replicas,
  facts: ({ total, replicas: { length } }, it) => [
    it.digest ?? "no digest", size.text(it),
    it.copies !== undefined && it.copies !== null && `${it.copies.toFixed(2)} copies from the origin`,
    length < total ? `the best ${length} of ${countOf(total, "node")}` : countOf(total, "node"),
  ],
};

const REASONS = {
  usage: "wrong usage", "not-found": "not found", "access-denied": "access denied", origin: "the origin failed",
  integrity: "wrong bytes", store: "disk", registry: "control plane", interrupted: "interrupted",
  lost: "fell silent: killed, or cut off", unsaid: "no reason given",
};
const reasonOf = (it) => REASONS[it.reason] ?? "unforeseen";

function drawProgress(cell, it) {
  const label = visible(it.node ? `${it.model}, ${it.node}` : it.model);
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

const progress = column("Progress", (it) => it.part, { draw: drawProgress, class: "progress" });
const pace = [
  number("Rate", (it) => it.rate, formatRate, "wide"),
  number("Left", (it) => it.left, (it) => (it.left === null ? "" : formatTime(it.left)), "wide"),
  number("Peers", (it) => it.peers, (it) => percent(it.peers)),
];

const ofStart = {
  label: "Fetches of",
  here: (name) => fetches.filter((it) => it.model === name),
  key: nodeKey,
  columns: [node, progress, bytes("Received", (it) => it.received), ...pace],
  facts: (it) => [
    `${count(it.complete)} of ${countOf(it.complete + it.fetching, "node")} complete`,
    it.slowest !== null && it.fetching > 1 && `the slowest is at ${percent(it.slowest)}`,
    it.stalled && `${count(it.stalled)} stalled`,
    fetches.length >= MAX_ROWS && `of more than ${MAX_ROWS} fetches only the first are listed`,
  ],
};

const tables = {
  fetches: new Table($("fetches"), "Fetches", [
    model, number("Nodes", (it) => it.fetching), number("Complete", (it) => it.complete), progress,
    number("Slowest", (it) => it.slowest, (it) => percent(it.slowest)), number("Stalled", (it) => it.stalled), size,
    ...pace,
  ], (it) => it.model, ofStart),
  failures: new Table($("failures"), "Failures", [
    model, node, column("Reason", reasonOf, { class: "reason" }),
    number("Received", (it) => it.received ?? 0, (it) => (it.size ? percent((it.received ?? 0) / it.size) : "")),
    number("Ago", (it) => it.age_s, (it) => formatTime(it.age_s), "wide"),
  ], (it) => `${it.model}\n${nodeKey(it)}`),
  nodes: new Table($("nodes"), "Nodes", [
    node, zone, number("Models", (it) => it.models), number("Fetching", (it) => it.fetching),
    number("Failed", failed, some(failed), "failed"), load, bytes("Served", (it) => it.served),
    number("Rejected by", rejected, some(rejected), "rejected"),
    column("Loom", (it) => visible(it.version ?? ""), { class: "version" }),
  ], (it) => `${nodeKey(it)}\n${it.namesakes ? 1 : 0}`, ofNode), // a row's name is set once
  models: new Table($("models"), "Models", [
    model, size, number("Complete", (it) => it.complete), number("Fetching", (it) => it.partial),
    number("Copies", (it) => it.copies ?? null, (it) => ((it.copies ?? null) === null ? "" : it.copies.toFixed(2))),
  ], (it) => it.model, ofModel),
};

tables.failures.sort(tables.failures.columns.at(-1)); // the latest first
tables.failures.sort(tables.failures.columns.at(-1));

let fetches = []; // those of the last view, with their rates
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

/** Return the fetches of one model as one row; `own` are those of them that the view has. */
function gathered(it, own) {
  const rates = own.map((one) => one.rate);
  const lefts = own.map((one) => one.left).filter((left) => left !== null);
  const moved = it.from_origin + it.from_peers;
  return {
    ...it,
    part: it.size ? Math.min(1, it.received / (it.size * it.fetching)) : null,
    slowest: it.size ? Math.min(1, it.least / it.size) : null,
    peers: moved ? it.from_peers / moved : null,
    rate: rates.some((rate) => rate !== null) ? rates.reduce((sum, rate) => sum + (rate ?? 0), 0) : null,
    left: lefts.length ? Math.max(...lefts) : null,
    stalled: rates.filter((rate) => rate === 0).length,
  };
}

const fetchKey = (it) => `${it.model}\n${nodeKey(it)}`;

function show(view) {
  const { totals, nodes, models, trouble, search } = (shown = view);
  const all = view.fetches.map((it) => [fetchKey(it), ...paced(it, paces.get(fetchKey(it)))]);
  paces = new Map(all);
  fetches = all.map((it) => it[2]);
  const starts = view.starts.map((it) => gathered(it, fetches.filter((one) => one.model === it.model)));
  reveal(totals.nodes || view.failures.length ? "main" : "welcome");
  showTotals(totals, starts);
  showWelcome();
  setText($("trouble"), trouble && `The registry behind cannot be written: ${trouble}`);
  $("trouble").hidden = !trouble;
  const match = search ? ` matches “${visible(search)}”` : " yet";
  const versions = new Set(nodes.map((it) => it.version).filter(Boolean));
  const optional = { failed: nodes.some(failed), rejected: nodes.some(rejected), version: versions.size > 1 };
  for (const [name, isWanted] of Object.entries(optional)) $("nodes").classList.toggle(`with-${name}`, isWanted);
  tables.fetches.show(starts, search ? "Nothing that matches is being fetched." : "Nothing is being fetched.");
  tables.fetches.refreshOpen();
  $("failures").hidden = !view.failures.length;
  showFailures();
  tables.nodes.show(nodes, `No node${match}.`);
  tables.models.show(models, `No model${match}.`);
  const fetching = starts.reduce((sum, it) => sum + it.fetching, 0);
  setText($("some-fetches"), fetching ? `${countOf(fetching, "fetch")} of ${countOf(starts.length, "model")}` : "");
  setText($("some-failures"), `${count(view.failures.length)} in the last day, not fetched since`);
  showBound("nodes", nodes.length, totals.nodes, !search || nodes.length >= MAX_ROWS);
  showBound("models", models.length, totals.models, !search || models.length >= MAX_ROWS);
  setText($("found"), search && `${countOf(nodes.length, "node")} and ${countOf(models.length, "model")} found`);
  if (opensFirst && search === $("search").value.trim()) openFirst();
}

/** Show what failed, with how long ago that is by now. */
function showFailures() {
  const passed_s = (performance.now() - shownAt) / 1000;
  tables.failures.show(shown.failures.map((it) => ({ ...it, age_s: it.age_s + passed_s })));
}

function showTotals({ nodes, models, fetching, from_origin: origin, from_peers: peers }, starts) {
  const rate = fetches.length === fetching ? starts.reduce((sum, it) => sum + (it.rate ?? 0), 0) : 0;
  const share = origin + peers ? peers / (origin + peers) : null;
  setText($("all-nodes"), count(nodes));
  setText($("all-models"), count(models));
  setText($("all-fetches"), count(fetching));
  setText($("word-nodes"), nodes === 1 ? "node" : "nodes");
  setText($("word-models"), models === 1 ? "model" : "models");
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
  const token = session["loom-token"] ? ' \\\n  -H "Authorization: Bearer $LOOM_FLEET_TOKEN"' : "";
  const register = new URL("register", location.href);
  setText($("example"), `curl ${register} \\\n  -d '{"node": "node1", "model": "llama-2-7b"}'${token}`);
}

function reveal(id) {
  for (const one of ["lock", "welcome", "main"]) $(one).hidden = one !== id;
  $("totals").hidden = id !== "main";
}

// The stream

let link = new AbortController();
let heardAt = 0; // when the control plane last sent something
let shownAt = 0;
const retry = { timer: 0, tries: 0, at: 0 };

function storage(kind) {
  try {
    return window[kind];
  } catch {
    return {}; // without the browser's storage it lasts as long as the page
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

let leasesAt = 0;
/** Once a second: what depends on time alone. */
function tick() {
  const now = performance.now();
  const again = retry.at ? `, again in ${formatTime(Math.max(0, retry.at - now) / 1000)}` : ", trying again";
  const age = shown ? `; this view is ${formatTime((now - shownAt) / 1000)} old` : "";
  setText($("age"), root.dataset.state === "lost" ? again + age : "");
  if (root.dataset.state !== "live" || document.hidden) return;
  if (shown?.failures.length) showFailures();
  if (now - Math.max(shownAt, leasesAt) > LEASES_EVERY_MS) {
    leasesAt = now; // the server sends no view only because leases have less time left
    tables.nodes.refreshOpen();
  }
  if (now - heardAt > SILENT_MS) lose("Connection lost");
  else if (shown?.fetches.length && now - shownAt > 2000) show(shown); // the server sends no view when a fetch stalls
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
