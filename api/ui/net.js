// Calls to the node's API, and its stream of events. The token is kept for this tab alone.

const KEY = 'weir-token';

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`);
    this.status = status;
    this.code = problem.code ?? '';
  }
}

/** The connection to the node broke, or there was none. Whether the node did what it was asked is not known. */
class Lost extends Error {
  constructor(cause) {
    super('The node does not answer. Try again once this page is live.', { cause });
  }
}

/** Fails for a connection that broke. An answer that came whole and is no JSON is another matter. */
const lost = (cause) => { throw cause instanceof SyntaxError ? cause : new Lost(cause); };

let asking = null;
let askToken = () => Promise.resolve('');
let declined = false;
let goOn = () => {}; // ends the stream's pause

/** Says how the user is asked for a token: ask(problem) resolves to it, or rejects without one. */
export function onToken(ask) { askToken = ask; }

export const hasToken = () => sessionStorage.getItem(KEY) !== null;

/**
 * Whether the node wants a token that the user was asked for and did not give. What goes on by
 * itself, such as the stream, does not ask again then: the dialog would open every few seconds.
 */
export const tokenDeclined = () => declined;

/** Asks for another token, once for all calls that wait. Rejects if the user gives none. */
export function newToken(problem) {
  asking ??= askToken(problem).then((token) => {
    sessionStorage.setItem(KEY, token);
    declined = false;
    goOn();
  }).finally(() => { asking = null; });
  return asking;
}

async function send(path, options = {}) {
  for (;;) {
    const headers = new Headers(options.headers);
    const token = sessionStorage.getItem(KEY);
    if (token) headers.set('Authorization', `Bearer ${token}`);
    const response = await fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' }).catch(lost);
    if (response.ok) {
      declined = false;
      return response;
    }
    const refused = new Refused(response.status, await response.json().catch(() => ({})));
    if (response.status !== 401) throw refused;
    // Meanwhile another call may have brought one.
    if (sessionStorage.getItem(KEY) !== token) continue;
    // A write is the user's own act: it may ask again.
    if (declined && (options.method ?? 'GET') === 'GET') throw refused;
    try {
      await newToken(token ? refused : null);
    } catch {
      declined = true;
      throw refused;
    }
  }
}

/** Makes a call; resolves to the answer's body and ETag. */
export async function call(method, path, body, headers = {}) {
  const options = { method, headers: { ...headers } };
  if (method === 'PUT' || method === 'POST') {
    options.headers['Content-Type'] = 'application/json';
    if (body !== undefined) options.body = JSON.stringify(body);
  }
  const response = await send(path, options);
  return { body: await response.json().catch(lost), etag: response.headers.get('ETag') };
}

/**
 * Tells the console what went wrong with something that nobody pressed a button for. A lost
 * connection, a node that can't answer now and a token that is needed are left out: the page shows
 * them, and asks again.
 */
export function warn(error) {
  const shown = error instanceof Lost || (error instanceof Refused && [401, 503].includes(error.status));
  if (!shown) console.warn(error);
}

/** Follows a stream of server-sent events for ever: with fetch, because an EventSource can't send a token. */
export async function follow(path, on, state) {
  let last = '';
  let pause = 500;
  for (;;) {
    let timer;
    const control = new AbortController();
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => control.abort(), 10_000); // the stream speaks each second
    };
    try {
      alive();
      const response = await send(path, { signal: control.signal, headers: last ? { 'Last-Event-ID': last } : {} });
      for await (const event of parse(response.body, alive)) {
        if (event.id) last = event.id;
        if (pause !== 500) pause = 500;
        state(true);
        on(event.name, JSON.parse(event.data));
      }
    } catch (error) {
      warn(error);
    } finally {
      clearTimeout(timer);
      control.abort();
    }
    state(false);
    await new Promise((resolve) => {
      goOn = resolve;
      setTimeout(resolve, pause);
    });
    pause = Math.min(pause * 2, 5000);
  }
}

/** Takes a stream apart into events: the fields of https://html.spec.whatwg.org/#parsing-an-event-stream that weir sends. */
async function* parse(stream, alive) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let event = { id: '', name: 'message', data: '' };
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(lost);
      if (done) return;
      alive();
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (line === '') {
          if (event.data) yield event;
          event = { id: '', name: 'message', data: '' };
        } else if (line.startsWith('id: ')) event.id = line.slice(4);
        else if (line.startsWith('event: ')) event.name = line.slice(7);
        else if (line.startsWith('data: ')) event.data += line.slice(6);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
