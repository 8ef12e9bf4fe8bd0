// What is known of the cluster: fed by the stream, read by the views.

/** Seconds of use that are kept for the charts. */
export const KEPT = 300;

export const model = {
  status: null,
  nodes: [],
  reclaiming: new Set(), // names of those whose slots will be given to others
  view: '',           // the node whose view the nodes are
  nodesAt: 0,         // when they came, in ms of performance.now()
  hosts: new Map(),   // by name: see Host
  more: 0,            // hosts that the node left out
  unreachable: [],
  limits: new Map(),  // by pattern
  limitsIndex: 0,     // of those in limits
  wantedIndex: 0,     // of those that the node goes by
  events: [],         // newest first
  live: false,
  first: 0,           // the second of the first frame, and the newest
  second: 0,
};

const EVENTS_KEPT = 500;
const colours = new Map();

/** The number of a node's colour, which it keeps. */
export function colour(node) {
  if (!colours.has(node)) colours.set(node, colours.size % 8);
  return colours.get(node);
}

/** One host: what the API says of it, its refusals per second, and what was in use in each of the last seconds. */
class Host {
  constructor(name) {
    this.name = name;
    this.refusals = 0;
    this.rates = {};
    this.held = {}; // by nodes that answer no more: what they were granted last
    this.series = new Float32Array(KEPT).fill(NaN);
    this.data = null;
  }

  take(data, passed) {
    let refused = 0;
    for (const [node, use] of Object.entries(data.nodes)) {
      // A node that started again counts from zero.
      const before = this.data?.nodes[node]?.rejected_total;
      const n = before === undefined || passed <= 0 ? 0 : Math.max(0, use.rejected_total - before) / passed;
      this.rates[node] = settle(this.rates[node] ?? 0, n);
      refused += n;
    }
    for (const [node, use] of Object.entries(this.data?.nodes ?? {})) if (!data.nodes[node]) this.held[node] = use.granted;
    for (const node of Object.keys(data.nodes)) delete this.held[node];
    this.refusals = settle(this.refusals, refused);
    this.data = data;
  }

  rest() {
    this.refusals = settle(this.refusals, 0);
    for (const node of Object.keys(this.rates)) this.rates[node] = settle(this.rates[node], 0);
  }

  /** The slots that a dead node still holds: nobody can use them until they are reclaimed. */
  heldBy(node) { return model.reclaiming.has(node) ? this.held[node] ?? 0 : 0; }

  get inUse() { return this.data.in_use; }
  get idle() { return this.data.idle ?? 0; }
  get granted() { return this.data.granted; }
  get waiting() { return this.data.waiting; }
  get limit() { return this.data.limit; }
}

/** A rate that follows the last second by half, so that it can be read. */
function settle(before, now) {
  const next = before * 0.5 + now * 0.5;
  return next < 0.05 ? 0 : next;
}

let lastUse = 0;

/** Takes a "use" frame. */
export function takeUse(frame) {
  const time = Date.parse(frame.time);
  const passed = lastUse ? (time - lastUse) / 1000 : 0;
  lastUse = time;
  const changed = new Set();
  for (const data of frame.hosts) {
    let host = model.hosts.get(data.host);
    if (!host) model.hosts.set(data.host, host = new Host(data.host));
    host.take(data, passed);
    changed.add(data.host);
  }
  if (frame.full) {
    for (const name of model.hosts.keys()) if (!changed.has(name)) model.hosts.delete(name);
  }
  for (const name of frame.gone ?? []) model.hosts.delete(name);
  for (const [name, host] of model.hosts) if (!changed.has(name)) host.rest();
  model.more = frame.more ?? 0;
  model.unreachable = frame.unreachable ?? [];
  model.wantedIndex = frame.limits_index;
  chart();
}

/** Notes this second's use. Short gaps are bridged, long ones stay gaps. */
function chart() {
  const second = Math.floor(performance.now() / 1000);
  model.first ||= second;
  const missed = Math.min(second - model.second, KEPT);
  for (const host of model.hosts.values()) {
    const before = host.series[model.second % KEPT];
    for (let i = 1; i < missed; i++) host.series[(second - i) % KEPT] = missed <= 4 ? before : NaN;
    host.series[second % KEPT] = host.inUse;
  }
  model.second = second;
}

export function takeNodes(frame) {
  for (const node of frame.nodes) colour(node.name);
  model.nodes = frame.nodes;
  model.reclaiming = new Set(frame.nodes.filter((n) => n.reclaim_in !== null).map((n) => n.name));
  model.view = frame.view;
  model.nodesAt = performance.now();
}

export function takeLimits(body) {
  model.limits = new Map(body.limits.map((l) => [l.pattern, l]));
  model.limitsIndex = body.index;
}

const seen = new Set();

/** Takes an event; false when it is known already, as after the node that tells them was replaced by itself. */
export function takeEvent(event) {
  const key = `${event.time} ${event.seen_by} ${event.text}`;
  if (seen.has(key)) return false;
  seen.add(key);
  const at = model.events.findIndex((e) => e.time <= event.time);
  model.events.splice(at < 0 ? model.events.length : at, 0, event);
  for (const old of model.events.splice(EVENTS_KEPT)) seen.delete(`${old.time} ${old.seen_by} ${old.text}`);
  return true;
}

/** Sums over all hosts. */
export function totals() {
  const sum = { inUse: 0, granted: 0, waiting: 0, refusals: 0, nodes: {} };
  const of = (node) => sum.nodes[node] ??= { inUse: 0, granted: 0, waiting: 0, refusals: 0, held: 0 };
  for (const host of model.hosts.values()) {
    sum.inUse += host.inUse;
    sum.granted += host.granted;
    sum.waiting += host.waiting;
    sum.refusals += host.refusals;
    for (const node of Object.keys(host.held)) of(node).held += host.heldBy(node);
    for (const [node, use] of Object.entries(host.data.nodes)) {
      const n = of(node);
      n.inUse += use.in_use;
      n.granted += use.granted;
      n.waiting += use.waiting;
      n.refusals += host.rates[node] ?? 0;
    }
  }
  return sum;
}
