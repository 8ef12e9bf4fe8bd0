// The limits themselves: edited, added and deleted where they stand.

import { $, h, keyed, number, paged, text } from './dom.js';
import { model } from './model.js';
import { edit, remove } from './editor.js';

const view = { filter: '', pager: { page: 0, size: 50 } };
const places = new Map(); // by pattern: where a limit is edited, below its row

export function setUpLimits(draw) {
  $('limit-filter').addEventListener('input', (e) => { view.filter = e.target.value.trim().toLowerCase(); view.pager.page = 0; draw(); });
  $('limit-add').addEventListener('click', () => edit($('limit-new'), {}, () => $('limit-add')));
}

export function drawLimits() {
  if ($('limits').hidden) return;
  const limits = [...model.limits.values()].filter((l) => l.pattern.includes(view.filter));
  const page = paged($('limit-pages'), view.pager, limits, drawLimits);
  const rows = page.flatMap((limit) => [{ limit }, { limit, below: true }]);
  keyed($('limit-rows'), rows, (r) => (r.below ? `+${r.limit.pattern}` : r.limit.pattern), (r) => (r.below ? makeBelow(r.limit) : make(r.limit)));
  for (const pattern of places.keys()) if (!model.limits.has(pattern)) places.delete(pattern);
  $('limit-none').hidden = limits.length > 0;
  text($('limit-none'), !model.first || model.limitsIndex !== model.wantedIndex ? 'Asking the node…' : model.limits.size ? 'No limit matches the filter.' : 'There are no limits: every host is counted, none is refused.');
}

function place({ pattern }) {
  if (!places.has(pattern)) places.set(pattern, h('div', {}));
  return places.get(pattern);
}

function make(limit) {
  let now = limit;
  const cells = { connections: h('td', { class: 'num' }), queue: h('td', { class: 'wide' }), counts: h('td', { class: 'wide' }), source: h('td', { class: 'wide' }) };
  const button = (label, act) => h('button', { type: 'button', class: 'small', 'aria-label': `${label} the limit on ${limit.pattern}`,
    onclick: (event) => { const el = event.currentTarget; act(() => (model.limits.has(limit.pattern) ? el : $('limit-add'))); } }, label);
  const tr = h('tr', { 'data-limit': limit.pattern },
    h('th', { scope: 'row' }, h('code', {}, limit.pattern)), cells.connections, cells.queue, cells.counts, cells.source,
    h('td', { class: 'end' }, button('Edit', (back) => edit(place(now), { limit: now }, back)), button('Delete', (back) => remove(place(now), now, back))));
  tr.update = ({ limit: l }) => {
    now = l;
    text(cells.connections, l.connections === null ? 'no cap' : l.connections === 0 ? 'blocked' : number(l.connections));
    text(cells.queue, l.queue ? `${l.queue.size} for ${l.queue.timeout}` : '–');
    text(cells.counts, /[*/]/.test(l.pattern) ? (l.shared ? 'all together' : 'each host') : 'the host');
    text(cells.source, l.source);
  };
  return tr;
}

/** The row below a limit, which is there while that is being changed. */
function makeBelow(limit) {
  const inside = place(limit);
  const tr = h('tr', { class: 'detail', hidden: true, 'data-below': limit.pattern }, h('td', { colspan: 6 }, inside));
  inside.shown = () => { tr.hidden = inside.childElementCount === 0; }; // at once: what is hidden can't have the focus
  tr.update = inside.shown;
  return tr;
}
