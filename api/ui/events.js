// The log of events, newest first.

import { $, h, keyed } from './dom.js';
import { colour, model } from './model.js';

const SHOWN = 200;
let type = '';
let numbers = 0;

const MARK = { leader: '★', member: '●', limit: '≡', reclaim: '↺', fence: '⚠' };

export function setUpEvents(draw) {
  $('event-show').addEventListener('change', (e) => { type = e.target.value; draw(); });
}

export function drawEvents() {
  if ($('events').hidden) return;
  const events = model.events.filter((e) => !type || e.type === type).slice(0, SHOWN);
  keyed($('event-rows'), events, (e) => (e.number ??= ++numbers), make);
  $('event-none').hidden = events.length > 0;
}

function make(e) {
  const time = new Date(e.time);
  const bad = e.type === 'fence' || e.health === 'dead' || e.health === 'suspect' || (e.type === 'leader' && !e.node) || e.why === 'expired';
  const li = h('li', { class: `event ${e.type}${bad ? ' bad' : ''}`, 'data-type': e.type },
    h('time', { datetime: e.time, title: time.toLocaleString() }, time.toLocaleTimeString('en-GB')),
    h('span', { class: `mark ${e.type !== 'limit' && e.node ? `c${colour(e.node)}` : ''}`, 'aria-hidden': 'true' }, MARK[e.type] ?? '·'),
    h('div', {}, h('span', {}, e.text), h('small', { class: 'dim' }, whence(e))));
  li.update = () => {};
  return li;
}

/** Who did it, or who saw it. */
function whence(e) {
  if (e.type === 'leader' && e.term) return `term ${e.term}`;
  if (!e.by) return '';
  if (e.by.source === 'config') return `by the config of ${e.by.node}${e.by.client ? `, reloaded by ${e.by.client}` : ''}`;
  return `by ${e.by.client || 'the API'} through ${e.by.node}`;
}
