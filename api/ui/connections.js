// The open connections of one host, on all nodes, each with a button to close it.

import { bytes, h, keyed, number, paged, plural, seconds, set, span, text, toast } from './dom.js';
import { call } from './net.js';
import { colour } from './model.js';

const EVERY = 2000; // ms between two looks at a host that is open
const MOST = 500; // the oldest of them: more would be no list to read

/** Makes the list of the connections that are counted under a name. Its update() looks again when it is time. */
export function connections(name) {
  const rows = h('tbody', {});
  const title = h('h3', {}, 'Open connections');
  const none = h('p', { class: 'none' }, 'Asking the nodes…');
  const pages = h('nav', { class: 'pages', 'aria-label': `Pages of connections to ${name}` });
  const head = ['Node', 'Client', 'Port', 'Protocol', 'Age', 'Out', 'In', ''];
  const table = h('table', { class: 'mini conns', hidden: true },
    h('caption', { class: 'hush' }, `Open connections to ${name}`),
    h('thead', {}, h('tr', {}, ...head.map((t, i) => h('th', { scope: 'col', class: i === 2 || (i > 3 && i < 7) ? 'num' : '' }, t || h('span', { class: 'hush' }, 'Close'))))), rows);
  const el = h('div', { class: 'connections' }, title, table, none, pages);
  const pager = { page: 0, size: 10 };
  let list = [];
  let more = false;
  let asked = 0;
  let asking = false;

  const draw = () => {
    table.hidden = list.length === 0;
    text(title, more ? `The ${number(MOST)} oldest open connections` : list.length ? plural(list.length, 'open connection') : 'Open connections');
    keyed(rows, paged(pages, pager, list, draw), (c) => `${c.node}/${c.id}`, make);
  };
  const look = async () => {
    asking = true;
    asked = performance.now();
    try {
      const { body } = await call('GET', `/v1/connections?node=*&limit=${MOST}&key=${encodeURIComponent(name)}`);
      list = body.connections;
      more = Boolean(body.next);
      const missing = (body.unreachable ?? []).map((u) => u.node).join(', ');
      text(none, missing ? `${missing} did not answer: its connections are not listed.` : list.length ? '' : 'No open connections.');
    } catch (error) {
      text(none, error.message);
    }
    asking = false;
    draw();
  };
  const make = (c) => {
    const age = h('td', { class: 'num' });
    const out = h('td', { class: 'num' });
    const inn = h('td', { class: 'num' });
    const close = closer(c, look);
    const tr = h('tr', { 'data-connection': `${c.node}/${c.id}` },
      h('td', {}, h('i', { class: `swatch c${colour(c.node)}` }), c.node), h('td', { class: 'addr' }, c.client || 'kept for reuse'),
      h('td', { class: 'num' }, c.port), h('td', {}, c.protocol), age, out, inn, h('td', { class: 'end' }, close));
    tr.update = (now) => {
      text(age, span(seconds(now.age)));
      text(out, bytes(now.bytes_out));
      text(inn, bytes(now.bytes_in));
    };
    return tr;
  };
  el.update = () => { if (!asking && performance.now() - asked > EVERY) look(); };
  return el;
}

/** A button that closes one connection once it has been pressed twice: a worker loses its request. */
function closer(c, done) {
  let armed;
  const reset = () => {
    clearTimeout(armed);
    armed = undefined;
    text(button, 'Close');
    set(button, 'class', 'small');
  };
  const button = h('button', { type: 'button', class: 'small', 'aria-label': `Close ${c.client || 'idle connection'} on ${c.node}`, onclick: async () => {
    if (!armed) {
      armed = setTimeout(reset, 3000);
      text(button, 'Really?');
      set(button, 'class', 'small danger');
      return;
    }
    reset();
    button.disabled = true;
    try {
      await call('DELETE', `/v1/connections/${encodeURIComponent(c.id)}?node=${encodeURIComponent(c.node)}`);
      toast(`Closed ${c.client || 'an idle connection'} on ${c.node}`);
    } catch (error) {
      toast(error.message, error.status !== 404);
      button.disabled = false;
    }
    done();
  }, onblur: () => armed && reset() }, 'Close');
  return button;
}
