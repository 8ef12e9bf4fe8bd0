// The nodes: role, leader, health, session, and of a dead one the time until its slots come back.

import { $, h, keyed, number, plural, seconds, set, text } from './dom.js';
import { colour, model } from './model.js';

const longest = new Map(); // of each node that is being reclaimed, the time that it took from the first look, in s

let uses = {}; // by node, over all hosts

export function drawNodes(sum) {
  uses = sum.nodes;
  const nodes = model.nodes.filter((n) => n.health !== 'left' || n.session !== 'none');
  keyed($('node-list'), nodes, (n) => n.name, make);
  drawLegend(nodes);
}

function make(node) {
  const parts = {
    name: h('b', {}, node.name), role: h('span', { class: 'dim' }), leader: h('span', { class: 'badge lead' }, 'leader'),
    health: h('span', { class: 'pill' }), session: h('span', {}), use: h('span', { class: 'dim' }),
    left: h('span', { class: 'countdown' }), meter: h('div', { class: 'meter' }, h('i', {})),
  };
  const el = h('li', { class: `node c${colour(node.name)}`, 'data-node': node.name },
    h('div', { class: 'row' }, h('i', { class: 'swatch' }), parts.name, parts.leader, h('span', { class: 'grow' }), parts.health),
    h('div', { class: 'row small' }, parts.role, parts.session, h('span', { class: 'grow' }), parts.use),
    h('div', { class: 'reclaim' }, parts.left, parts.meter));
  el.update = (n) => update(el, parts, n);
  return el;
}

const TONE = { alive: 'good', suspect: 'warn', dead: 'bad', left: 'quiet' };
const SESSION = { live: 'session live', fenced: 'fenced', expired: 'session expired', none: 'no session' };

function update(el, parts, n) {
  const use = uses[n.name] ?? { inUse: 0, granted: 0, held: 0 };
  text(parts.role, n.role && `${n.role} ·`);
  parts.leader.hidden = !n.leader;
  const draining = n.draining && n.health === 'alive';
  text(parts.health, draining ? 'draining' : n.health);
  set(parts.health, 'class', `pill ${draining ? 'warn' : TONE[n.health]}`);
  text(parts.session, SESSION[n.session]);
  set(parts.session, 'class', n.session === 'live' ? 'dim' : 'warn');
  text(parts.use, use.held ? `holds ${plural(use.held, 'slot')}` : `${number(use.inUse)} in use · ${number(use.granted)} granted`);
  set(el, 'title', `${n.version} · rpc ${n.addresses.rpc} · gossip ${n.addresses.gossip}`);
  el.classList.toggle('down', n.health === 'dead' || n.health === 'left');
  el.reclaim = n.reclaim_in === null ? null : { until: model.nodesAt + 1000 * seconds(n.reclaim_in) };
  el.parts = parts;
  if (!el.reclaim) longest.delete(n.name);
  tick(el, n.name);
}

/** Lets the countdowns run between two frames. */
export function tickNodes() {
  for (const el of $('node-list').children) if (el.reclaim) tick(el, el.dataset.node);
}

function tick(el, name) {
  const { left, meter } = el.parts;
  el.classList.toggle('reclaiming', el.reclaim !== null);
  if (!el.reclaim) return;
  const s = Math.max(0, (el.reclaim.until - performance.now()) / 1000);
  longest.set(name, Math.max(longest.get(name) ?? 0, s));
  text(left, s > 0 ? `slots back in ${s.toFixed(1)} s` : 'slots coming back');
  meter.firstElementChild.style.width = `${100 * s / Math.max(0.1, longest.get(name))}%`;
}

/** The colours of the bars, in words. */
function drawLegend(nodes) {
  const legend = $('legend');
  const few = nodes.length <= 8 ? nodes : [];
  const dead = model.reclaiming.size > 0;
  const key = `${few.map((n) => n.name).join(' ')} ${dead}`;
  if (legend.key === key) return;
  legend.key = key;
  legend.replaceChildren(...[
    ...few.map((n) => h('span', { class: `c${colour(n.name)}` }, h('i', { class: 'swatch' }), n.name)),
    h('span', {}, h('i', { class: 'swatch unused' }), 'granted, unused'), dead && h('span', {}, h('i', { class: 'swatch held' }), 'held by a dead node'),
    h('span', {}, h('i', { class: 'swatch wait' }), 'waiting')].filter(Boolean));
}

