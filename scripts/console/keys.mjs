// Keys of every kind: each opens by its address and in the tree, and is what it is.

import { bytesOf } from './stores.mjs';
import { until } from './checks.mjs';
import { fragmentOf } from './tab.mjs';

const ODD = [
  '🦁', 'Zürich/Straße', 'line one\nline two', '\n', 'tab\there', 'a/b/c', '/first', 'last/', '//', 'a//b', ':', 'a::b', ':/',
  '100%', '%41', '%', '#', '#/kv/a', '?', 'a?b=c&d', '&amp;', '+', 'a+b', '"double"', "it's", '`id`', '$HOME', '$(id)', '\\n', '!x',
  '<script>alert(1)</script>', '<img src=x onerror=alert(1)>', ' before', 'after ', ' ', '  two  ', '.', '..', '../up', 'a/../b', './a',
  '{a,b}', '[1-3]', '*', '~', '|', ';', '-', '--help', '\u202Eright to left', '\u200B', '\uFEFFmark', 'e\u0301', 'é',
  'constructor', '__proto__', 'k'.repeat(1024), '長'.repeat(341),
];

// A browser takes these for steps in a path, so it cannot ask for them.
const UNNAMED = ['.', '..'];

/** Each opens by its address, with its value, and its curl line gives that as well. */
export async function keys(scene) {
  const { checks } = scene;
  const store = await scene.store({}, ODD.map(key => [key, `value of ${key}`]));
  const tab = await scene.tab(store);
  for (const key of ODD) {
    const name = JSON.stringify(key.length > 40 ? `${key.slice(0, 40)}...` : key);
    const value = `value of ${key}`;
    await tab.open(fragmentOf(key));
    if (UNNAMED.includes(key)) {
      await checks.becomes(`${name} cannot be asked for, which is told`, [key, true], async () => [await tab.key(), await tab.warns('curl')]);
    } else {
      await checks.becomes(`${name} opens`, [key, value], async () => [await tab.key(), await tab.text()]);
    }
    checks.check('    its title has it', true, (await tab.page.title()).endsWith('- Little Key-Value Store'));
    checks.check('    its curl line gives its value', bytesOf(value), await scene.runs(tab));
  }
}

/** Each is found in the tree, by keys alone. */
export async function walk(scene) {
  const { checks } = scene;
  const store = await scene.store({}, ODD.map(key => [key, 'x']));
  const tab = await scene.tab(store);
  await tab.tree.getByRole('treeitem').first().waitFor();
  const found = await walkThrough(tab);
  checks.check('the tree has each key once', [...ODD].sort(), found.sort());
}

/** Goes through the tree from its first row to its last, opens all, and gives the keys. */
async function walkThrough(tab) {
  const { page } = tab;
  const found = [];
  await page.keyboard.press('/');
  await page.keyboard.press('Tab');
  await until(() => tab.row());
  await page.keyboard.press('Home');
  for (let row = await tab.row(), steps = 0; row && steps < 300; steps += 1) {
    if (row.expanded === 'false') {
      await page.keyboard.press('ArrowRight');
      await until(async () => (await tab.row())?.hasRows);
    } else if (row.expanded === null) {
      const before = page.url();
      await page.keyboard.press('Enter');
      await until(() => page.url() !== before);
      const key = decodeURIComponent(page.url().split('#/kv/')[1]);
      await until(async () => await tab.key() === key);
      found.push(await tab.key());
    }
    await page.keyboard.press('ArrowDown');
    if (found.length === ODD.length) break;
    const { id } = row;
    row = await until(() => tab.row(), next => next?.id !== id);
  }
  return found;
}

/** What is done to keys that a browser would resolve or cut: written, deleted, undone. */
export async function oddWrites(scene) {
  const { checks } = scene;
  const changed = ['a/../b', './a', '#', '100%', 'line one\nline two', ' ', '//', 'last/', "it's", '長'.repeat(341)];
  const store = await scene.store({}, changed.map(key => [key, 'before']));
  const tab = await scene.tab(store);
  for (const key of changed) {
    const name = JSON.stringify(key.slice(0, 20));
    await tab.openKey(key);
    await tab.button('Edit').click();
    await tab.editor.fill(`changed ${key}`);
    await tab.button('Save').click();
    await checks.becomes(`${name} is saved`, bytesOf(`changed ${key}`), () => store.value(key));
    await tab.button('Delete').click();
    await checks.becomes('    and deleted', null, () => store.value(key));
    await tab.button('Undo').click();
    await checks.becomes('    and back', bytesOf(`changed ${key}`), () => store.value(key));
    await until(() => tab.says('restored'));
  }
  checks.check('no other key was made', changed.length, await store.count());

  await tab.button('New key').click();
  const dialog = tab.dialog('New key');
  await dialog.getByRole('textbox', { name: 'Key' }).fill('new/../#key? %41');
  await dialog.getByRole('button', { name: 'Create', exact: true }).click();
  await tab.editor.fill('made');
  await tab.button('Save').click();
  await checks.becomes('a new key is what was typed', bytesOf('made'), () => store.value('new/../#key? %41'));
}
