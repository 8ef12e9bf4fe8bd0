// Charts over the last minutes, and the bars of rates.

import { bytes, h, keyed, number, rate, set, text } from './dom.js';
import { KEPT, colour, model } from './model.js';

const WIDE = 120;
const HIGH = 24;
const STEP = 2; // px to a bucket of seconds

/**
 * A chart over the last minutes, as many as are known: the most of each few seconds, with a line for the limit. of(x) is the series
 * and the limit (null: none), say(n) puts a number into words.
 */
export function spark(of = (x) => ({ series: x.series, cap: x.limit }), say = number, what = 'In use') {
  const area = h('path', { class: 'area' });
  const line = h('path', { class: 'line' });
  const limit = h('line', { class: 'cap', x1: 0, x2: WIDE });
  const svg = h('svg', { class: 'spark', viewBox: `0 0 ${WIDE} ${HIGH}`, width: WIDE, height: HIGH, preserveAspectRatio: 'none', role: 'img' }, area, limit, line);
  svg.update = (x) => {
    const { series, cap } = of(x);
    const buckets = WIDE / STEP;
    const minutes = Math.min(KEPT / 60, 1 + Math.floor((model.second - model.first) / 60));
    const each = (60 * minutes) / buckets;
    const values = [];
    let most = cap > 0 ? Math.min(1, cap) : 1; // a slow rate is below one a second
    let last = -1;
    for (let b = 0; b < buckets; b++) {
      let v = NaN;
      // Buckets stand on whole multiples, so that a drawn one doesn't change while it moves to the left.
      const end = Math.floor(model.second / each) * each - (buckets - 1 - b) * each;
      for (let s = end; s < end + each; s++) {
        if (s > x.second || s <= model.second - KEPT || s < model.first) continue;
        const at = series[s % KEPT];
        if (!Number.isNaN(at) && !(at <= v)) v = at;
      }
      values.push(v);
      if (!Number.isNaN(v)) {
        most = Math.max(most, v);
        last = b;
      }
    }
    if (cap !== null && cap <= most * 3) most = Math.max(most, cap);
    const y = (v) => (HIGH - 1.5 - (v / most) * (HIGH - 4)).toFixed(1);
    let d = '';
    let fill = '';
    let start = -1;
    values.forEach((v, b) => {
      const px = ((b + 1) * STEP).toFixed(1);
      if (Number.isNaN(v)) {
        if (start >= 0) fill += `L${(b * STEP).toFixed(1)} ${HIGH}Z`;
        start = -1;
        return;
      }
      if (start < 0) {
        const from = (b * STEP).toFixed(1);
        d += `M${from} ${y(v)}L${px} ${y(v)}`;
        fill += `M${from} ${HIGH}L${from} ${y(v)}L${px} ${y(v)}`;
        start = b;
      } else {
        d += `L${px} ${y(v)}`;
        fill += `L${px} ${y(v)}`;
      }
    });
    if (start >= 0) fill += `L${((last + 1) * STEP).toFixed(1)} ${HIGH}Z`;
    set(line, 'd', d);
    set(area, 'd', fill);
    const capped = cap !== null && cap <= most;
    set(limit, 'y1', capped ? y(cap) : false);
    set(limit, 'y2', capped ? y(cap) : false);
    set(limit, 'visibility', capped ? false : 'hidden');
    set(svg, 'aria-label', `${what} over the last minutes: at most ${say(last < 0 ? 0 : Math.max(...values.filter((v) => !Number.isNaN(v))))}`);
  };
  return svg;
}

/** Requests a second, in words; a slow rate by the minute or hour, to a tenth. */
function often(n) {
  if (n <= 0 || n >= 0.1) return `${rate(n)}/s`;
  const minute = n * 60 >= 0.95;
  return `${Math.round(n * (minute ? 600 : 36_000)) / 10}/${minute ? 'm' : 'h'}`;
}

/** The rates that a limit can cap: how each is named, and its numbers are written. */
export const FLOWS = {
  requests: { name: 'Requests', short: '', say: often, total: number, waits: 'request' },
  upload: { name: 'Upload', short: '↑ ', say: (n) => `${bytes(n)}/s`, total: bytes, waits: 'connection' },
  download: { name: 'Download', short: '↓ ', say: (n) => `${bytes(n)}/s`, total: bytes, waits: 'connection' },
};

/** One rate: a bar of what each node uses of what is allowed, the same in words, and a chart. */
export function flow(kind) {
  const { name, short, say, waits } = FLOWS[kind];
  const nodes = h('span', { class: 'parts' });
  const free = h('i', { class: 'free' });
  const el = h('div', { class: 'bar', role: 'img' }, nodes, free);
  const line = h('span', { class: 'dim' });
  const chart = spark((x) => ({ series: x.flowSeries[kind], cap: x.flows[kind].rate }), say, name);
  const box = h('div', { class: 'flow', 'data-flow': kind }, h('div', { class: 'grow' }, el, line), chart);
  box.update = (x) => {
    const f = x.flows[kind];
    const size = Math.max(f.rate, f.now, 1e-9);
    const parts = Object.entries(x.data.nodes).map(([node, use]) => ({ node, now: flowsOf(use)[kind]?.now ?? 0 })).filter((p) => p.now > 0).sort((a, b) => (a.node < b.node ? -1 : 1));
    keyed(nodes, parts, (p) => p.node, (p) => {
      const i = h('i', { class: `c${colour(p.node)} used` });
      i.update = ({ now }) => { i.style.flexGrow = now / Math.max(f.now, 1e-9); };
      return i;
    });
    nodes.style.width = `${(100 * Math.min(1, f.now / size)).toFixed(1)}%`;
    text(line, `${short}${say(f.now)} of ${say(f.rate)}${f.waiting ? ` · ${number(f.waiting)} waiting` : ''}`);
    line.classList.toggle('warn', f.waiting > 0);
    const label = `${name}: ${say(f.now)} of ${say(f.rate)} used, ${say(f.granted)} granted, ${number(f.waiting)} ${waits}s waiting`;
    set(el, 'aria-label', label);
    set(el, 'title', label);
    chart.update(x);
  };
  return box;
}

/** The rates in a use, by kind. */
export function flowsOf(use) {
  const all = {};
  if (use.requests) all.requests = use.requests;
  for (const direction of ['upload', 'download']) if (use.bandwidth?.[direction]) all[direction] = use.bandwidth[direction];
  return all;
}
