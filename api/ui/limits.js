// The limits themselves: edited, added and deleted where they stand.

import { $, h, keyed, number, paged, text } from './dom.js';
import { model } from './model.js';
import { edit, remove } from './editor.js';
import { SCOPES, bandwidthWords, limitKey, nameOf, wildcard } from './words.js';

const view = { scope: '', filter: '', pager: { page: 0, size: 50 } };
const places = new Map(); // by scope and pattern: where a limit is edited, below its row

export function setUpLimits(draw) {
  $('limit-filter').addEventListener('input', (e) => { view.filter = e.target.value.trim().toLowerCase(); view.pager.page = 0; draw(); });
  for (const scope of Object.keys(SCOPES)) $('limit-scope').append(h('option', { value: scope }, `Of scope ${scope}`));
  $('limit-scope').addEventListener('change', (e) => { view.scope = e.target.value; view.pager.page = 0; draw(); });
  $('limit-add').addEventListener('click', () => edit($('limit-new'), { scope: view.scope || 'host' }, () => $('limit-add')));
}

export function drawLimits() {
  if ($('limits').hidden) return;
  const limits = [...model.limits.values()].filter((l) => (!view.scope || l.scope === view.scope) && nameOf(l.scope, l.pattern).toLowerCase().includes(view.filter));
  const page = paged($('limit-pages'), view.pager, limits, drawLimits);
  const rows = page.flatMap((limit) => [{ limit }, { limit, below: true }]);
  keyed($('limit-rows'), rows, (r) => `${r.below ? '+' : ''}${keyOf(r.limit)}`, (r) => (r.below ? makeBelow(r.limit) : make(r.limit)));
  for (const key of places.keys()) if (!model.limits.has(key)) places.delete(key);
  $('limit-none').hidden = limits.length > 0;
  text($('limit-none'), !model.first || model.limitsIndex !== model.wantedIndex ? 'Asking the node…' : model.limits.size ? 'No limit matches the filter.' : 'There are no limits: every host is counted, nothing is refused.');
}

const keyOf = (l) => limitKey(l.scope, l.pattern);

function place(limit) {
  const key = keyOf(limit);
  if (!places.has(key)) places.set(key, h('div', {}));
  return places.get(key);
}

/** What has a count of its own under a limit. */
function counts(l) {
  if (l.scope === 'total') return 'all requests';
  if (l.scope === 'connection') return 'each connection';
  if (wildcard(l.scope, l.pattern)) return l.shared ? 'all together' : `each ${l.scope}`;
  return `the ${l.scope}`;
}

function make(limit) {
  let now = limit;
  const name = nameOf(limit.scope, limit.pattern);
  const wide = () => h('td', { class: 'wide' });
  const cells = { connections: h('td', { class: 'num' }), requests: wide(), bandwidth: wide(), queue: wide(), counts: wide(), source: wide() };
  const mode = h('span', { class: 'badge report' }, 'report');
  const button = (label, act) => h('button', { type: 'button', class: 'small', 'aria-label': `${label} the limit on ${name}`,
    onclick: (event) => { const el = event.currentTarget; act(() => (model.limits.has(keyOf(limit)) ? el : $('limit-add'))); } }, label);
  const tr = h('tr', { 'data-limit': name },
    h('th', { scope: 'row' }, limit.scope === 'host' ? null : h('span', { class: 'dim' }, limit.pattern ? `${limit.scope} ` : limit.scope), limit.pattern ? h('code', {}, limit.pattern) : null, ' ', mode),
    cells.connections, cells.requests, cells.bandwidth, cells.queue, cells.counts, cells.source,
    h('td', { class: 'end' }, button('Edit', (back) => edit(place(now), { limit: now }, back)), button('Delete', (back) => remove(place(now), now, back))));
  tr.update = ({ limit: l }) => {
    now = l;
    mode.hidden = l.mode !== 'report';
    text(cells.connections, l.connections === null ? (l.scope === 'connection' ? '–' : 'no cap') : l.connections === 0 ? 'blocked' : number(l.connections));
    text(cells.requests, l.requests ? l.requests.rate : '–');
    text(cells.bandwidth, l.bandwidth ? bandwidthWords(l.bandwidth) : '–');
    text(cells.queue, l.queue ? `${l.queue.size} for ${l.queue.timeout}` : '–');
    text(cells.counts, counts(l));
    text(cells.source, l.source);
  };
  return tr;
}

/** The row below a limit, which is there while that is being changed. */
function makeBelow(limit) {
  const inside = place(limit);
  const tr = h('tr', { class: 'detail', hidden: true, 'data-below': nameOf(limit.scope, limit.pattern) }, h('td', { colspan: 8 }, inside));
  inside.shown = () => { tr.hidden = inside.childElementCount === 0; }; // at once: what is hidden can't have the focus
  tr.update = inside.shown;
  return tr;
}
