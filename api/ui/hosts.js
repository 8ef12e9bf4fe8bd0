// The table of hosts: bars, rates, charts, and for a host that is opened its nodes, its limit and its connections.

import { $, h, keyed, number, paged, plural, rate, set, text } from './dom.js';
import { KEPT, colour, model } from './model.js';
import { connections } from './connections.js';
import { edit } from './editor.js';

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
];

const SHOWN = {
  all: () => true,
  busy: (x) => x.inUse > 0 || x.waiting > 0,
  limited: (x) => x.limit !== null,
  full: (x) => x.limit !== null && x.inUse >= x.limit,
  refused: (x) => x.refusals > 0,
};

const RESORT = 3000; // ms: rows that jump each second can't be read

const view = { filter: '', show: 'all', sort: 'in_use', down: -1, order: [], sorted: 0, pager: { page: 0, size: 50 } };
const opened = new Set();
let redraw = () => {};

export function setUpHosts(draw) {
  redraw = draw;
  const again = () => { view.sorted = 0; redraw(); };
  $('host-filter').addEventListener('input', (e) => { view.filter = e.target.value.trim().toLowerCase(); view.pager.page = 0; again(); });
  $('host-show').addEventListener('change', (e) => { view.show = e.target.value; view.pager.page = 0; again(); });
  for (const c of COLUMNS) {
    const th = h('th', { scope: 'col', class: `${c.num ? 'num' : ''} col-${c.id}` });
    if (c.value) {
      th.append(h('button', { type: 'button', class: 'sort', onclick: () => {
        view.down = view.sort === c.id ? -view.down : c.first;
        view.sort = c.id;
        again();
      } }, c.name));
      $('host-sort-narrow').append(h('option', { value: c.id, selected: c.id === view.sort }, `By ${c.name.toLowerCase()}`));
    } else th.append(c.name);
    c.th = th;
    $('host-head').append(th);
  }
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
    const rest = [...model.hosts.values()].filter((x) => !known.has(x.name) && wanted(x));
    view.order.push(...rest.map((x) => x.name));
    return view.order.map((name) => model.hosts.get(name)).filter(Boolean);
  }
  const column = COLUMNS.find((c) => c.id === view.sort);
  const compare = (a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    return (x < y ? -1 : x > y ? 1 : 0) * view.down || (a.name < b.name ? -1 : 1);
  };
  const hosts = [...model.hosts.values()].filter(wanted).sort(compare);
  view.order = hosts.map((x) => x.name);
  view.sorted = now;
  return hosts;
}

const wanted = (x) => x.name.includes(view.filter) && SHOWN[view.show](x);

export function drawHosts() {
  if ($('hosts').hidden) return;
  for (const c of COLUMNS) set(c.th, 'aria-sort', c.id !== view.sort ? false : view.down > 0 ? 'ascending' : 'descending');
  const hosts = ordered();
  const page = paged($('host-pages'), view.pager, hosts, () => { view.sorted = 0; drawHosts(); });
  const rows = page.flatMap((x) => (opened.has(x.name) ? [{ host: x }, { host: x, detail: true }] : [{ host: x }]));
  keyed($('host-rows'), rows, (r) => (r.detail ? `+${r.host.name}` : r.host.name), (r) => (r.detail ? makeDetail(r.host) : makeRow(r.host)));
  const none = $('host-none');
  none.hidden = hosts.length > 0;
  text(none, !model.first ? 'Asking the nodes…' : model.hosts.size ? 'No host matches the filter.' : 'No host is used yet. Point a worker’s HTTPS_PROXY at any node.');
}

function toggle(name) {
  if (!opened.delete(name)) opened.add(name);
  redraw();
}

function makeRow(host) {
  const cell = (id, ...children) => h('td', { class: `col-${id} ${COLUMNS.find((c) => c.id === id).num ? 'num' : ''}` }, ...children);
  const open = h('button', { type: 'button', class: 'open', onclick: () => toggle(host.name) }, h('span', { class: 'twist', 'aria-hidden': 'true' }), h('span', { class: 'name' }, host.name));
  const p = { open, bar: bar(), inUse: cell('in_use'), idle: cell('idle'), limit: cell('limit'), granted: cell('granted'), waiting: cell('waiting'), refused: cell('refused'), chart: spark() };
  const tr = h('tr', { 'data-host': host.name }, h('th', { scope: 'row', class: 'col-host' }, open), cell('use', p.bar), p.inUse, p.idle, p.limit, p.granted, p.waiting, p.refused, cell('chart', p.chart));
  tr.update = ({ host: x }) => {
    set(open, 'aria-expanded', opened.has(x.name) ? 'true' : 'false');
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
  };
  return tr;
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

const WIDE = 120;
const HIGH = 24;
const STEP = 2; // px to a bucket of seconds

/** Use over the last minutes, as many as are known: the most of each few seconds, with a line for the limit. */
function spark() {
  const area = h('path', { class: 'area' });
  const line = h('path', { class: 'line' });
  const limit = h('line', { class: 'cap', x1: 0, x2: WIDE });
  const svg = h('svg', { class: 'spark', viewBox: `0 0 ${WIDE} ${HIGH}`, width: WIDE, height: HIGH, preserveAspectRatio: 'none', role: 'img' }, area, limit, line);
  svg.update = (x) => {
    const buckets = WIDE / STEP;
    const minutes = Math.min(KEPT / 60, 1 + Math.floor((model.second - model.first) / 60));
    const each = (60 * minutes) / buckets;
    const values = [];
    let most = 1;
    let last = -1;
    for (let b = 0; b < buckets; b++) {
      let v = NaN;
      // Buckets stand on whole multiples, so that a drawn one doesn't change while it moves to the left.
      const end = Math.floor(model.second / each) * each - (buckets - 1 - b) * each;
      for (let s = end; s < end + each; s++) {
        if (s > model.second || s <= model.second - KEPT || s < model.first) continue;
        const at = x.series[s % KEPT];
        if (!Number.isNaN(at) && !(at <= v)) v = at;
      }
      values.push(v);
      if (!Number.isNaN(v)) {
        most = Math.max(most, v);
        last = b;
      }
    }
    if (x.limit !== null && x.limit <= most * 3) most = Math.max(most, x.limit);
    const y = (v) => (HIGH - 1.5 - (v / most) * (HIGH - 4)).toFixed(1);
    let d = '';
    let fill = '';
    let start = -1;
    values.forEach((v, b) => {
      const px = ((b + 1) * STEP).toFixed(1);
      if (Number.isNaN(v)) {
        if (start >= 0) fill += `L${(b * STEP).toFixed(1)} ${HIGH}Z`;
        start = -1;
        return;
      }
      if (start < 0) {
        const from = (b * STEP).toFixed(1);
        d += `M${from} ${y(v)}L${px} ${y(v)}`;
        fill += `M${from} ${HIGH}L${from} ${y(v)}L${px} ${y(v)}`;
        start = b;
      } else {
        d += `L${px} ${y(v)}`;
        fill += `L${px} ${y(v)}`;
      }
    });
    if (start >= 0) fill += `L${((last + 1) * STEP).toFixed(1)} ${HIGH}Z`;
    set(line, 'd', d);
    set(area, 'd', fill);
    const capped = x.limit !== null && x.limit <= most;
    set(limit, 'y1', capped ? y(x.limit) : false);
    set(limit, 'y2', capped ? y(x.limit) : false);
    set(limit, 'visibility', capped ? false : 'hidden');
    set(svg, 'aria-label', `In use over the last minutes: at most ${last < 0 ? 0 : Math.max(...values.filter((v) => !Number.isNaN(v)))}`);
  };
  return svg;
}

function makeDetail(host) {
  const nodes = h('tbody', {});
  const governed = h('p', { class: 'governed' });
  const place = h('div', {});
  const list = connections(host.name);
  const tr = h('tr', { class: 'detail', 'data-detail': host.name }, h('td', { colspan: COLUMNS.length },
    h('div', { class: 'panes' },
      h('div', { class: 'pane' },
        h('h3', {}, 'Limit'), governed, place,
        h('h3', {}, 'By node'),
        h('table', { class: 'mini bynode' }, h('caption', { class: 'hush' }, `Use of ${host.name} by node`), h('thead', {}, h('tr', {}, ...['Node', 'In use', 'Idle', 'Granted', 'Waiting', 'Admitted', 'Refused', 'Refused/s'].map((name, i) => h('th', { scope: 'col', class: i ? 'num' : '' }, name)))), nodes)),
      h('div', { class: 'pane' }, list))));
  tr.update = ({ host: x }) => {
    keyed(nodes, Object.keys(x.data.nodes).sort().map((n) => ({ node: n, x })), (r) => r.node, makeNode);
    drawGoverned(governed, place, x);
    list.update();
  };
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

/** Which limit governs the host, and what can be done about it. */
function drawGoverned(el, place, x) {
  const pattern = x.data.pattern ?? '';
  const limit = model.limits.get(pattern);
  const key = JSON.stringify([pattern, limit ?? null]);
  if (el.key === key) return;
  el.key = key;
  const focused = el.contains(document.activeElement);
  const first = () => el.querySelector('button'); // its place is taken by another when the limit changes
  const button = (label, what) => h('button', { type: 'button', class: 'small', onclick: () => edit(place, what, first) }, label);
  const own = { limit: null, pattern: x.name };
  if (limit) {
    const words = limit.connections === null ? 'no cap' : plural(limit.connections, 'connection');
    el.replaceChildren(h('code', {}, pattern), `: ${words}${limit.queue ? `, queue of ${limit.queue.size} for ${limit.queue.timeout}` : ''}${limit.shared ? ', shared' : ''} `,
      button('Edit', { limit }), pattern !== x.name && !limit.shared ? button('Set one for this host only', own) : '');
  } else el.replaceChildren('None: connections are counted, but never refused. ', button('Set a limit', own));
  if (focused) first().focus();
}
