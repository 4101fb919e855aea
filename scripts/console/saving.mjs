// Changes: two who save at once, deletions and their undoing, prefixes, counters.

import { bytesOf } from './stores.mjs';
import { until } from './checks.mjs';

/** Opens a key in two tabs, each of a user of its own. */
async function two(scene, store, key) {
  const tabs = [await scene.tab(store), await scene.tab(store)];
  for (const tab of tabs) await tab.openKey(key);
  return tabs;
}

const begin = async (tab, text) => {
  await tab.button('Edit').click();
  await tab.editor.fill(text);
};

/** Saving is compare-and-set. */
export async function saving(scene) {
  const { checks } = scene;
  const store = await scene.store();
  await store.put('city', 'Nairobi', { type: 'text/plain' });
  const [ann, bob] = await two(scene, store, 'city');
  const dialog = ann.dialog('Changed by somebody else');
  const choose = name => dialog.getByRole('button', { name, exact: true }).click();

  await begin(ann, 'Mombasa');
  await begin(bob, 'Kisumu');
  await bob.button('Save').click();
  await checks.becomes('who saves first is first', bytesOf('Kisumu'), () => store.value('city'));
  await checks.becomes('what the other types stays', 'Mombasa', () => ann.editor.inputValue());
  await ann.button('Save').click();
  await dialog.waitFor();
  checks.check('the second overwrites nothing unseen', bytesOf('Kisumu'), await store.value('city'));
  await checks.becomes('but sees both', [true, true], async () => {
    const text = await dialog.textContent();
    return [text.includes('Kisumu'), text.includes('Mombasa')];
  });
  await choose('Keep theirs');
  await checks.becomes('theirs is shown', 'Kisumu', () => ann.text());
  checks.check('and kept', bytesOf('Kisumu'), await store.value('city'));

  await begin(ann, 'Mombasa');
  await store.put('city', 'Eldoret', { type: 'text/plain' });
  await ann.button('Save').click();
  await dialog.waitFor();
  await choose('Keep mine');
  await checks.becomes('mine is kept', bytesOf('Mombasa'), () => store.value('city'));
  await checks.becomes('and shown', 'Mombasa', () => ann.text());

  await begin(ann, 'Nakuru');
  await store.put('city', 'Thika', { type: 'text/plain' });
  await ann.button('Save').click();
  await dialog.getByText('Thika').first().waitFor();
  await store.put('city', 'Malindi', { type: 'text/plain' });
  await choose('Keep mine');
  await dialog.getByText('Malindi').first().waitFor();
  checks.check('a third change in between is not overwritten either', bytesOf('Malindi'), await store.value('city'));
  await choose('Keep mine');
  await checks.becomes('mine is kept in the end', bytesOf('Nakuru'), () => store.value('city'));

  await begin(ann, 'Kitale');
  await store.put('city', 'Nakuru', { type: 'text/markdown' });
  await ann.button('Save').click();
  await checks.becomes('a type that somebody else has given is kept', [bytesOf('Kitale'), 'text/markdown'],
    async () => [await store.value('city'), await store.field('city', 'content-type')]);
  await ann.button('Edit').waitFor();

  await begin(ann, 'Voi');
  await store.remove('city');
  await ann.button('Save').click();
  await dialog.waitFor();
  checks.check('what somebody has deleted does not come back unseen', null, await store.value('city'));
  await choose('Keep mine');
  await checks.becomes('but as one wants it', bytesOf('Voi'), () => store.value('city'));
  await begin(ann, 'Lamu');
  await store.remove('city');
  await ann.button('Save').click();
  await dialog.waitFor();
  await choose('Keep theirs');
  await checks.becomes('or stays away', true, () => ann.page.getByText('key not found').isVisible());
  checks.check('and nothing is stored', null, await store.value('city'));
}

/** A new key does not overwrite one that is there. */
export async function creating(scene) {
  const { checks } = scene;
  const store = await scene.store();
  await store.put('there', 'by others');
  const tab = await scene.tab(store);
  const create = async (key, type) => {
    await tab.button('New key').click();
    const dialog = tab.dialog('New key');
    await dialog.getByRole('textbox', { name: 'Key' }).fill(key);
    if (type) await dialog.getByLabel('Type').fill(type);
    await dialog.getByRole('button', { name: 'Create', exact: true }).click();
  };
  await create('made/by hand', 'application/json');
  await tab.editor.fill('{"a":1}');
  await tab.button('Save').click();
  await checks.becomes('a key is made', [bytesOf('{"a":1}'), 'application/json'],
    async () => [await store.value('made/by hand'), await store.field('made/by hand', 'content-type')]);
  await checks.becomes('it is open', 'made/by hand', () => tab.key());
  await checks.becomes('the address has it', `${store.url}/#/kv/made/by%20hand`, () => tab.page.url());
  await checks.becomes('and the tree', 1, () => tab.item('made/').count());

  await store.put('edited', 'one');
  await tab.openKey('edited');
  await begin(tab, 'typed for long');
  await create('edited');
  await checks.becomes('one that is being edited is gone on with', 'typed for long', () => tab.editor.inputValue());
  await tab.button('Cancel').click();
  await tab.button('Edit').waitFor();

  await create('there');
  if (await until(async () => await tab.editor.isVisible() || await tab.alert.first().isVisible()) && await tab.editor.isVisible()) {
    await tab.editor.fill('over it');
    await tab.button('Save').click();
  }
  await checks.becomes('one that is there is told', true, async () =>
    await tab.dialog('Changed by somebody else').isVisible() || await tab.warns());
  checks.check('and not overwritten', bytesOf('by others'), await store.value('there'));
}

/** A deletion can be undone: value, type and TTL come back. */
export async function undoing(scene) {
  const { checks } = scene;
  const store = await scene.store();
  const binary = Buffer.from(Array.from({ length: 300_000 }, (_, n) => (n * 7 + (n >> 8)) % 256));
  const values = [
    ['text', Buffer.from('Zürich\r\n\n'), 'text/x-own; charset=utf-8'],
    ['json', Buffer.from('{ "a":1.0 }'), 'application/json'],
    ['binary', binary, 'application/octet-stream'],
    ['large', Buffer.concat([binary, binary, binary, binary, binary, binary]), 'image/png'],
  ];
  const tab = await scene.tab(store);
  for (const [key, body, type] of values) {
    await store.put(key, body, { type, ttl: '800s' });
    await tab.openKey(key);
    await tab.button('Delete').click();
    await checks.becomes(`${key} is deleted`, null, () => store.value(key));
    await checks.becomes('    which is told', true, () => tab.says('deleted'));
    await tab.button('Undo').click();
    await checks.becomes('    undone, its bytes are back', body.toString('latin1'), () => store.value(key));
    checks.check('    its type', type, await store.field(key, 'content-type'));
    const left = Number(await store.field(key, 'ttl'));
    checks.check(`    its TTL (${left})`, true, left > 0 && left <= 800);
    await checks.becomes('    which is told', true, () => tab.says('restored'));
  }
  await store.put('forever', 'without a TTL');
  await tab.openKey('forever');
  await tab.button('Delete').click();
  await checks.becomes('a key without a TTL is deleted', null, () => store.value('forever'));
  await tab.button('Undo').click();
  await checks.becomes('and back', bytesOf('without a TTL'), () => store.value('forever'));
  await until(() => tab.says('restored'));
  checks.check('without one', undefined, await store.field('forever', 'ttl'));

  await tab.openKey('text');
  await tab.button('Delete').click();
  await checks.becomes('somebody makes a deleted key anew', null, () => store.value('text'));
  await store.put('text', 'made anew');
  await tab.button('Undo').click();
  await checks.becomes('then undoing tells of it', true, () => tab.warns());
  checks.check('and overwrites nothing', bytesOf('made anew'), await store.value('text'));

  await tab.openKey('json');
  await store.put('json', '{"changed":true}', { type: 'application/json' });
  await tab.button('Delete').click();
  await checks.becomes('what was changed since it was seen is deleted as it was seen, or not at all', true, async () => {
    const value = await store.value('json');
    return value === null || await tab.warns() || tab.dialog('Changed by somebody else').isVisible();
  });
  if (await tab.dialog('Changed by somebody else').isVisible()) await tab.page.keyboard.press('Escape');

  const other = await scene.blank(store, { isPunctual: true });
  await other.page.clock.install();
  await other.openKey('binary');
  await other.button('Delete').click();
  await checks.becomes('a last one is deleted', true, () => other.says('deleted'));
  await other.page.clock.runFor(10_000);
  await checks.becomes('after ten seconds it cannot be undone', 0, () => other.button('Undo').count());
  checks.check('and is gone', null, await store.value('binary'));
}

/** A prefix is deleted once its count is typed in. */
export async function prefixes(scene) {
  const { checks } = scene;
  const many = [...Array(1234).keys()].map(n => [`tmp/${n}`, 'x']);
  const store = await scene.store({}, [...many, ['tm', 'stays'], ['tmpx', 'stays'], ['é#?/1', 'x']]);
  const tab = await scene.tab(store);
  await tab.item('tmp/').waitFor();
  const dialog = tab.dialog('Delete prefix');
  const go = dialog.getByRole('button', { name: 'Delete keys', exact: true });
  const number = dialog.getByLabel('Number of keys');
  await tab.search.fill('tmp/');
  await tab.button('Delete prefix').click();
  await checks.becomes('it says how many and which', [true, true], async () => {
    const text = await dialog.textContent();
    return [/1,?234/.test(text), text.includes('tmp/')];
  });
  await go.click();
  checks.check('nothing can be deleted yet', [true, 1237], [await dialog.isVisible(), await store.count()]);
  await number.fill('123');
  await go.click();
  checks.check('nor with another count', [true, 1237], [await dialog.isVisible(), await store.count()]);
  await number.press('Enter');
  checks.check('nor by Enter', 1237, await store.count());
  await number.fill('1234');
  await go.click();
  await checks.becomes('with the count it is', 0, () => store.count('tmp/'));
  await checks.becomes('which is told', true, () => tab.says('deleted'));
  checks.check('the others stay', [bytesOf('stays'), bytesOf('stays')], await Promise.all(['tm', 'tmpx'].map(key => store.value(key))));
  await tab.search.fill('');
  await checks.becomes('and the tree shows them', ['tm', 'tmpx', 'é#?/'], () => tab.rows());
  await tab.search.fill('é#?/');
  await tab.button('Delete prefix').click();
  await number.fill('1');
  await go.click();
  await checks.becomes('a prefix has any letters', 2, () => store.count());
}

/** Counters by two at once. */
export async function counters(scene) {
  const { checks } = scene;
  const store = await scene.store();
  await store.put('visits', '0');
  const tabs = await two(scene, store, 'visits');
  const [ann] = tabs;
  await Promise.all(tabs.map(async tab => {
    for (let times = 0; times < 15; times += 1) await tab.button('Add 1').click();
    for (let times = 0; times < 5; times += 1) await tab.button('Subtract 1').click();
  }));
  await checks.becomes('two who count at once lose nothing', '20', () => store.value('visits'));
  if (scene.isLive) {
    for (const tab of tabs) await checks.becomes('each sees the number', '20', async () => (await tab.shown.textContent()).match(/-?\d+/)?.[0]);
  }
  for (const [key, value, next] of [['big', '9007199254740993', '9007199254740994'], ['below', '-1', '0']]) {
    await store.put(key, value, { ttl: '700s' });
    await ann.openKey(key);
    await ann.button('Add 1').click();
    await checks.becomes(`${value} and 1`, next, () => store.value(key));
    await checks.becomes('    is shown', next, async () => (await ann.shown.textContent()).match(/-?\d+/)?.[0]);
    checks.check('    and keeps its TTL', true, Number(await store.field(key, 'ttl')) > 0);
  }
  await store.put('end', '9223372036854775807');
  await ann.openKey('end');
  await ann.button('Add 1').click();
  await checks.becomes('past 64 bits the store says why not', true, () => ann.warns());
  checks.check('and nothing has changed', '9223372036854775807', await store.value('end'));
  for (const value of ['no number', '1.5', '+5', ' 7', '99999999999999999999']) {
    await store.put('other', value);
    await ann.open('#/');
    await ann.openKey('other');
    await checks.becomes(`${JSON.stringify(value)} is shown`, value, () => ann.text());
    checks.check('    without the buttons of a counter', 0, await ann.button('Add 1').count());
  }
}
