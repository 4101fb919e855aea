// Changes by others, as they come, and a server that stops and comes back.

import { bytesOf } from './stores.mjs';
import { until } from './checks.mjs';
import { lists } from './tab.mjs';

/** What others do appears by itself. */
export async function live(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['a', 'one'], ['users/ann', 'one'], ['users/bob', 'one']]);
  const tab = await scene.tab(store);
  await checks.becomes('the page is live', 'live', () => tab.connection.textContent());
  await tab.item('users/').click();
  await tab.item('ann').click();
  await checks.becomes('a key is open', 'one', () => tab.text());

  const begin = Date.now();
  await store.put('users/ann', 'two', { type: 'text/x-own', ttl: '600s' });
  await checks.becomes('its value changes', 'two', () => tab.text());
  console.log(`        after ${Date.now() - begin} ms`);
  await checks.becomes('and its facts', ['text/x-own', true], async () => [await tab.fact('Type'), /\d/.test(await tab.fact('TTL'))]);
  await store.put('users/carl', 'one');
  await checks.becomes('a key appears in an open folder', ['a', 'users/', 'ann', 'bob', 'carl'], () => tab.rows());
  await store.put('b/c', 'one');
  await checks.becomes('and a folder', ['a', 'b/', 'users/', 'ann', 'bob', 'carl'], () => tab.rows());
  await store.remove('users/bob');
  await checks.becomes('a key goes', ['a', 'b/', 'users/', 'ann', 'carl'], () => tab.rows());
  await store.remove('b/c');
  await checks.becomes('and a folder with its last key', ['a', 'users/', 'ann', 'carl'], () => tab.rows());
  await store.put('a', 'soon gone', { ttl: '1s' });
  await checks.becomes('one that expires goes', ['users/', 'ann', 'carl'], () => tab.rows());

  await tab.button('Edit').click();
  await tab.editor.fill('typed so far');
  await store.put('users/ann', 'three');
  await store.put('users/dora', 'one');
  await tab.item('dora').waitFor();
  checks.check('what is being edited is left alone', 'typed so far', await tab.editor.inputValue());
  await tab.button('Cancel').click();
  await checks.becomes('and up to date afterwards', 'three', () => tab.text());
  await store.remove('users/ann');
  await checks.becomes('an open key that is deleted is told to be gone', true, () => tab.page.getByText('key not found').isVisible());
  await store.put('users/ann', 'back');
  await checks.becomes('and shown once it is back', 'back', () => tab.text());

  await tab.search.fill('users/d');
  await checks.becomes('with a filter', 1, async () => (await tab.rows()).length);
  await store.load([['users/dean', 'one'], ['users/carla', 'one']]);
  await checks.becomes('what does not begin so stays away', ['dean', 'dora'], async () => (await tab.rows()).map(row => row.split('/').at(-1)));
  await tab.search.fill('');
  await tab.item('users/').click();
  await tab.item('carla').waitFor();

  const mark = tab.requests.length;
  for (let round = 0; round < 20; round += 1) {
    const lines = [...Array(100).keys()].map(n => JSON.stringify({ key: `users/many-${n}`, value: `${round}` }));
    await store.tell('POST', '/batch', { body: `${lines.join('\n')}\n` });
    await store.put('users/ann', `round ${round}`);
  }
  await checks.becomes('after 2,000 writes by others the value is the last', 'round 19', () => tab.text());
  await checks.becomes('and the keys are there', true, async () => (await tab.rows()).includes('many-0'));
  const asked = tab.since(mark, lists).length;
  checks.check(`they were not listed for each of them (${asked} times)`, true, asked < 200);
  checks.check('all by one watch', 1, tab.requests.filter(({ path }) => path === '/watch').length);
  for (const first of ['after', 'again', 'at last']) {
    const lines = [...Array(100).keys()].map(n => JSON.stringify({ key: `short/${first}-${n}`, value: 'x' }));
    await store.tell('POST', '/batch', { body: `${lines.join('\n')}\n` });
    await store.tell('DELETE', '/clear');
    await checks.becomes('once the store is cleared there is nothing', 0, () => tab.tree.getByRole('treeitem').count());
    await store.put(first, 'one');
    await checks.becomes('and then what comes, alone', [first], () => tab.rows());
  }
}

/** Windows side by side: a browser has six connections to a store, for all of them. */
export async function windows(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['a', 'one']]);
  const user = await scene.user();
  // Of those that are shown one is in front.
  await user.addInitScript(() => { Document.prototype.hasFocus = () => window.isInFront ?? false; });
  const front = await scene.blank(store, { user });
  await front.page.addInitScript(() => { window.isInFront = true; });
  const others = [];
  for (let number = 0; number < 7; number += 1) others.push(await scene.blank(store, { user }));
  const tabs = [front, ...others];
  for (const tab of tabs) await tab.open('#/kv/a');
  for (const [at, tab] of tabs.entries()) await checks.becomes(`window ${at + 1} is live`, ['live', 'one'], async () => [await tab.connection.textContent(), await tab.text()]);
  await store.put('a', 'two');
  await store.put('b', 'two');
  for (const [at, tab] of tabs.entries()) {
    await checks.becomes(`what others do appears in window ${at + 1}`, ['two', ['a', 'b']], async () => [await tab.text(), await tab.rows()]);
  }
  const watches = ({ path, query }) => path === '/watch' && !query.has('wait');
  checks.check('one has a stream', [1, 0], [front, others[0]].map(tab => tab.requests.filter(watches).length));
  const [last] = others;
  await front.page.evaluate(() => { window.isInFront = false; });
  await last.page.evaluate(() => { window.isInFront = true; });
  await until(() => last.requests.some(watches));
  checks.check('which goes to the window that comes to the front', 1, last.requests.filter(watches).length);
  await store.put('a', 'three');
  for (const tab of [front, last]) await checks.becomes('and each is live', ['live', 'three'], async () => [await tab.connection.textContent(), await tab.text()]);
  await front.button('Edit').click();
  await front.editor.fill('four');
  await front.button('Save').click();
  await checks.becomes('each can write', bytesOf('four'), () => store.value('a'));
}

/** A store that stops, and starts again at the same place. */
export async function restart(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['city', 'Nairobi'], ['users/ann', 'one']]);
  const tab = await scene.tab(store);
  await tab.item('city').click();
  await checks.becomes('before the stop it is live', ['live', 'Nairobi'], async () => [await tab.connection.textContent(), await tab.text()]);
  checks.check('the store stops with a page connected', 0, await store.stop());
  await checks.becomes('then it tries again', 'reconnecting', () => tab.connection.textContent());
  checks.check('and still shows what was there', 'Nairobi', await tab.text());
  await tab.button('Edit').click();
  await tab.editor.fill('Mombasa');
  await tab.button('Save').click();
  await checks.becomes('a failed write is told', true, () => tab.warns());
  checks.check('and what was typed is kept', 'Mombasa', await tab.editor.inputValue());

  await store.start();
  await checks.becomes('once the store is back it is live', 'live', () => tab.connection.textContent());
  const isKept = scene.setting.engine === 'durable';
  checks.check('the store has kept', isKept ? bytesOf('Nairobi') : null, await store.value('city'));
  await tab.button('Save').click();
  if (!isKept) {
    // In memory it is gone, and so what one saves is not what one has seen.
    await tab.dialog('Changed by somebody else').getByRole('button', { name: 'Keep mine' }).click();
  }
  await checks.becomes('what was typed can be saved then', bytesOf('Mombasa'), () => store.value('city'));
  await checks.becomes('the tree has what is there', isKept ? ['city', 'users/'] : ['city'], () => tab.rows());
  await store.put('later', 'one');
  await checks.becomes('and what comes', true, async () => (await tab.rows()).includes('later'));
  await store.put('city', 'Kisumu');
  await checks.becomes('the open key too', 'Kisumu', () => tab.text());
}

/** In front of a cluster there is no change log. */
export async function notLive(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['city', 'Nairobi']]);
  const tab = await scene.tab(store);
  await checks.becomes('in front of a cluster it is not live, and says so', 'not live', () => tab.connection.textContent());
  await tab.item('city').click();
  await checks.becomes('a key opens', 'Nairobi', () => tab.text());
  const mark = tab.requests.length;
  await store.put('other', 'one');
  await tab.page.reload();
  await checks.becomes('a reload shows what has come', ['city', 'other'], () => tab.rows());
  checks.check('it asks for no watch again and again', true, tab.since(mark, ({ path }) => path === '/watch').length < 3);
}
