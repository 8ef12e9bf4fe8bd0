// Limits in words.

import { plural } from './dom.js';

/** The scopes, and what counts in each, in the plural. */
export const SCOPES = { host: 'hosts', client: 'clients', user: 'users', total: 'requests', key: 'keys', connection: 'connections' };

/** A scope that has one limit, without patterns. */
export const bare = (scope) => scope === 'total' || scope === 'connection';

/** The key of a limit in model.limits. */
export const limitKey = (scope, pattern) => `${scope}/${pattern}`;

/** What a limit is for, as messages and the command line name it. */
export const nameOf = (scope, pattern) => (scope === 'host' ? pattern : pattern ? `${scope} ${pattern}` : scope);

/** Whether a pattern matches many names, which can share one count. */
export function wildcard(scope, pattern) {
  if (scope === 'host' || scope === 'client') return /[*/]/.test(pattern);
  return !bare(scope) && pattern.endsWith('*');
}

/** The lines that say what a limit allows. */
export function lines(limit) {
  if (!limit) return [];
  const all = [];
  if (limit.scope !== 'connection') all.push(['connections', limit.connections === null ? 'no cap' : limit.connections === 0 ? '0, blocked' : String(limit.connections)]);
  if (limit.requests) all.push(['requests', `${limit.requests.rate}${limit.requests.burst ? `, ${limit.requests.burst} at once` : ''}`]);
  for (const direction of ['upload', 'download']) if (limit.bandwidth?.[direction]) all.push([direction, `${limit.bandwidth[direction]} a second`]);
  if (limit.bandwidth?.burst) all.push(['bandwidth burst', limit.bandwidth.burst]);
  if (limit.queue) all.push(['queue', `${limit.queue.size} per node, for ${limit.queue.timeout}`]);
  else if (limit.scope !== 'connection') all.push(['queue', 'none, refused at once']);
  if (limit.shared) all.push(['shared', `all ${SCOPES[limit.scope]} that match share one count`]);
  if (limit.mode === 'report') all.push(['mode', 'report: counts, refuses nothing']);
  return all;
}

/** What a limit allows, in one line. */
export function words(limit) {
  const { connections, requests, bandwidth, queue } = limit;
  const all = [];
  if (connections !== null) all.push(connections === 0 ? 'blocked' : plural(connections, 'connection'));
  if (requests) all.push(`${requests.rate} requests${requests.burst ? ` (${requests.burst} at once)` : ''}`);
  if (bandwidth) all.push(bandwidthWords(bandwidth));
  if (all.length === 0) all.push('no cap');
  if (queue) all.push(`queue of ${queue.size} for ${queue.timeout}`);
  if (limit.shared) all.push('shared');
  return all.join(', ');
}

export const bandwidthWords = (b) => ['upload', 'download'].filter((d) => b[d]).map((d) => `${b[d]}/s ${d === 'upload' ? 'up' : 'down'}`).join(', ');
