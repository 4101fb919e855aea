// What a page does with a store of another origin. browser.py serves it, tells it its
// part, and hears of each check as it is made.

'use strict';

const PATIENCE_MS = 120_000;

const tell = said => fetch('/said', { method: 'POST', body: JSON.stringify(said) });

async function check(what, expected, got) {
  const fine = JSON.stringify(expected) === JSON.stringify(got);
  await tell({ what, fine, otherwise: fine ? '' : `${JSON.stringify(got)}, not ${JSON.stringify(expected)}` });
}

// What a promise gives, but not for ever.
function within(promise) {
  const late = new Promise((_, fail) => setTimeout(() => fail(new Error('nothing came')), PATIENCE_MS));
  return Promise.race([promise, late]);
}

// The calls of one page.
class Caller {
  constructor({ store, token }) {
    this.store = store;
    this.fields = token ? { Authorization: `Bearer ${token}` } : {};
  }

  // A call as it is made here; those that browsers ask about first are most of them.
  call(method, path, fields = {}, body = undefined) {
    return within(fetch(this.store + path, { method, body, headers: { ...this.fields, ...fields } }));
  }

  // Its status and its text, and the header fields of these names.
  async ask(method, path, fields, body, ...names) {
    const answer = await this.call(method, path, fields, body);
    return [answer.status, await within(answer.text()), ...names.map(name => answer.headers.get(name))];
  }
}

// A page of an allowed origin: all that the API has.
async function allowed(caller, { hasToken }) {
  const ask = caller.ask.bind(caller);
  const [status, , location, tag] = await ask('PUT', '/kv/capital', { 'If-None-Match': '*' }, 'Nairobi', 'Location', 'ETag');
  await check('it creates, and reads Location', [201, '/kv/capital'], [status, location]);
  await check('it reads a value and its ETag', [200, 'Nairobi', tag, 'bytes'],
    await ask('GET', '/kv/capital', {}, undefined, 'ETag', 'Accept-Ranges'));
  await check('a value that has not changed is 304', [304, '', tag],
    await ask('GET', '/kv/capital', { 'If-None-Match': tag }, undefined, 'ETag'));
  await check('a condition that does not hold is 412, with the text and the ETag', [412, 'precondition failed\n', tag],
    await ask('PUT', '/kv/capital', { 'If-Match': '"other"' }, 'Mombasa', 'ETag'));
  await check('one that holds lets it write', 200,
    (await ask('PUT', '/kv/capital', { 'If-Match': tag, 'Content-Type': 'text/plain' }, 'Mombasa'))[0]);
  await check('what the browser has kept is asked for again', [200, 'Mombasa'], await ask('GET', '/kv/capital'));
  // Of a value that the browser has kept it would answer these itself.
  await ask('PUT', '/kv/part', {}, 'Mombasa');
  await check('it hears of a range past the end', [416, 'range not satisfiable\n', 'bytes */7'],
    await ask('GET', '/kv/part', { Range: 'bytes=9-' }, undefined, 'Content-Range'));
  await check('it reads a range', [206, 'omb', 'bytes 1-3/7'],
    await ask('GET', '/kv/part', { Range: 'bytes=1-3' }, undefined, 'Content-Range'));
  await check('If-Range goes with it', [200, 'Mombasa'],
    await ask('GET', '/kv/part', { Range: 'bytes=1-3', 'If-Range': '"other"' }));
  await ask('PUT', '/kv/session', { TTL: '600' }, 'x');
  const [, , left] = await ask('GET', '/kv/session', {}, undefined, 'TTL');
  await check(`it reads TTL (${left})`, true, Number(left) > 0 && Number(left) <= 600);
  await check('it sends a digest', [400, 'the content does not match its digest\n'],
    await ask('PUT', '/kv/session', { 'Content-Digest': 'sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:' }, 'x'));
  await check('it waits', [404, 'key not found\n', 'wait=1'],
    await ask('GET', '/kv/absent', { Prefer: 'wait=1' }, undefined, 'Preference-Applied'));
  await check('it sends fields that mean nothing here', 200,
    (await ask('GET', '/kv/capital', { traceparent: '00-1-2-00', 'X-Requested-With': 'page' }))[0]);

  const [added, key, place] = await ask('POST', '/kv?prefix=job:', {}, 'one', 'Location');
  await check('it adds, and reads the key', [201, true, true],
    [added, key.startsWith('job:'), place === `/kv/${key.trim()}`]);
  await ask('POST', '/kv?prefix=job:', {}, 'two');
  const [listed, page, link, revision] = await ask('GET', '/kv?prefix=job:&limit=1', {}, undefined, 'Link', 'Revision');
  await check('it lists a page of keys', [200, key], [listed, page]);
  await check(`it reads Link (${link}) and Revision (${revision})`, true, /^<\/kv\?.*>; rel="next"$/.test(link) && !!revision);
  const [, rest] = await ask('GET', link.slice(1, link.indexOf('>')));
  await check('and follows it', 1, rest.split('\n').length - 1);
  await check('it takes', [200, 'one', `/kv/${key.trim()}`],
    await ask('DELETE', '/kv?take=job:', {}, undefined, 'Content-Location'));
  await check('it counts', [200, '1\n'], await ask('POST', '/kv/visits?incr'));
  await check('it sends a batch', 200,
    (await ask('POST', '/batch', {}, '{"method":"POST","path":"/kv/visits?incr"}\n{"key":"a","value":"b"}'))[0]);
  await check('it imports', [200, '1\n'], await ask('POST', '/import', {}, '{"key":"c","value":"d"}'));
  await check('it deletes', [200, ''], await ask('DELETE', '/kv/capital'));

  await check('it reads a 404', [404, 'key not found\n'], await ask('GET', '/kv/capital'));
  const [nowhere, paths] = await ask('PUT', '/nowhere', {}, 'x');
  await check('it reads that of a path that is not there', [404, true], [nowhere, paths.startsWith('not found: the paths are ')]);
  await check('it reads a 400', [400, 'unknown query parameter\n'], await ask('PUT', '/kv/a?tll=1', {}, 'x'));
  await check('it reads a 405 and Allow', [405, 'method not allowed\n', 'DELETE, OPTIONS'],
    await ask('GET', '/clear', {}, undefined, 'Allow'));
  await check('it reads a 413', [413, 'value is too large\n'], await ask('PUT', '/kv/a', {}, 'x'.repeat(65_537)));
  await check('it reads OPTIONS', [204, '', 'GET, HEAD, PUT, POST, DELETE, OPTIONS'],
    await ask('OPTIONS', '/kv/a', {}, undefined, 'Allow'));
  await streamed(caller);
  if (hasToken) await unknown(caller); else await heard(caller);
}

// Reads a watch as it comes.
async function streamed(caller) {
  const answer = await caller.call('GET', '/watch?prefix=chat/', { Accept: 'text/event-stream' });
  await check('a watch begins', [200, 'text/event-stream'], [answer.status, answer.headers.get('Content-Type')]);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  const hears = async part => {
    while (!text.includes(part)) {
      const { done, value } = await within(reader.read());
      if (done) return false;
      text += value;
    }
    return true;
  };
  await check('it is told that it is there', true, await hears('\n\n'));
  await caller.ask('PUT', '/kv/chat/1', {}, 'hello');
  await check('and of a change', true, await hears('event: put\n') && await hears('data: chat/1\n'));
  await reader.cancel();
}

// An EventSource, which cannot send a token.
async function heard(caller) {
  const source = new EventSource(`${caller.store}/watch?prefix=chat/`);
  const put = new Promise(done => source.addEventListener('put', event => done(event.data)));
  await within(new Promise(done => { source.onopen = done; }));
  await caller.ask('PUT', '/kv/chat/2', {}, 'hello');
  await check('an EventSource hears of a change', 'chat/2', await within(put));
  source.close();
}

// Calls without the token, and with another.
async function unknown(caller) {
  for (const [what, fields] of [['without a token', {}], ['with another one', { Authorization: 'Bearer not-the-token-of-it' }]]) {
    const stranger = new Caller({ store: caller.store });
    stranger.fields = fields;
    for (const method of ['GET', 'PUT', 'DELETE']) {
      const [status, text, scheme] = await stranger.ask(method, '/kv/a', {}, method === 'PUT' ? 'x' : undefined, 'WWW-Authenticate');
      await check(`${method} ${what} is a 401 that it reads`, [401, true, 'Bearer realm="little-key-value"'],
        [status, text.endsWith('\n') && text.length > 1, scheme]);
    }
  }
}

// A page of any other origin: nothing.
async function refused(caller) {
  const plain = new Caller({ store: caller.store });
  for (const [method, path, body] of [
    ['GET', '/kv/visits'], ['GET', '/kv'], ['GET', '/healthz'], ['GET', '/watch'], ['PUT', '/kv/evil', 'x'],
    ['DELETE', '/kv/visits'], ['DELETE', '/clear'], ['POST', '/kv/visits?incr'], ['POST', '/kv?prefix=evil', 'x'],
    ['POST', '/batch', '{"key":"evil","value":"x"}'], ['POST', '/import', '{"key":"evil","value":"x"}'],
  ]) {
    for (const one of [caller, plain]) {
      const outcome = await one.ask(method, path, {}, body).catch(err => err.name);
      await check(`${method} ${path} fails`, 'TypeError', outcome);
    }
  }
  // What a form could send is sent, and the store has to refuse it.
  const opaque = await within(fetch(`${caller.store}/kv/evil?append`, { method: 'POST', mode: 'no-cors', body: 'x' }));
  await check('an answer to what a form could send is not told', ['opaque', 0], [opaque.type, opaque.status]);
  const source = new EventSource(`${caller.store}/watch?since=0`);
  const outcome = new Promise(done => {
    for (const name of ['open', 'error', 'reset', 'put', 'ready']) source.addEventListener(name, () => done(name));
  });
  await check('an EventSource is not opened', 'error', await within(outcome));
  source.close();
}

async function main() {
  const scenario = await (await fetch('/scenario')).json();
  let end = scenario.name;
  try {
    await { allowed, refused }[scenario.role](new Caller(scenario), scenario);
  } catch (err) {
    end = String(err.stack || err);
  }
  const { next } = await (await tell({ end })).json();
  if (next) location.href = next;
}

main();
