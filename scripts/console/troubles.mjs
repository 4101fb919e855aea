// What goes wrong between a page and its store: answers that get lost, a proxy that
// answers in the store's place, a path that is not the root.

import http from 'node:http';
import { bytesOf } from './stores.mjs';
import { until } from './checks.mjs';
import { fragmentOf } from './tab.mjs';

/** Has the requests of a method for a path fail until it is called. */
async function fail(tab, method, path, answer = route => route.abort()) {
  const isMeant = url => url.pathname === path;
  await tab.page.route(isMeant, route => (route.request().method() === method ? answer(route) : route.fallback()));
  return () => tab.page.unroute(isMeant);
}

/** Writes whose answer does not come. */
export async function lostAnswers(scene) {
  const { checks } = scene;
  const store = await scene.store();
  await store.put('a', 'one', { ttl: '900s' });
  const tab = await scene.tab(store);
  await tab.openKey('a');
  await tab.button('Delete').click();
  await checks.becomes('a key is deleted', null, () => store.value('a'));
  let mend = await fail(tab, 'PUT', '/kv/a');
  await tab.button('Undo').click();
  await checks.becomes('undoing fails, which is told', true, () => tab.warns());
  await mend();
  await tab.button('Undo').click();
  await checks.becomes('and can be tried again', bytesOf('one'), () => store.value('a'));
  checks.check('with its TTL', true, Number(await store.field('a', 'ttl')) > 0);
  await until(() => tab.says('restored'));

  mend = await fail(tab, 'PUT', '/kv/a', async route => { await route.fetch(); await route.abort(); });
  await tab.button('Edit').click();
  await tab.editor.fill('two');
  await tab.button('Save').click();
  await checks.becomes('a save is done, and its answer lost, which is told', [bytesOf('two'), true],
    async () => [await store.value('a'), await tab.warns()]);
  await mend();
  await tab.button('Save').click();
  await checks.becomes('the next one is no conflict with itself', true, () => tab.says('saved'));
  await checks.becomes('and ends the edit', 'two', () => tab.text());

  await tab.button('Edit').click();
  await tab.editor.fill('three');
  mend = await fail(tab, 'GET', '/kv/a');
  await tab.button('Save').click();
  await checks.becomes('a save is done, and cannot be read back', bytesOf('three'), () => store.value('a'));
  await until(async () => await tab.says('saved') || tab.warns());
  await tab.page.keyboard.type('x');
  await mend();
  if (await tab.editor.isVisible()) await tab.button('Save').click();
  await checks.becomes('the page goes on', true, async () => ['three', 'xthree', 'threex'].includes(await tab.text()));
}

/** A store that takes what it is asked and says nothing, or stops in the middle. */
export async function silent(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['a', 'one'], ['half', 'two'], ['none', 'two']]);
  const server = http.createServer((request, answer) => {
    const { method, url, headers } = request;
    if (url === '/kv/none') return;
    const asked = http.request({ host: '127.0.0.1', port: store.port, method, path: url, headers }, got => {
      answer.writeHead(got.statusCode, got.headers);
      if (url === '/kv/half') got.once('data', bytes => answer.write(bytes.subarray(0, 1)));
      else got.pipe(answer);
    });
    asked.on('error', () => answer.destroy());
    request.pipe(asked);
    answer.on('close', () => asked.destroy());
  });
  await new Promise(done => server.listen(0, '127.0.0.1', done));
  const tab = await scene.blank(store);
  tab.origin = `http://127.0.0.1:${server.address().port}`;
  await tab.page.clock.install();
  for (const key of ['none', 'half']) {
    await tab.open(fragmentOf(key));
    await until(() => tab.requests.some(({ path }) => path === `/kv/${key}`));
    await until(() => tab.rows().then(rows => rows.length));
    checks.check(`${key}: it waits`, false, await tab.warns());
    await checks.becomes('    but not for ever', true, async () => { await tab.page.clock.runFor(10_000); return tab.warns('does not answer'); });
    await tab.open(fragmentOf('a'));
    await checks.becomes('    and the page goes on', 'one', () => tab.text());
  }
  server.closeAllConnections();
  server.close();
}

/** A store that a proxy answers for while it is away. */
export async function proxied(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['a', 'one']]);
  const tab = await scene.blank(store);
  const mend = await fail(tab, 'OPTIONS', '/kv', route => route.fulfill({ status: 503, body: 'not yet\n' }));
  await tab.open('#/kv/a');
  await until(() => tab.requests.some(({ method }) => method === 'OPTIONS'));
  await mend();
  await tab.button('Edit').waitFor();
  checks.check('rights that could not be learnt at once are learnt later', 1, await tab.button('New key').count());
  await checks.becomes('it is live', 'live', () => tab.connection.textContent());

  await store.stop();
  const away = () => true;
  let answered = 0;
  await tab.page.route(away, route => {
    if (!route.request().url().endsWith('/metrics')) answered += 1;
    return route.fulfill({ status: 502, contentType: 'text/html', body: '<h1>502 Bad Gateway</h1>' });
  });
  await checks.becomes('a proxy answers in its place, and the page tries again', true, () => answered > 2);
  await store.start();
  await tab.page.unroute(away);
  await checks.becomes('once it is back it is live', 'live', () => tab.connection.textContent());
  await store.put('b', 'one');
  await checks.becomes('and shows what comes', true, async () => (await tab.rows()).includes('b'));
}

/** A store below a path of its origin. */
export async function belowPath(scene) {
  const { checks } = scene;
  const store = await scene.store({ tokens: ['token-of-one-who-may-do-all'] }, [['a/b', 'one']]);
  const tab = await scene.blank(store);
  await tab.page.route(url => /^\/store(\/|$)/.test(url.pathname), route => {
    const url = new URL(route.request().url());
    return route.continue({ url: url.origin + url.pathname.replace(/^\/store\/?/, '/') + url.search });
  });
  await tab.page.goto(`${store.url}/store#/kv/a/b`);
  const dialog = tab.dialog('Token');
  await dialog.getByLabel('Token', { exact: true }).fill(store.token);
  await dialog.getByRole('button', { name: 'Use token' }).click();
  await checks.becomes('a key opens', 'one', () => tab.text());
  await checks.becomes('it is live', 'live', () => tab.connection.textContent());
  await tab.button('Edit').click();
  await tab.editor.fill('two');
  await tab.button('Save').click();
  await checks.becomes('and can be changed', bytesOf('two'), () => store.value('a/b'));
  checks.check('its curl line has the path', true, (await tab.curl.textContent()).includes(`${store.url}/store/kv/a/b`));
  checks.check('no neighbour is asked', [], tab.requests.map(({ target }) => target)
    .filter(target => !/^\/store(\/|$)/.test(target) && target !== '/favicon.ico'));
}
