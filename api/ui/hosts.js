// The table of what counts in a scope: hosts, clients and so on, with bars, rates and charts; of one that is opened its nodes, its limit
// and, of a host, its connections.

import { $, h, keyed, number, paged, plural, rate, set, text } from './dom.js';
import { colour, model } from './model.js';
import { FLOWS, flow, flowsOf, spark } from './charts.js';
import { connections } from './connections.js';
import { edit } from './editor.js';
import { SCOPES, bare, limitKey, words } from './words.js';

const COLUMNS = [
  { id: 'host', name: 'Host', value: (x) => x.name, first: 1 },
  { id: 'use', name: 'Use', value: (x) => (x.limit ? x.inUse / x.limit : x.inUse / 1e9), first: -1 },
  { id: 'in_use', name: 'In use', value: (x) => x.inUse, first: -1, num: true },
  { id: 'idle', name: 'Idle', value: (x) => x.idle, first: -1, num: true },
  { id: 'limit', name: 'Limit', value: (x) => x.limit ?? Infinity, first: 1, num: true },
  { id: 'granted', name: 'Granted', value: (x) => x.granted, first: -1, num: true },
  { id: 'waiting', name: 'Waiting', value: (x) => x.waiting, first: -1, num: true },
  { id: 'refused', name: 'Refused/s', value: (x) => x.refusals, first: -1, num: true },
  { id: 'chart', name: 'Last minutes' },
  { id: 'rates', name: 'Rates', value: (x) => Math.max(-1, ...Object.values(x.flows).map(share)), first: -1, flows: Object.keys(FLOWS) },
];

/** How much of a rate is used. */
const share = (f) => f.now / f.rate;

const RATES = COLUMNS.find((c) => c.flows);

const NOUNS = { host: 'Host', client: 'Client', user: 'User', total: 'All requests', key: 'Key' };

const SHOWN = {
  all: () => true,
  busy: (x) => x.inUse > 0 || x.waiting > 0,
  limited: (x) => x.limit !== null || Object.keys(x.flows).length > 0,
  full: (x) => (x.limit !== null && x.inUse >= x.limit) || Object.values(x.flows).some((f) => f.now >= 0.95 * f.rate),
  refused: (x) => x.refusals > 0,
  report: (x) => isReport(x),
};

/** By column: what the API sorts by when it can't tell all names. By the others, it is in_use. */
const SORTS = { granted: 'granted', waiting: 'waiting', rates: 'requests' };
/** What the names that it tells then have the most of. */
const MOST = { in_use: 'connections in use', granted: 'slots granted', waiting: 'requests waiting', requests: 'requests a second' };

const RESORT = 3000; // ms: rows that jump each second can't be read

const view = { scope: 'host', filter: '', show: 'all', sort: 'in_use', down: -1, order: [], sorted: 0, pager: { page: 0, size: 50 } };
const opened = new Set(); // "scope name"
const scopeLimit = h('div', {}); // where the limit of a scope without names is edited
let redraw = () => {};

const all = () => model.scopes[view.scope] ?? new Map();
const openKey = (x) => `${view.scope} ${x.name}`;

/** Whether the limit on x only reports. */
const isReport = (x) => model.limits.get(limitKey(view.scope, x.data.pattern ?? ''))?.mode === 'report';

/** Shows another scope. */
export function showScope(scope) {
  if (view.scope === scope) return;
  Object.assign(view, { scope, sorted: 0, order: [] });
  view.pager.page = 0;
  if (!bare(scope)) {
    text($('host-filter-label'), `Filter ${SCOPES[scope]}`);
    set($('host-filter'), 'placeholder', `Filter ${SCOPES[scope]}`);
  }
  text(COLUMNS[0].button, NOUNS[scope] ?? '');
  text($('host-caption'), `Use of ${SCOPES[scope]} over the whole cluster`);
  $('host-table').hidden = scope === 'connection';
  $('host-tools').hidden = bare(scope);
  scopeLimit.replaceChildren();
  $('scope-limit').governed.key = null;
}

/**
 * Of a scope with more names than the API tells at once: the order that decides which, and how the
 * names begin that are looked for.
 */
export function wantedNames() {
  return { sort: (view.down < 0 && SORTS[view.sort]) || 'in_use', prefix: $('host-filter').value.trim() };
}

/** draw() draws all again; ask() asks for the names that are wanted now. */
export function setUpHosts(draw, ask) {
  redraw = draw;
  const again = () => { view.sorted = 0; redraw(); ask(); };
  $('host-filter').addEventListener('input', (e) => { view.filter = e.target.value.trim().toLowerCase(); view.pager.page = 0; again(); });
  $('host-show').addEventListener('change', (e) => { view.show = e.target.value; view.pager.page = 0; again(); });
  for (const c of COLUMNS) {
    const th = h('th', { scope: 'col', class: `${c.num ? 'num' : ''} col-${c.id}` });
    if (c.value) {
      th.append(c.button = h('button', { type: 'button', class: 'sort', onclick: () => {
        view.down = view.sort === c.id ? -view.down : c.first;
        view.sort = c.id;
        again();
      } }, c.name));
      $('host-sort-narrow').append(h('option', { value: c.id, selected: c.id === view.sort }, `By ${c.name.toLowerCase()}`));
    } else th.append(c.name);
    c.th = th;
    $('host-head').append(th);
  }
  const own = $('scope-limit');
  own.governed = h('p', { class: 'governed' });
  own.append(own.governed, scopeLimit);
  $('host-sort-narrow').addEventListener('change', (e) => {
    view.sort = e.target.value;
    view.down = COLUMNS.find((c) => c.id === view.sort).first;
    again();
  });
}

/** The hosts in order. They are sorted anew every few seconds, and not under the pointer or the keyboard. */
function ordered() {
  const now = performance.now();
  const table = $('host-rows');
  const busy = view.sorted && (table.matches(':hover') || table.contains(document.activeElement));
  if (busy || now - view.sorted < RESORT) {
    const known = new Set(view.order);
    const rest = [...all().values()].filter((x) => !known.has(x.name) && wanted(x));
    view.order.push(...rest.map((x) => x.name));
    return view.order.map((name) => all().get(name)).filter(Boolean);
  }
  const column = COLUMNS.find((c) => c.id === view.sort);
  const compare = (a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    return (x < y ? -1 : x > y ? 1 : 0) * view.down || (a.name < b.name ? -1 : 1);
  };
  const hosts = [...all().values()].filter(wanted).sort(compare);
  view.order = hosts.map((x) => x.name);
  view.sorted = now;
  return hosts;
}

const wanted = (x) => bare(view.scope) || (x.name.toLowerCase().includes(view.filter) && SHOWN[view.show](x));

export function drawHosts() {
  if ($('hosts').hidden) return;
  for (const c of COLUMNS) set(c.th, 'aria-sort', c.id !== view.sort ? false : view.down > 0 ? 'ascending' : 'descending');
  $('scope-limit').hidden = !bare(view.scope);
  if (bare(view.scope)) drawGoverned($('scope-limit').governed, scopeLimit, { name: '', data: {} });
  const hosts = ordered();
  const page = paged($('host-pages'), view.pager, hosts, () => { view.sorted = 0; drawHosts(); });
  RATES.th.hidden = !page.some((x) => RATES.flows.some((f) => x.flows[f]));
  $('host-table').classList.toggle('rated', !RATES.th.hidden);
  const rows = page.flatMap((x) => (opened.has(openKey(x)) ? [{ host: x }, { host: x, detail: true }] : [{ host: x }]));
  keyed($('host-rows'), rows, (r) => `${r.detail ? '+' : ''}${openKey(r.host)}`, (r) => (r.detail ? makeDetail(r.host) : makeRow(r.host)));
  $('host-none').hidden = hosts.length > 0 && view.scope !== 'connection';
  text($('host-none'), nothing());
  const cut = model.cuts[view.scope];
  $('host-cut').hidden = !cut;
  if (cut) text($('host-cut'), cutWords(cut));
}

/** What is not shown of a scope that has more names than were told. */
function cutWords({ most, sort, prefix, more }) {
  const names = SCOPES[view.scope];
  const shown = `There are more ${names} than can be shown: these are the ${number(most)} with the most ${MOST[sort]}`;
  if (!prefix) return `${shown}. Type how a name begins to find others.`;
  return `${shown}, and ${more ? `the first ${number(most)}` : 'all'} that begin with “${prefix}”.`;
}

/** What is known of a limit that holds for each connection by itself. */
function ownUse() {
  const [x] = all().values();
  const what = 'This limit holds for each connection by itself.';
  if (!x || !isReport(x)) return what;
  return `${what} It only reports: ${number(x.wouldReject)} times it would have held bytes back.`;
}

/** Why there are no rows. */
function nothing() {
  if (view.scope === 'connection') return ownUse();
  if (!model.first || !model.scopesRead.has(view.scope)) return 'Asking the nodes…';
  const cut = model.cuts[view.scope];
  if (cut && cut.prefix !== wantedNames().prefix) return 'Asking the nodes…';
  if (all().size) return `No ${NOUNS[view.scope].toLowerCase()} matches the filter.`;
  if (view.scope === 'host') return 'No host is used yet. Point a worker’s HTTPS_PROXY at any node.';
  if (view.scope === 'total') return 'Nothing is counted in all yet: set a limit on all requests together.';
  return `No ${view.scope} is counted. They are counted once a limit of this scope governs them: add one under Limits.`;
}

function toggle(x) {
  if (!opened.delete(openKey(x))) opened.add(openKey(x));
  redraw();
}

function makeRow(host) {
  const cell = (id, ...children) => h('td', { class: `col-${id} ${COLUMNS.find((c) => c.id === id).num ? 'num' : ''}` }, ...children);
  const mode = h('span', { class: 'badge report', title: 'The limit only reports: it counts what it would have refused or slowed down' });
  const open = h('button', { type: 'button', class: 'open', onclick: () => toggle(host) }, h('span', { class: 'twist', 'aria-hidden': 'true' }), h('span', { class: 'name' }, host.name || 'all requests'));
  const p = { bar: bar(), inUse: cell('in_use'), idle: cell('idle'), limit: cell('limit'), granted: cell('granted'), waiting: cell('waiting'), refused: cell('refused'), chart: spark() };
  const flows = cell('rates');
  const tr = h('tr', { 'data-host': host.name, 'data-scope': view.scope }, h('th', { scope: 'row', class: 'col-host' }, open, mode), cell('use', p.bar), p.inUse, p.idle, p.limit, p.granted, p.waiting, p.refused, cell('chart', p.chart), flows);
  tr.update = ({ host: x }) => {
    set(open, 'aria-expanded', opened.has(openKey(x)) ? 'true' : 'false');
    mode.hidden = !isReport(x);
    text(mode, `report · ${number(x.wouldReject)} would be refused`);
    p.bar.update(x);
    text(p.inUse, number(x.inUse));
    text(p.idle, number(x.idle));
    text(p.limit, x.limit === null ? '–' : number(x.limit));
    text(p.granted, number(x.granted));
    text(p.waiting, number(x.waiting));
    text(p.refused, rate(x.refusals));
    p.waiting.classList.toggle('warn', x.waiting > 0);
    p.refused.classList.toggle('bad', x.refusals > 0);
    tr.classList.toggle('full', x.limit !== null && x.inUse >= x.limit);
    tr.classList.toggle('idle', x.inUse === 0 && x.waiting === 0 && x.granted === 0);
    p.chart.update(x);
    flows.hidden = RATES.th.hidden;
    drawFlows(flows, x);
  };
  return tr;
}

/** The rates of x, each with its bar and chart. */
function drawFlows(el, x) {
  keyed(el, RATES.flows.filter((k) => x.flows[k]).map((kind) => ({ kind, x })), (f) => f.kind, ({ kind }) => {
    const box = flow(kind);
    const update = box.update;
    box.update = (f) => update(f.x);
    return box;
  });
}

/**
 * One bar: what each node uses, what it was granted and doesn't use, what dead nodes hold, what is free, and behind the limit those who wait.
 * Who waits gets at most a third of it, so that the rest can still be read.
 */
function bar() {
  const el = h('div', { class: 'bar', role: 'img' });
  const segments = new Map();
  const segment = (key, classes, share) => {
    let s = segments.get(key);
    if (!s) segments.set(key, s = h('i', {}));
    set(s, 'class', classes);
    const width = `${(100 * share).toFixed(2)}%`;
    if (s.style.width !== width) s.style.width = width;
    s.used = true;
    return s;
  };
  el.update = (x) => {
    const nodes = Object.keys(x.data.nodes).sort();
    const dead = Object.keys(x.held).filter((n) => x.heldBy(n) > 0).sort();
    const lost = dead.reduce((sum, n) => sum + x.heldBy(n), 0);
    const size = Math.max(x.limit ?? 0, x.granted + lost, x.inUse + lost, 1);
    const wait = x.waiting ? Math.min(1 / 3, x.waiting / (size + x.waiting)) : 0;
    for (const s of segments.values()) s.used = false;
    const order = [];
    for (const n of nodes) {
      const u = x.data.nodes[n];
      if (u.in_use) order.push(segment(`u${n}`, `c${colour(n)} used`, (u.in_use / size) * (1 - wait)));
    }
    for (const n of nodes) {
      const u = x.data.nodes[n];
      const unused = Math.max(0, u.granted - u.in_use);
      if (unused) order.push(segment(`g${n}`, `c${colour(n)} unused`, (unused / size) * (1 - wait)));
    }
    for (const n of dead) order.push(segment(`d${n}`, `c${colour(n)} held`, (x.heldBy(n) / size) * (1 - wait)));
    const taken = lost + nodes.reduce((sum, n) => sum + Math.max(x.data.nodes[n].granted, x.data.nodes[n].in_use), 0);
    order.push(segment('free', 'free', Math.max(0, 1 - taken / size) * (1 - wait)));
    for (const n of nodes) {
      const u = x.data.nodes[n];
      if (u.waiting) order.push(segment(`w${n}`, `c${colour(n)} wait`, (u.waiting / x.waiting) * wait));
    }
    for (const [key, s] of segments) {
      if (!s.used) {
        s.remove();
        segments.delete(key);
      }
    }
    order.forEach((s, i) => { if (el.children[i] !== s) el.insertBefore(s, el.children[i] ?? null); });
    el.classList.toggle('nolimit', x.limit === null);
    const each = nodes.filter((n) => x.data.nodes[n].in_use).map((n) => `${n} ${x.data.nodes[n].in_use}`).join(', ');
    const label = `${x.limit === null ? plural(x.inUse, 'connection') : `${x.inUse} of ${x.limit}`} in use${each ? ` (${each})` : ''}${x.idle ? `, ${x.idle} of them idle` : ''}, ${x.granted} granted, ${x.waiting} waiting${dead.map((n) => `, ${x.heldBy(n)} held by ${n} until they are reclaimed`).join('')}`;
    set(el, 'aria-label', label);
    set(el, 'title', label);
  };
  return el;
}

function makeDetail(host) {
  const nodes = h('tbody', {});
  const rates = h('tbody', {});
  const governed = h('p', { class: 'governed' });
  const place = h('div', {});
  const name = host.name || 'all requests';
  const table = (of, head, body) => h('table', { class: 'mini bynode' }, h('caption', { class: 'hush' }, `${of} of ${name} by node`), h('thead', {}, h('tr', {}, ...head.map((t, i) => h('th', { scope: 'col', class: i ? 'num' : '' }, t)))), body);
  const flows = h('div', {}, h('h3', {}, 'Rates by node'), table('Rates', ['Node', 'Rate', 'Now', 'Granted', 'Waiting', 'Passed', 'Refused', 'Would refuse'], rates));
  const list = view.scope === 'host' ? connections(host.name) : null;
  const byNode = [h('h3', {}, 'By node'), table('Use', ['Node', 'In use', 'Idle', 'Granted', 'Waiting', 'Admitted', 'Refused', 'Refused/s'], nodes)];
  const tr = h('tr', { class: 'detail', 'data-detail': host.name }, h('td', { colspan: COLUMNS.length },
    h('div', { class: 'panes' },
      h('div', { class: 'pane' }, h('h3', {}, 'Limit'), governed, place, byNode),
      h('div', { class: 'pane' }, flows, list))));
  tr.update = ({ host: x }) => {
    const names = Object.keys(x.data.nodes).sort();
    keyed(nodes, names.map((n) => ({ node: n, x })), (r) => r.node, makeNode);
    const capped = names.flatMap((node) => Object.entries(flowsOf(x.data.nodes[node])).map(([kind, f]) => ({ node, kind, f })));
    flows.hidden = capped.length === 0;
    keyed(rates, capped, (r) => `${r.node} ${r.kind}`, makeFlow);
    drawGoverned(governed, place, x);
    list?.update();
  };
  return tr;
}

/** What one node has of one rate. */
function makeFlow({ node, kind }) {
  const { name, say, total } = FLOWS[kind];
  const cells = Array.from({ length: 6 }, () => h('td', { class: 'num' }));
  const tr = h('tr', {}, h('th', { scope: 'row' }, h('i', { class: `swatch c${colour(node)}` }), node), h('td', { class: 'num' }, name), cells);
  tr.update = ({ f }) => [say(f.now), say(f.granted), number(f.waiting), total(f.admitted_total), number(f.rejected_total), number(f.would_reject_total)].forEach((t, i) => text(cells[i], t));
  return tr;
}

function makeNode({ node }) {
  const cells = Array.from({ length: 7 }, () => h('td', { class: 'num' }));
  const tr = h('tr', {}, h('th', { scope: 'row' }, h('i', { class: `swatch c${colour(node)}` }), node), ...cells);
  tr.update = ({ x }) => {
    const u = x.data.nodes[node];
    [u.in_use, u.idle, u.granted, u.waiting, u.admitted_total, u.rejected_total].forEach((n, i) => text(cells[i], number(n)));
    text(cells[6], rate(x.rates[node] ?? 0));
  };
  return tr;
}

/** Which limit governs x, and what can be done about it. */
function drawGoverned(el, place, x) {
  const pattern = x.data.pattern ?? '';
  const scope = view.scope;
  const limit = model.limits.get(limitKey(scope, pattern));
  const key = JSON.stringify([scope, pattern, limit ?? null]);
  if (el.key === key) return;
  el.key = key;
  const focused = el.contains(document.activeElement);
  const first = () => el.querySelector('button'); // its place is taken by another when the limit changes
  const button = (label, what) => h('button', { type: 'button', class: 'small', onclick: () => edit(place, what, first) }, label);
  const own = { limit: null, scope, pattern: x.name };
  if (limit) {
    el.replaceChildren(h('code', {}, pattern || scope), `: ${words(limit)} `, limit.mode === 'report' ? h('span', { class: 'badge report' }, 'report') : '',
      button('Edit', { limit }), !bare(scope) && pattern !== x.name && !limit.shared ? button(`Set one for this ${scope} only`, own) : '');
  } else el.replaceChildren(scope === 'connection' ? 'None: each connection is as fast as it can. ' : `${scope === 'host' ? 'None: connections are counted, but never refused.' : 'None: nothing is refused in this scope.'} `, button('Set a limit', own));
  if (focused) first().focus();
}
