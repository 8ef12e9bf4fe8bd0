// The box that explains: which limits govern a connection, why, what they have in use, and whether it would be let in now.

import { $, h, number, set } from './dom.js';
import { call } from './net.js';
import { FLOWS, flowsOf } from './charts.js';
import { nameOf, words } from './words.js';

const FIELDS = ['host', 'client', 'user', 'key'];

let asked = 0;

export function setUpExplain() {
  const form = $('explain-form');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    ask();
  });
  // Escape takes the answer away, as it closes a form elsewhere.
  $('explain').addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !$('explain-answer').childElementCount) return;
    event.preventDefault();
    asked++;
    $('explain-answer').replaceChildren();
    $('explain-host').focus();
  });
}

async function ask() {
  const mine = ++asked;
  const query = new URLSearchParams();
  for (const name of FIELDS) {
    const value = $(`explain-${name}`).value.trim();
    if (value) query.set(name, value);
  }
  const button = $('explain-button');
  set(button, 'disabled', true);
  try {
    const { body } = await call('GET', `/v1/explain?${query}`);
    if (mine === asked) show(body);
  } catch (error) {
    if (mine === asked) $('explain-answer').replaceChildren(h('p', { class: 'error', role: 'alert' }, error.message));
  } finally {
    set(button, 'disabled', false);
  }
}

function show(e) {
  const what = [e.client && `client ${e.client}`, e.user && `user ${e.user}`].filter(Boolean).join(', ');
  const subject = [e.host && `A connection to ${e.host}`, e.key && `a permit for ${e.key}`].filter(Boolean).join(' and ') || 'A connection';
  const verdict = h('p', { class: `verdict ${e.admitted ? 'good' : 'bad'}` }, `${subject}${what ? ` of ${what}` : ''} ${e.admitted ? 'would be let in now.' : `would not be let in now${e.reason ? `: ${e.reason}` : ''}.`}`);
  const missing = (e.unreachable ?? []).map((u) => u.node);
  const head = ['Limit', 'Why it governs', 'Allows', 'In use now', 'Lets it in'];
  $('explain-answer').replaceChildren(verdict,
    e.limits.length ? h('table', { class: 'limits explained' }, h('caption', { class: 'hush' }, 'The limits that govern it'),
      h('thead', {}, h('tr', {}, head.map((t) => h('th', { scope: 'col' }, t)))), h('tbody', {}, e.limits.map(row)))
      : h('p', { class: 'dim' }, 'No limit governs it.'),
    missing.length ? h('p', { class: 'warn' }, `No answer from ${missing.join(', ')}: the use there is not counted.`) : '');
}

function row(g) {
  const verdict = g.mode === 'report' ? 'yes: it only reports' : g.admitted ? 'yes' : `no: ${g.reason}`;
  return h('tr', { 'data-explained': nameOf(g.scope, g.pattern), class: g.admitted ? '' : 'refuses' },
    h('th', { scope: 'row' }, g.pattern ? [h('span', { class: 'dim' }, `${g.scope} `), h('code', {}, g.pattern)] : g.scope, g.mode === 'report' ? [' ', h('span', { class: 'badge report' }, 'report')] : null),
    h('td', {}, g.why, g.key && g.key !== g.pattern ? h('small', { class: 'dim' }, ` counted under ${g.key}`) : null),
    h('td', {}, words(g)), h('td', {}, use(g)), h('td', { class: g.admitted ? 'good' : 'bad' }, verdict));
}

/** The use of a limit's key, of what it caps. */
function use(g) {
  if (g.scope === 'connection') return g.mode === 'report' ? `${number(g.use?.would_reject_total ?? 0)} times it would have held bytes back` : 'each by itself';
  if (!g.use) return 'nothing is counted';
  const all = [];
  if (g.connections !== null || !(g.requests || g.bandwidth)) all.push(`${number(g.use.in_use)}${g.connections === null ? '' : ` of ${number(g.connections)}`} connections${g.use.waiting ? `, ${number(g.use.waiting)} waiting` : ''}`);
  for (const [kind, f] of Object.entries(flowsOf(g.use))) all.push(`${FLOWS[kind].name.toLowerCase()} ${FLOWS[kind].say(f.now)} of ${FLOWS[kind].say(f.rate)}${f.waiting ? `, ${number(f.waiting)} waiting` : ''}`);
  return all.map((line) => h('div', {}, line));
}
