// Small helpers to build and update the page. Text is always set as text: nothing here turns a string into HTML.

/** Finds an element by its id. */
export const $ = (id) => document.getElementById(id);

const SVG = new Set(['svg', 'path', 'rect', 'line', 'title', 'polyline']);

/**
 * Makes an element. Attributes that begin with "on" are listeners; false and null leave an attribute out. Children are
 * nodes, strings, or arrays of them.
 */
export function h(tag, attributes, ...children) {
  const el = SVG.has(tag) ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else set(el, name, value);
  }
  el.append(...children.flat(Infinity).filter((c) => c != null && c !== false));
  return el;
}

/** Sets an attribute, if it isn't that already; false and null remove it. */
export function set(el, name, value) {
  if (value === false || value == null) {
    if (el.hasAttribute(name)) el.removeAttribute(name);
    return;
  }
  const text = value === true ? '' : String(value);
  if (el.getAttribute(name) !== text) el.setAttribute(name, text);
}

/** Sets an element's text, if it isn't that already. */
export function text(el, value) {
  const s = String(value);
  if (el.textContent !== s) el.textContent = s;
}

/**
 * Makes parent's children those of the items, in order. An item whose key was there keeps its element (and so the focus
 * and what is open in it); make(item) makes a new one, whose update(item) is called each time.
 */
export function keyed(parent, items, keyOf, make) {
  const old = parent.keyedRows ?? new Map();
  const rows = new Map();
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const row = old.get(key) ?? make(item);
    old.delete(key);
    rows.set(key, row);
    if (row === at) at = at.nextElementSibling;
    else parent.insertBefore(row, at);
    row.update(item);
  }
  for (const row of old.values()) row.remove();
  parent.keyedRows = rows;
}

/** "1,234". */
export const number = (n) => n.toLocaleString('en');

/** A rate per second, short. */
export function rate(n) {
  if (n === 0) return '0';
  if (n < 10) return n.toFixed(1);
  return number(Math.round(n));
}

/** Bytes, as people say it. */
export function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1000;
    i++;
  }
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

/** Seconds of a Go duration, such as "1h2m3.5s" or "120ms". */
export function seconds(duration) {
  const unit = { h: 3600, m: 60, s: 1, ms: 1e-3, µs: 1e-6, ns: 1e-9 };
  let sum = 0;
  for (const [, n, u] of String(duration).matchAll(/([\d.]+)(ms|µs|ns|h|m|s)/g)) sum += Number(n) * unit[u];
  return sum;
}

/** A span of seconds, in its two largest units. */
export function span(s) {
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const plural = (n, noun) => `${number(n)} ${noun}${n === 1 ? '' : 's'}`;

let toastTimer;

/** Says in passing that something was done, or failed. */
export function toast(message, bad = false) {
  const el = $('toast');
  text(el, message);
  el.className = `toast show${bad ? ' bad' : ''}`;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { el.className = 'toast'; }, bad ? 8000 : 4000);
}

/** Pages of a list: draws the buttons and returns the part to show. pager.page is kept within what there is. */
export function paged(nav, pager, items, redraw) {
  const pages = Math.max(1, Math.ceil(items.length / pager.size));
  pager.page = Math.min(pager.page, pages - 1);
  const from = pager.page * pager.size;
  nav.hidden = pages === 1;
  if (pages > 1) {
    if (!nav.parts) {
      const go = (step) => () => { pager.page += step; nav.redraw(); };
      nav.parts = { back: h('button', { type: 'button', onclick: go(-1) }, '‹ Back'), at: h('span', { class: 'dim' }), on: h('button', { type: 'button', onclick: go(1) }, 'Next ›') };
      nav.append(nav.parts.back, nav.parts.at, nav.parts.on);
    }
    nav.redraw = redraw;
    nav.parts.back.disabled = pager.page === 0;
    nav.parts.on.disabled = pager.page === pages - 1;
    text(nav.parts.at, `${number(from + 1)}–${number(Math.min(from + pager.size, items.length))} of ${number(items.length)}`);
  }
  return items.slice(from, from + pager.size);
}
