// Tokens: asked for once in a tab, kept for it, and what each may do.

import fs from 'node:fs';
import { PNG, bytesOf } from './stores.mjs';
import { until } from './checks.mjs';

const ALL = 'token-of-one-who-may-do-all';
const READER = 'token-of-one-who-may-read';
const USERS = 'token-of-those-of-users-alone';
const LINES = [ALL, `${READER} ro`, `${USERS} rw users/`];
const WRITES = ['Edit', 'Delete', 'New key', 'Change TTL', 'Add 1', 'Subtract 1', 'Delete prefix', 'Import', 'Upload'];

const open = scene => scene.store({ tokens: LINES }, [['city', 'Nairobi'], ['count', '1'], ['users/ann', 'one'], ['users/n', '2']]);

/** Gives a token, as one who is asked for it. */
async function use(tab, token) {
  const dialog = tab.dialog('Token');
  await dialog.getByLabel('Token', { exact: true }).fill(token);
  await dialog.getByRole('button', { name: 'Use token' }).click();
}

/** Whether the page asks for a token, once it has made up its mind. */
const asks = tab => until(async () => await tab.dialog('Token').isVisible() || (await tab.rows()).length > 0)
  .then(() => tab.dialog('Token').isVisible());

/** A token is asked for once, and kept for the tab. */
export async function token(scene) {
  const { checks } = scene;
  const store = await open(scene);
  await store.put('dot.png', PNG, { type: 'image/png' });
  await store.put('large', Buffer.alloc(2 << 20, 'x'));
  const user = await scene.user();
  const tab = await scene.tab(store, { user, fragment: '#/kv/city' });
  checks.check('a token is asked for', true, await asks(tab));
  checks.check('nobody sees it typed', 'password', await tab.dialog('Token').getByLabel('Token', { exact: true }).getAttribute('type'));
  await use(tab, 'token-of-nobody-at-all');
  await checks.becomes('a wrong one is told, and what to do', true, () => tab.warns('token'));
  await checks.becomes('and it can be tried again', true, () => tab.dialog('Token').isVisible());
  await use(tab, 'token\u200Bof-a-bad-copy');
  await checks.becomes('one that no request can have is asked for again', true, () => tab.dialog('Token').isVisible());
  await use(tab, ALL);
  await checks.becomes('with the right one the key is there', ['city', 'Nairobi'], async () => [await tab.key(), await tab.text()]);
  await checks.becomes('and it is live', 'live', () => tab.connection.textContent());
  await tab.page.reload();
  checks.check('a reload does not ask again', false, await asks(tab));
  await checks.becomes('and shows the key', 'Nairobi', () => tab.text());
  await store.put('city', 'Mombasa');
  await checks.becomes('live, by a watch with the token', 'Mombasa', () => tab.text());

  checks.check('the curl line has no token in it', false, (await tab.curl.textContent()).includes(ALL));
  checks.check('and takes it from the environment', bytesOf('Mombasa'), await scene.runs(tab));
  await tab.openKey('dot.png');
  await checks.becomes('images are shown', true, () => tab.shown.getByRole('img').evaluate(image => image.naturalWidth > 0));
  await tab.openKey('large');
  const link = tab.page.getByRole('link', { name: 'Download' });
  const [download] = await Promise.all([tab.page.waitForEvent('download'), link.click()]);
  checks.check('and a link gives its value', 2 << 20, fs.statSync(await download.path()).size);
  const [all] = await Promise.all([tab.page.waitForEvent('download'), tab.button('Export').click()]);
  checks.check('an export too', await store.entries(), fs.readFileSync(await all.path(), 'utf8').split('\n').filter(Boolean).sort());

  const kept = await tab.page.evaluate(() => JSON.stringify([location.href, document.cookie, { ...localStorage }]));
  checks.check('it is in no address, cookie or storage that lasts', false, kept.includes(ALL));
  checks.check('nor in what is asked for', [], tab.requests.filter(({ target }) => target.includes(ALL)));
  const other = await scene.tab(store, { user });
  checks.check('another tab asks again', true, await asks(other));

  store.allow([`${READER} ro`, USERS]);
  store.token = READER;
  await tab.openKey('count');
  await until(async () => {
    // A changed file counts within a moment.
    await tab.page.reload();
    return asks(tab);
  });
  checks.check('once a token is known no more, another is asked for', true, await tab.dialog('Token').isVisible());
  await use(tab, READER);
  await checks.becomes('and serves', '1', async () => (await tab.shown.textContent()).match(/\d+/)?.[0]);
}

/** Who gives no token is left alone. */
export async function noToken(scene) {
  const { checks } = scene;
  const store = await open(scene);
  const tab = await scene.blank(store);
  await tab.page.clock.install();
  await tab.open('#/kv/city');
  await tab.dialog('Token').getByRole('button', { name: 'Cancel' }).click();
  await tab.dialog('Token').waitFor({ state: 'hidden' });
  const mark = tab.requests.length;
  await tab.page.clock.runFor(20_000);
  checks.check('it is not asked for again by itself', [0, true], [await tab.page.getByRole('dialog').count(), await tab.warns('token')]);
  checks.check(`nor does the page ask on (${tab.requests.length - mark} requests)`, true, tab.requests.length - mark < 5);
  await tab.button('Token').click();
  await use(tab, ALL);
  await checks.becomes('and can be given later', 'Nairobi', async () => { await tab.page.clock.runFor(500); return tab.text(); });
}

/** One who may only read is not offered more. */
export async function reader(scene) {
  const { checks } = scene;
  const store = await open(scene);
  const tab = await scene.tab(store, { fragment: '#/kv/count' });
  await use(tab, READER);
  await checks.becomes('one who may read sees the value', true, async () => /\b1\b/.test(await tab.shown.textContent()));
  await tab.item('users/').click();
  await tab.item('ann').waitFor();
  const offered = async () => {
    const counts = await Promise.all(WRITES.map(name => tab.button(name).count()));
    return WRITES.filter((_, at) => counts[at]);
  };
  await checks.becomes('and no button that writes', [], offered);
  for (const key of ['e', 'd', 'n', 't']) await tab.page.keyboard.press(key);
  checks.check('nor do letters', [0, 0], await Promise.all([tab.editor.count(), tab.page.getByRole('dialog').count()]));
  checks.check('what reads is there', [1, 1], await Promise.all(['Export', 'Copy curl'].map(name => tab.button(name).count())));
  const mark = tab.requests.length;
  const file = await tab.page.evaluateHandle(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(['x'], 'dropped'));
    return transfer;
  });
  await tab.page.dispatchEvent('main', 'drop', { dataTransfer: file });
  checks.check('a drop stores nothing', [null, []], [await store.value('dropped'), tab.since(mark, ({ method }) => method === 'PUT')]);

  const all = await scene.tab(store, { fragment: '#/kv/count' });
  await use(all, ALL);
  await checks.becomes('one who may do all has the others', WRITES.filter(name => name !== 'Delete prefix'), async () => {
    const counts = await Promise.all(WRITES.map(name => all.button(name).count()));
    return WRITES.filter((name, at) => counts[at] && name !== 'Delete prefix');
  });
}

/** One whose rights end with a prefix. */
export async function bounded(scene) {
  const { checks } = scene;
  const store = await open(scene);
  const tab = await scene.tab(store);
  await use(tab, USERS);
  await checks.becomes('one of a prefix sees its keys', true, async () => (await tab.rows()).includes('users/'));
  checks.check('what is not theirs is not offered', [0, 0, 0, 0],
    await Promise.all(['Upload', 'Import', 'Export', 'Copy curl'].map(name => tab.button(name).count())));
  checks.check('and no others', ['users/'], (await tab.rows()).filter(row => ['city', 'count', 'users/'].includes(row)));
  await tab.openKey('users/ann');
  await tab.button('Edit').click();
  await tab.editor.fill('two');
  await tab.button('Save').click();
  await checks.becomes('those can be changed', bytesOf('two'), () => store.value('users/ann'));
  await tab.open('#/kv/city');
  await checks.becomes('of another key it says what to do', true, () => tab.warns('token'));
  checks.check('and shows nothing', false, (await tab.page.textContent('body')).includes('Nairobi'));
  await tab.button('New key').click();
  await tab.dialog('New key').getByRole('textbox', { name: 'Key' }).fill('outside');
  await tab.dialog('New key').getByRole('button', { name: 'Create', exact: true }).click();
  if (await until(async () => await tab.editor.isVisible() || await tab.warns('right')) && await tab.editor.isVisible()) {
    await tab.editor.fill('x');
    await tab.button('Save').click();
  }
  await checks.becomes('what it has no right to do is told in the words of the store', true, () => tab.warns('right'));
  checks.check('and not done', null, await store.value('outside'));
}
