// What is known of the cluster: fed by the stream, read by the views.

import { limitKey } from './words.js';

/** Seconds of use that are kept for the charts. */
export const KEPT = 300;

export const model = {
  status: null,
  nodes: [],
  reclaiming: new Set(), // names of those whose slots will be given to others
  view: '',           // the node whose view the nodes are
  nodesAt: 0,         // when they came, in ms of performance.now()
  hosts: new Map(),   // by name: see Host
  scopes: {},         // the same of each scope that counts
  scopesRead: new Set(['host']), // those whose use was told
  cuts: {},           // by scope, of which there are more names than were told: see readUsage
  more: 0,            // hosts that the node left out
  unreachable: [],
  limits: new Map(),  // by scope and pattern: see limitKey
  limitsIndex: -1,    // of those in limits; -1: they must be read again
  limitsCluster: '',  // the id of the cluster that they are of; '': not known
  wantedIndex: 0,     // of those that the node goes by
  events: [],         // newest first
  live: false,
  first: 0,           // the second of the first frame, and the newest
  second: 0,
};

model.scopes = { host: model.hosts, client: new Map(), user: new Map(), total: new Map(), key: new Map(), connection: new Map() };

const EVENTS_KEPT = 500;
const colours = new Map();

/** The number of a node's colour, which it keeps. */
export function colour(node) {
  if (!colours.has(node)) colours.set(node, colours.size % 8);
  return colours.get(node);
}

/**
 * What counts under one name of a scope, such as a host: what the API says of it, its refusals per second, and what was in use, and
 * passed, in each of the last seconds.
 */
class Host {
  constructor(name) {
    this.name = name;
    this.refusals = 0;
    this.rates = {};
    this.held = {}; // by nodes that answer no more: what they were granted last
    this.series = new Float32Array(KEPT).fill(NaN);
    this.second = 0; // the last that is in the series
    this.flows = {}; // its rates: requests, upload, download, where a limit caps them
    this.flowSeries = {};
    this.data = null;
  }

  take(data, passed) {
    let refused = 0;
    for (const [node, use] of Object.entries(data.nodes)) {
      // A node that started again counts from zero.
      const before = this.data?.nodes[node];
      const n = before === undefined || passed <= 0 ? 0 : Math.max(0, use.rejected_total - before.rejected_total) / passed;
      this.rates[node] = settle(this.rates[node] ?? 0, n);
      refused += n;
    }
    for (const [node, use] of Object.entries(this.data?.nodes ?? {})) if (!data.nodes[node]) this.held[node] = use.granted;
    for (const node of Object.keys(data.nodes)) delete this.held[node];
    this.refusals = settle(this.refusals, refused);
    this.data = data;
    this.flows = {};
    if (data.requests) this.flows.requests = data.requests;
    for (const direction of ['upload', 'download']) if (data.bandwidth?.[direction]) this.flows[direction] = data.bandwidth[direction];
  }

  /** Notes a second's numbers. Short gaps are bridged, long ones stay gaps. */
  note(second) {
    const missed = Math.min(second - this.second, KEPT);
    const put = (series, value) => {
      const before = series[this.second % KEPT];
      for (let i = 1; i < missed; i++) series[(second - i) % KEPT] = missed <= 4 ? before : NaN;
      series[second % KEPT] = value;
    };
    put(this.series, this.inUse);
    for (const kind of Object.keys(this.flowSeries)) if (!this.flows[kind]) delete this.flowSeries[kind];
    for (const [kind, f] of Object.entries(this.flows)) put(this.flowSeries[kind] ??= new Float32Array(KEPT).fill(NaN), f.now);
    this.second = second;
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
  /** What a limit that only reports would have refused or held back. */
  get wouldReject() { return this.data.would_reject_total ?? 0; }
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
  chart(model.hosts);
}

/** Notes this second's use of a scope. */
function chart(uses) {
  const second = Math.floor(performance.now() / 1000);
  model.first ||= second;
  for (const use of uses.values()) use.note(second);
  if (uses === model.hosts) model.second = second;
}

const asked = {};

/** Takes what /v1/usage/{scope} told; where that is not all, cut says what was asked for. */
export function takeUsage(scope, usage, cut) {
  const now = performance.now();
  const passed = asked[scope] ? (now - asked[scope]) / 1000 : 0;
  asked[scope] = now;
  const uses = model.scopes[scope];
  const there = new Set();
  for (const data of usage) {
    let use = uses.get(data.name);
    if (!use) uses.set(data.name, use = new Host(data.name));
    use.take(data, passed);
    there.add(data.name);
  }
  for (const name of uses.keys()) if (!there.has(name)) uses.delete(name);
  model.scopesRead.add(scope);
  model.cuts[scope] = cut;
  chart(uses);
}

export function takeNodes(frame) {
  for (const node of frame.nodes) colour(node.name);
  model.nodes = frame.nodes;
  model.reclaiming = new Set(frame.nodes.filter((n) => n.reclaim_in !== null).map((n) => n.name));
  model.view = frame.view;
  model.nodesAt = performance.now();
}

/** The id of the cluster that the node is in; '' while it is not known. */
export const clusterId = () => model.status?.cluster ?? '';

export function takeLimits(body) {
  model.limits = new Map(body.limits.map((l) => [limitKey(l.scope, l.pattern), l]));
  model.limitsIndex = body.index;
  model.limitsCluster = clusterId();
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
