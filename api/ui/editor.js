// Changing a limit, where it stands. What a change would do is shown as it is typed; it is written only over the limit that was shown.

import { $, h, set, text, toast } from './dom.js';
import { Refused, call } from './net.js';
import { clusterId, model } from './model.js';
import { SCOPES, bare, lines, limitKey, nameOf, wildcard } from './words.js';

let ids = 0;

const path = (scope, pattern) => `/v1/limits/${scope}${bare(scope) ? '' : `/${encodeURIComponent(pattern)}`}`;

/**
 * Why the page can't read or write the limit with a pattern; "" if it can. Browsers take "." and
 * ".." in an address for steps between folders, however they are escaped, and would ask for another
 * path.
 */
function unreachable(scope, pattern) {
  if (pattern !== '.' && pattern !== '..') return '';
  return `A browser can’t address a limit with the pattern ${pattern}: use weir limits set or weir limits delete with --scope ${scope} ${pattern} instead.`;
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

/**
 * Whether the index of a limit that is of a cluster means the same where it would be written now:
 * each cluster counts by itself.
 */
const sameCluster = (id) => !id || !clusterId() || id === clusterId();

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

const HINTS = {
  host: ['api.example.com', 'host, host:port, *.suffix, address, CIDR, *'],
  client: ['10.0.0.0/8', 'address, CIDR, *'],
  user: ['nightly', 'a user’s name, *'],
  key: ['tenant/*', 'a name, prefix*, *'],
};

/** The fields of the form, filled in from the limit. */
function makeFields(id, limit, scope, pattern) {
  const field = (name, label, attributes, hint) => {
    const input = h('input', { id: `${id}-${name}`, name, autocomplete: 'off', spellcheck: 'false', ...attributes });
    const says = hint ? h('span', { class: 'hint' }, hint) : null;
    return { input, says, el: h('label', { class: 'field stack', for: input.id }, h('span', {}, label), input, says) };
  };
  const numeric = { type: 'number', min: 1, inputmode: 'numeric' };
  const select = h('select', { id: `${id}-scope`, name: 'scope' }, Object.keys(SCOPES).map((s) => h('option', { value: s, selected: s === scope }, s)));
  const mode = h('select', { id: `${id}-mode`, name: 'mode' }, ['enforce', 'report'].map((m) => h('option', { value: m, selected: m === (limit?.mode ?? 'enforce') }, m)));
  const labelled = (input, label, hint) => ({ input, el: h('label', { class: 'field stack', for: input.id }, h('span', {}, label), input, h('span', { class: 'hint' }, hint)) });
  return {
    scope: labelled(select, 'Scope', 'what it counts for'),
    pattern: field('pattern', 'Pattern', { value: pattern }, ' '),
    connections: field('connections', 'Connections', { ...numeric, min: 0, max: 1000000, value: limit?.connections ?? '', placeholder: 'no cap' }, '0 blocks, empty is no cap'),
    timeout: field('timeout', 'Queue for', { value: limit?.queue?.timeout ?? '', placeholder: 'no queue' }, 'such as 2s; empty: none'),
    size: field('size', 'Queue size', { ...numeric, value: limit?.queue?.size ?? '', placeholder: '100' }, 'per node'),
    rate: field('rate', 'Requests', { value: limit?.requests?.rate ?? '', placeholder: 'no cap' }, 'such as 10/s, 600/m'),
    burst: field('burst', 'Requests at once', { ...numeric, value: limit?.requests?.burst ?? '', placeholder: 'one second’s' }, 'burst'),
    upload: field('upload', 'Upload', { value: limit?.bandwidth?.upload ?? '', placeholder: 'no cap' }, 'a second, such as 1MB'),
    download: field('download', 'Download', { value: limit?.bandwidth?.download ?? '', placeholder: 'no cap' }, 'a second, such as 10MB'),
    bytes: field('bytes', 'Bytes at once', { value: limit?.bandwidth?.burst ?? '', placeholder: 'one second’s' }, 'burst, such as 2MB'),
    mode: labelled(mode, 'Mode', 'report refuses nothing'),
  };
}

/** The limit that the form asks for. What the form does not show stays as it is in the limit. */
function asked(f, scope, limit, shared) {
  const value = (name) => f[name].input.value.trim();
  const { source, modify_index: index, index: written, ...rest } = limit ?? {}; // which a write does not take
  const next = { ...rest, scope, connections: null, requests: null, bandwidth: null, queue: null, shared, mode: value('mode') };
  const part = (before, fields) => ({ ...before, ...Object.fromEntries(Object.entries(fields).map(([k, v]) => [k, v || undefined])) });
  if (value('upload') || value('download')) next.bandwidth = part(limit?.bandwidth, { upload: value('upload'), download: value('download'), burst: value('bytes') });
  if (scope === 'connection') return next;
  if (value('connections') !== '') next.connections = Number(value('connections'));
  if (value('rate')) next.requests = part(limit?.requests, { rate: value('rate'), burst: Number(value('burst')) });
  const timeout = value('timeout');
  if (timeout) next.queue = { ...limit?.queue, timeout: /^\d+$/.test(timeout) ? `${timeout}s` : timeout, size: Number(value('size') || 100) };
  return next;
}

/**
 * Opens the editor in place: for a limit, or for a new one of a scope and pattern, or (only a scope given) of one to be typed. back()
 * finds the button that has opened it.
 */
export function edit(place, { limit = null, scope = limit?.scope ?? 'host', pattern = limit?.pattern ?? '' }, back) {
  const id = `edit-${++ids}`;
  const fresh = limit === null;
  let cluster = model.limitsCluster; // in which the limit is what was shown
  let met = ''; // the key under which a new limit has met one, which is then in limit
  const f = makeFields(id, limit, scope, pattern);
  const shared = h('input', { type: 'checkbox', id: `${id}-shared`, name: 'shared', checked: limit?.shared ?? false });
  const evict = h('input', { type: 'checkbox', id: `${id}-evict` });
  const sharedWords = h('span', {});
  const sharedField = h('label', { class: 'check' }, shared, sharedWords);
  const evictField = h('label', { class: 'check' }, evict, 'Also close connections above it, the newest first');
  const diff = h('div', { class: 'diff', role: 'group', 'aria-live': 'polite', 'aria-label': 'What changes' });
  const note = h('p', { class: 'error', role: 'alert' });
  const apply = h('button', { type: 'submit', class: 'primary' }, 'Apply');
  const now = () => {
    const of = f.scope.input.value;
    const typed = f.pattern.input.value;
    // A name that was not typed here stays as it is: spaces at its ends are part of it.
    return { of, to: bare(of) ? '' : typed === pattern ? pattern : typed.trim() };
  };
  const wanted = () => asked(f, now().of, limit, shared.checked && wildcard(now().of, now().to));
  const redraw = () => {
    const { of, to } = now();
    if (fresh && limit && limitKey(of, to) !== met) limit = null; // another is asked for now
    const next = wanted();
    const taken = !limit && fresh && model.limits.has(limitKey(of, to));
    const rows = difference(limit, next);
    f.pattern.el.hidden = !fresh || bare(of);
    f.pattern.input.required = !f.pattern.el.hidden;
    if (HINTS[of]) {
      set(f.pattern.input, 'placeholder', HINTS[of][0]);
      text(f.pattern.says, HINTS[of][1]);
    }
    for (const name of ['connections', 'timeout', 'size', 'rate', 'burst']) f[name].el.hidden = of === 'connection';
    sharedField.hidden = !wildcard(of, to);
    text(sharedWords, `All ${SCOPES[of]} that match share one count`);
    evictField.hidden = !(limit && next.connections !== null && (limit.connections === null || next.connections < limit.connections));
    drawDifference(diff, nameOf(of, to), rows);
    const problem = unreachable(of, to) || (taken ? 'There is a limit with this pattern already: edit that one.' : '');
    apply.disabled = rows.length === 0 || (!to && !bare(of)) || Boolean(problem);
    text(note, problem);
  };

  const form = h('form', { class: 'editor', 'aria-label': fresh ? 'Add a limit' : `Edit the limit on ${nameOf(scope, pattern)}`, oninput: redraw,
    onsubmit: async (event) => {
      event.preventDefault();
      apply.disabled = true;
      const { of, to } = now();
      const name = nameOf(of, to);
      // Only over what was shown: the limit that the difference is to, or none.
      const condition = limit ? { 'If-Match': `"${limit.modify_index}"` } : { 'If-None-Match': '*' };
      const flag = !evictField.hidden && evict.checked ? '?evict=true' : '';
      try {
        if (limit && !sameCluster(cluster)) throw new Refused(412, {});
        await call('PUT', path(of, to) + flag, { ...wanted(), pattern: to }, condition);
        toast(`The limit on ${name} is ${limit ? 'changed' : 'set'}`);
        close(place);
      } catch (error) {
        let problem = error.message;
        if (error.status === 412) {
          met = limitKey(of, to);
          cluster = clusterId();
          ({ limit, problem } = await changed(of, to, limit));
        }
        redraw();
        text(note, problem);
      }
    } },
  h('div', { class: 'fields' }, fresh ? [f.scope.el, f.pattern.el] : null, f.connections.el, f.timeout.el, f.size.el, f.rate.el, f.burst.el, f.upload.el, f.download.el, f.bytes.el, f.mode.el),
  sharedField, evictField,
  limit?.source === 'config' ? h('p', { class: 'dim' }, 'This limit comes from the config. A limit set here wins over it until you delete it here.') : null,
  diff, note,
  h('div', { class: 'row end' }, h('button', { type: 'button', onclick: () => close(place) }, 'Cancel'), apply));
  open(place, form, back);
  redraw();
  if (fresh && !pattern && !bare(scope)) f.pattern.input.focus();
  else (scope === 'connection' ? f.download.input : f.connections.input).focus();
}

/** Somebody else has written: reads what is there now in place of the limit, and says so. */
async function changed(scope, pattern, limit) {
  try {
    const { body } = await call('GET', path(scope, pattern));
    const done = limit ? 'changed' : 'added';
    return { limit: body, problem: `Somebody has ${done} this limit meanwhile. The difference now shows your change to theirs; apply again to overwrite it.` };
  } catch (error) {
    if (error.status !== 404) return { limit, problem: error.message };
    return { limit: null, problem: 'Somebody has deleted this limit meanwhile. Apply again to set it anew, or cancel.' };
  }
}

/** Asks, in place, before a limit is deleted. */
export function remove(place, limit, back) {
  const name = nameOf(limit.scope, limit.pattern);
  const cluster = model.limitsCluster;
  const diff = h('div', { class: 'diff', role: 'group', 'aria-label': 'What changes' });
  drawDifference(diff, name, difference(limit, null));
  const note = h('p', { class: 'error', role: 'alert' });
  const gone = h('button', { type: 'submit', class: 'danger' }, 'Delete');
  const what = limit.source === 'config'
    ? 'This limit comes from the config: the next reload of a config that names it brings it back.'
    : 'If the config has a limit with this pattern, it applies again; otherwise the next less specific limit does.';
  const cancel = h('button', { type: 'button', onclick: () => close(place) }, 'Cancel');
  const form = h('form', { class: 'editor', 'aria-label': `Delete the limit on ${name}`,
    onsubmit: async (event) => {
      event.preventDefault();
      gone.disabled = true;
      try {
        if (!sameCluster(cluster)) throw new Refused(412, {});
        await call('DELETE', path(limit.scope, limit.pattern), undefined, { 'If-Match': `"${limit.modify_index}"` });
        toast(`The limit on ${name} is deleted`);
        close(place, false);
        $('limit-add').focus(); // the limit's own buttons go with it
      } catch (error) {
        set(gone, 'disabled', error.status === 412);
        text(note, error.status === 412 ? 'Somebody has changed this limit meanwhile. Cancel, and look at the change first.' : error.message);
      }
    } }, diff, h('p', { class: 'dim' }, what), note,
  h('div', { class: 'row end' }, cancel, gone));
  const problem = unreachable(limit.scope, limit.pattern);
  text(note, problem);
  gone.disabled = Boolean(problem);
  open(place, form, back);
  (gone.disabled ? cancel : gone).focus();
}
