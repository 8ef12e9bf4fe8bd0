// The page: joins the stream to the views.

import { $, set, text, number, rate, h } from './dom.js';
import { call, follow, hasToken, newToken, onToken, tokenDeclined, warn } from './net.js';
import { model, takeEvent, takeLimits, takeNodes, takeUsage, takeUse, totals } from './model.js';
import { drawNodes, tickNodes } from './nodes.js';
import { drawHosts, setUpHosts, showScope, wantedNames } from './hosts.js';
import { drawLimits, setUpLimits } from './limits.js';
import { drawEvents, setUpEvents } from './events.js';
import { setUpExplain } from './explain.js';

let waiting = false;

/** Draws all that is shown, once before the next frame; a tab in the background is drawn when it is looked at. */
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const sum = totals();
    drawTop(sum);
    drawAlerts();
    drawNodes(sum);
    drawHosts();
    drawLimits();
    drawEvents();
  });
}

function drawTop(sum) {
  const s = model.status;
  text($('self'), s ? `on ${s.node} · ${s.version}` : '');
  text($('link'), model.live ? 'live' : tokenDeclined() ? 'token needed' : 'reconnecting');
  set($('link'), 'class', `pill ${model.live ? 'good' : 'warn'}`);
  document.body.classList.toggle('stale', !model.live);
  text($('count-hosts'), model.hosts.size ? number(model.hosts.size) : '');
  text($('count-limits'), model.limits.size ? number(model.limits.size) : '');
  const alive = model.nodes.filter((n) => n.health === 'alive').length;
  const there = model.nodes.filter((n) => n.health !== 'left').length;
  const cells = [
    ['Nodes', there ? `${alive}/${there}` : '–', alive < there ? 'bad' : ''],
    ['Leader', s ? s.leader || 'none' : '–', s && !s.leader ? 'bad' : ''],
    ['In use', number(sum.inUse), ''],
    ['Granted', number(sum.granted), ''],
    ['Waiting', number(sum.waiting), sum.waiting ? 'warn' : ''],
    ['Refused/s', rate(sum.refusals), sum.refusals ? 'bad' : ''],
  ];
  const list = $('totals');
  if (!list.cells) {
    list.cells = cells.map(([name]) => {
      const value = h('dd', { id: `total-${name.toLowerCase().replace(/\W/g, '-')}` });
      list.append(h('div', {}, h('dt', {}, name), value));
      return value;
    });
  }
  cells.forEach(([, value, tone], i) => {
    text(list.cells[i], value);
    set(list.cells[i], 'class', tone);
  });
  document.title = `${sum.refusals ? '● ' : ''}weir${s ? ` · ${s.node}` : ''}`;
}

/** Clients for which limits on names may not hold. */
function resolving(node, clients) {
  const shown = clients.slice(0, 3).map((c) => c.client);
  const more = clients.length - shown.length;
  return `SOCKS5 clients of ${node} ask for addresses (${shown.join(', ')}${more ? ` and ${number(more)} more` : ''}): ` +
    'limits on names don’t hold for those that resolve names themselves. Write socks5h:// in place of socks5:// in their settings.';
}

/** What an operator must know of, in words that say what to do. */
function drawAlerts() {
  const s = model.status;
  const all = [];
  if (s) {
    if (!s.leader) all.push('No leader: limits can’t be changed, and leases expire. A majority of the servers must be up and reach each other.');
    if (s.disk_full) all.push(`The disk of ${s.node} is full: free some space; the server then goes on by itself.`);
    if (s.disk_stalled) all.push(`The disk of ${s.node} has stalled. Another server leads meanwhile.`);
    if (s.draining) all.push(`${s.node} is draining: it takes no new connections.`);
    else if (s.session.state !== 'live') all.push(`${s.node} has no live session with the cluster: it only admits connections to hosts without a limit.`);
    if (s.resolving_clients.length) all.push(resolving(s.node, s.resolving_clients));
    if (s.config_disagreements.length) all.push(`The configs of ${s.config_disagreements.join(', ')} disagree with the cluster: make them equal, and reload each of these nodes.`);
  }
  const silent = model.unreachable.map((u) => u.node);
  if (silent.length) all.push(`No answer from ${silent.join(', ')}: the use there is not counted here.`);
  if (model.more) all.push(`${number(model.more)} hosts with the least use are not shown.`);
  const el = $('alerts');
  const key = all.join('\n');
  if (el.key !== key) {
    el.key = key;
    el.replaceChildren(...all.map((a) => h('p', {}, a)));
  }
}

let reading = false;
let lost = 0; // how often the stream was lost

/**
 * After a stream that was lost, another cluster may answer: a node without a disk that started
 * again counts its limits anew, and the same index may stand for others.
 */
function forgetLimits() {
  lost++;
  model.limitsIndex = -1;
}

/** Reads the limits again when the node goes by others than those known here. */
async function readLimits() {
  if (reading || model.limitsIndex === model.wantedIndex) return;
  reading = true;
  const wanted = model.wantedIndex;
  const before = lost;
  try {
    const { body } = await call('GET', '/v1/limits');
    takeLimits(body);
    if (body.index < wanted || lost !== before) model.limitsIndex = -1; // again with the next frame
    draw();
  } catch (error) {
    warn(error);
  } finally {
    reading = false;
  }
}

const USES = 1000; // of a scope, at most, by one question: more would be no list to read

let scope = 'host'; // the one that is shown
let asking = false;

/**
 * Asks for the use of the scope that is shown. That of hosts comes with the stream. Where there are
 * more names than one answer has, those that begin with the filter are asked for as well: by name,
 * so that the name that is the filter comes first.
 */
async function readUsage() {
  if (asking || !(scope in model.scopes) || scope === 'host' || document.hidden || !model.live) return;
  asking = true;
  const of = scope;
  const { sort, prefix } = wantedNames();
  const ask = async (query) => (await call('GET', `/v1/usage/${of}?${new URLSearchParams({ ...query, limit: USES })}`)).body;
  try {
    const { usage, next } = await ask({ sort });
    const found = next && prefix ? await ask({ sort: 'name', prefix }) : { usage: [] };
    // One use of each name: the busiest may be in both answers.
    const all = new Map([...usage, ...found.usage].map((u) => [u.name, u]));
    takeUsage(of, [...all.values()], next ? { most: USES, sort, prefix, more: Boolean(found.next) } : null);
    draw();
  } catch (error) {
    warn(error);
  } finally {
    asking = false;
  }
  if (of !== scope) readUsage();
}

function take(name, data) {
  switch (name) {
    case 'status': model.status = data; break;
    case 'nodes': takeNodes(data); break;
    case 'use':
      takeUse(data);
      readLimits();
      break;
    default: takeEvent(data);
  }
  draw();
}

/** Asks for a token in a dialog. Rejects if the dialog is closed without one. */
function askToken(problem) {
  const dialog = $('token-dialog');
  const input = $('token-input');
  text($('token-error'), problem ? problem.message : '');
  input.value = '';
  if (!dialog.open) dialog.showModal();
  input.focus();
  set($('token-button'), 'hidden', false); // the way back, if the dialog is closed
  return new Promise((resolve, reject) => {
    $('token-form').onsubmit = () => resolve(input.value.trim());
    // A token is needed: Escape doesn't make it otherwise.
    dialog.oncancel = (event) => { if (!hasToken()) event.preventDefault(); };
    // However it was closed: a browser may close it at the second Escape without asking. The event
    // comes late, when the dialog may be open for another token already.
    dialog.onclose = () => { if (!dialog.open) reject(new Error('no token was given')); };
  });
}

/** Tabs as in https://www.w3.org/WAI/ARIA/apg/patterns/tabs/; on a wide screen the events stand beside the others. */
function setUpTabs() {
  const wide = matchMedia('(min-width: 1240px)');
  const scopes = { hosts: 'host', client: 'client', user: 'user', total: 'total', key: 'key', connection: 'connection' };
  const panels = ['hosts', 'limits', 'explain', 'events'];
  const tabs = [...Object.keys(scopes), ...panels.slice(1)];
  let current = 'hosts';
  const show = (name, focus) => {
    if (name === 'events' && wide.matches) name = 'hosts';
    current = name;
    const panel = name in scopes ? 'hosts' : name;
    for (const t of tabs) {
      set($(`tab-${t}`), 'aria-selected', t === name ? 'true' : 'false');
      set($(`tab-${t}`), 'tabindex', t === name ? 0 : -1);
    }
    for (const p of panels) $(p).hidden = p !== panel && !(p === 'events' && wide.matches);
    const tab = $(`tab-${name}`);
    tab.parentElement.scrollLeft = tab.offsetLeft - (tab.parentElement.clientWidth - tab.offsetWidth) / 2; // on a phone they don't all fit
    if (name in scopes) {
      scope = scopes[name];
      set($('hosts'), 'aria-labelledby', `tab-${name}`);
      showScope(scope);
      readUsage();
    }
    $('tab-events').hidden = wide.matches;
    set($('events'), 'role', wide.matches ? false : 'tabpanel');
    set($('events'), 'aria-labelledby', wide.matches ? 'events-title' : 'tab-events');
    if (focus) $(`tab-${name}`).focus();
    draw();
  };
  for (const t of tabs) $(`tab-${t}`).addEventListener('click', () => { show(t); history.replaceState(null, '', `#${t}`); });
  document.querySelector('.tabs').addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const shown = tabs.filter((t) => !$(`tab-${t}`).hidden);
    show(shown[(shown.indexOf(current) + step + shown.length) % shown.length], true);
  });
  wide.addEventListener('change', () => show(current));
  show(tabs.includes(location.hash.slice(1)) ? location.hash.slice(1) : 'hosts');
}

/** "/" goes to the filter, as in many programs for operators. */
function setUpKeys() {
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    if (!$('explain').hidden) $('explain-host').focus();
    else (($('limits').hidden) ? $('host-filter') : $('limit-filter')).focus();
  });
}

onToken(askToken);
set($('token-button'), 'hidden', !hasToken());
// Without another token, all stays as it was.
$('token-button').addEventListener('click', () => newToken(null).catch(() => {}));
setUpHosts(draw, readUsage);
setUpLimits(draw);
setUpEvents(draw);
setUpExplain();
setUpTabs();
setUpKeys();
setInterval(tickNodes, 100);
setInterval(readUsage, 1000);
follow('/v1/events', take, (live) => {
  model.live = live;
  if (!live) forgetLimits();
  draw();
});
