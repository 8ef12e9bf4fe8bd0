// Changing a limit, where it stands. What a change would do is shown as it is typed; it is written only over the limit that was shown.

import { $, h, set, text, toast } from './dom.js';
import { call } from './net.js';
import { model } from './model.js';

let ids = 0;

const path = (pattern) => `/v1/limits/host/${encodeURIComponent(pattern)}`;

/** The lines that say what a limit allows. */
function lines(limit) {
  if (!limit) return [];
  const all = [['connections', limit.connections === null ? 'no cap' : limit.connections === 0 ? '0, blocked' : String(limit.connections)]];
  if (limit.queue) all.push(['queue', `${limit.queue.size} per node, for ${limit.queue.timeout}`]);
  else all.push(['queue', 'none, refused at once']);
  if (limit.shared) all.push(['shared', 'all hosts that match share one count']);
  return all;
}

/** What changes from one limit to another (null: none), line by line, as in a diff. */
export function difference(before, after) {
  const was = new Map(lines(before));
  const is = new Map(lines(after));
  const out = [];
  for (const name of new Set([...was.keys(), ...is.keys()])) {
    if (was.get(name) === is.get(name)) continue;
    if (was.has(name)) out.push(['-', `${name}: ${was.get(name)}`]);
    if (is.has(name)) out.push(['+', `${name}: ${is.get(name)}`]);
  }
  return out;
}

function drawDifference(el, pattern, rows) {
  el.replaceChildren(h('div', { class: 'at' }, pattern || 'no pattern yet'),
    ...(rows.length ? rows.map(([sign, line]) => h('div', { class: sign === '+' ? 'plus' : 'minus' }, `${sign === '+' ? '+' : '−'} ${line}`)) : [h('div', { class: 'dim' }, 'nothing changes')]));
}

const forms = []; // the places in which one is open, the newest last

/** Shows a form in its place. back() is the element that gets the focus when the form closes. */
function open(place, form, back) {
  close(place, false);
  place.replaceChildren(form);
  place.back = back;
  place.shown?.();
  forms.push(place);
}

function close(place, focus = true) {
  const at = forms.indexOf(place);
  if (at < 0) return;
  forms.splice(at, 1);
  place.replaceChildren();
  place.shown?.();
  if (focus) place.back()?.focus();
}

/** Escape closes the form that was opened last, wherever the focus is: a click beside a field has taken it from the form. */
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog[open]')) return;
  const place = forms.findLast((p) => p.isConnected && p.checkVisibility());
  if (!place) return;
  event.preventDefault();
  close(place);
});

/**
 * Opens the editor in place: for a limit, or for a new one of a pattern, or (nothing given) of one to be typed. back() finds the
 * button that has opened it.
 */
export function edit(place, { limit = null, pattern = limit?.pattern ?? '' }, back) {
  const id = `edit-${++ids}`;
  const field = (name, label, attributes, hint) => {
    const input = h('input', { id: `${id}-${name}`, name, autocomplete: 'off', ...attributes });
    return { input, el: h('label', { class: 'field stack', for: input.id }, h('span', {}, label), input, hint ? h('span', { class: 'hint' }, hint) : null) };
  };
  const fresh = limit === null;
  const f = {
    pattern: field('pattern', 'Pattern', { value: pattern, required: true, spellcheck: 'false', placeholder: 'api.example.com' }, 'host, host:port, *.suffix, address, CIDR, *'),
    connections: field('connections', 'Connections', { type: 'number', min: 0, max: 1000000, value: limit ? limit.connections : '', inputmode: 'numeric', placeholder: 'no cap' }, '0 blocks, empty is no cap'),
    timeout: field('timeout', 'Queue for', { value: limit?.queue?.timeout ?? '', placeholder: 'no queue', spellcheck: 'false' }, 'such as 2s; empty: none'),
    size: field('size', 'Queue size', { type: 'number', min: 1, value: limit?.queue?.size ?? '', placeholder: '100', inputmode: 'numeric' }, 'per node'),
  };
  const shared = h('input', { type: 'checkbox', id: `${id}-shared`, checked: limit?.shared ?? false });
  const evict = h('input', { type: 'checkbox', id: `${id}-evict` });
  const sharedField = h('label', { class: 'check' }, shared, 'All hosts that match share one count');
  const evictField = h('label', { class: 'check' }, evict, 'Also close connections above it, the newest first');
  const diff = h('div', { class: 'diff', role: 'group', 'aria-live': 'polite', 'aria-label': 'What changes' });
  const note = h('p', { class: 'error', role: 'alert' });
  const apply = h('button', { type: 'submit', class: 'primary' }, 'Apply');

  const wanted = () => {
    const timeout = f.timeout.input.value.trim();
    return {
      connections: f.connections.input.value === '' ? null : Number(f.connections.input.value),
      queue: timeout === '' ? null : { timeout: /^\d+$/.test(timeout) ? `${timeout}s` : timeout, size: Number(f.size.input.value || 100) },
      shared: shared.checked && /[*/]/.test(f.pattern.input.value),
    };
  };
  const redraw = () => {
    const next = wanted();
    const name = f.pattern.input.value.trim();
    const taken = fresh && model.limits.get(name);
    const rows = difference(limit, next);
    sharedField.hidden = !/[*/]/.test(name);
    evictField.hidden = !(limit && next.connections !== null && (limit.connections === null || next.connections < limit.connections));
    drawDifference(diff, name, rows);
    apply.disabled = rows.length === 0 || !name || Boolean(taken);
    text(note, taken ? 'There is a limit with this pattern already: edit that one.' : '');
  };

  const form = h('form', { class: 'editor', 'aria-label': fresh ? 'Add a limit' : `Edit the limit on ${limit.pattern}`, oninput: redraw,
    onsubmit: async (event) => {
      event.preventDefault();
      apply.disabled = true;
      const name = f.pattern.input.value.trim();
      const condition = fresh ? { 'If-None-Match': '*' } : { 'If-Match': `"${limit.modify_index}"` };
      const flag = !evictField.hidden && evict.checked ? '?evict=true' : '';
      try {
        await call('PUT', path(name) + flag, wanted(), condition);
        toast(fresh ? `The limit on ${name} is set` : `The limit on ${name} is changed`);
        close(place);
      } catch (error) {
        apply.disabled = false;
        if (error.status === 412) limit = await changed(name, note);
        else text(note, error.message);
        if (error.status === 412) drawDifference(diff, name, difference(limit, wanted()));
      }
    } },
  h('div', { class: 'fields' }, fresh ? f.pattern.el : null, f.connections.el, f.timeout.el, f.size.el),
  sharedField, evictField,
  limit?.source === 'config' ? h('p', { class: 'dim' }, 'This limit comes from the config. A limit set here wins over it until you delete it here.') : null,
  diff, note,
  h('div', { class: 'row end' }, h('button', { type: 'button', onclick: () => close(place) }, 'Cancel'), apply));
  open(place, form, back);
  redraw();
  (fresh && !pattern ? f.pattern.input : f.connections.input).focus();
}

/** Somebody else has written: reads what is there now and says so. */
async function changed(name, note) {
  try {
    const { body } = await call('GET', path(name));
    text(note, 'Somebody has changed this limit meanwhile. The difference now shows your change to theirs; apply again to overwrite it.');
    return body;
  } catch (error) {
    text(note, error.status === 404 ? 'Somebody has deleted this limit meanwhile. Cancel, and add it again if it is still needed.' : error.message);
    return null;
  }
}

/** Asks, in place, before a limit is deleted. */
export function remove(place, limit, back) {
  const diff = h('div', { class: 'diff', role: 'group', 'aria-label': 'What changes' });
  drawDifference(diff, limit.pattern, difference(limit, null));
  const note = h('p', { class: 'error', role: 'alert' });
  const gone = h('button', { type: 'submit', class: 'danger' }, 'Delete');
  const what = limit.source === 'config'
    ? 'This limit comes from the config: the next reload of a config that names it brings it back.'
    : 'If the config has a limit with this pattern, it applies again; otherwise the next less specific limit does.';
  const form = h('form', { class: 'editor', 'aria-label': `Delete the limit on ${limit.pattern}`,
    onsubmit: async (event) => {
      event.preventDefault();
      gone.disabled = true;
      try {
        await call('DELETE', path(limit.pattern), undefined, { 'If-Match': `"${limit.modify_index}"` });
        toast(`The limit on ${limit.pattern} is deleted`);
        close(place, false);
        $('limit-add').focus(); // the limit's own buttons go with it
      } catch (error) {
        set(gone, 'disabled', error.status === 412);
        text(note, error.status === 412 ? 'Somebody has changed this limit meanwhile. Cancel, and look at the change first.' : error.message);
      }
    } }, diff, h('p', { class: 'dim' }, what), note,
  h('div', { class: 'row end' }, h('button', { type: 'button', onclick: () => close(place) }, 'Cancel'), gone));
  open(place, form, back);
  gone.focus();
}
