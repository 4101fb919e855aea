// Ways of use: by keyboard alone, on a phone, without motion, over a name without TLS.

import { bytesOf } from './stores.mjs';
import { until } from './checks.mjs';

/** The text that was copied last. */
const copied = tab => tab.page.evaluate(() => navigator.clipboard.readText());

/** Whatever has the focus: its name, and whether that is to be seen. */
const focusOf = tab => tab.page.evaluate(() => {
  const element = document.activeElement;
  const active = document.getElementById(element.getAttribute('aria-activedescendant'));
  const style = getComputedStyle(active ?? element);
  const isShown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none';
  const name = element.getAttribute('aria-label') || element.textContent.trim() || element.id;
  return element === document.body ? null : { name, isShown };
});

/** All of it without a mouse. */
export async function keyboard(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['a', 'one'], ['count', '1'], ['users/ann', 'one'], ['users/bob', 'one']]);
  const tab = await scene.tab(store);
  const press = async (...keys) => { for (const key of keys) await tab.page.keyboard.press(key); };
  const type = text => tab.page.keyboard.type(text);
  const focusIs = locator => locator.evaluate(element => element === document.activeElement);
  await tab.item('a').waitFor();

  await press('Shift+?');
  const help = tab.dialog('Keyboard');
  await checks.becomes('? shows how', true, () => help.isVisible());
  const text = await help.textContent();
  checks.check('with each key', [], ['?', '/', 'Enter', 'e', 'Ctrl', 'Esc', 'd', 'u', 'n', 't', 'c'].filter(key => !text.includes(key)));
  await press('Escape');
  await checks.becomes('Escape closes it', false, () => help.isVisible());

  await press('/');
  await checks.becomes('/ goes to the filter', true, () => focusIs(tab.search));
  await type('edn?');
  checks.check('where letters are letters', 'edn?', await tab.search.inputValue());
  checks.check('and do nothing else', 0, await tab.page.getByRole('dialog').count());
  await press('ControlOrMeta+a', 'Backspace');
  await tab.item('a').waitFor();

  await press('Tab');
  await until(() => tab.row());
  const at = async () => (await tab.row()).id;
  await press('Home');
  const first = await until(async () => (await tab.row()).id, id => id === '1 1 a');
  await press('ArrowDown');
  await checks.becomes('Down goes on', true, async () => await at() !== first);
  await press('ArrowUp');
  await checks.becomes('Up goes back', first, at);
  await press('End', 'ArrowRight');
  await checks.becomes('Right opens a folder', ['a', 'count', 'users/', 'ann', 'bob'], () => tab.rows());
  await press('ArrowLeft');
  await checks.becomes('Left closes it', ['a', 'count', 'users/'], () => tab.rows());
  await press('ArrowRight');
  await tab.item('ann').waitFor();
  await press('ArrowRight', 'Enter');
  await checks.becomes('Enter opens a key', 'users/ann', () => tab.key());

  await press('c');
  await checks.becomes('c copies the curl line', await tab.curl.textContent(), () => copied(tab));
  await checks.becomes('which is told', true, () => tab.says('copied'));
  await tab.text();
  await press('e');
  await checks.becomes('e edits', true, () => focusIs(tab.editor));
  await press('ControlOrMeta+a');
  await type('two d?');
  await press('Control+Enter');
  await checks.becomes('Ctrl-Enter saves', bytesOf('two d?'), () => store.value('users/ann'));
  await checks.becomes('and shows it', 'two d?', () => tab.text());
  await press('e');
  await tab.editor.waitFor();
  await type('not to be saved');
  await press('Escape');
  await checks.becomes('Escape cancels', [0, 'two d?'], async () => [await tab.editor.count(), await tab.text()]);
  checks.check('and saves nothing', bytesOf('two d?'), await store.value('users/ann'));
  await tab.button('Change TTL').waitFor();

  await press('t');
  await tab.dialog('Change TTL').waitFor();
  await press('ControlOrMeta+a');
  await type('600s');
  await press('Enter');
  await checks.becomes('t changes the TTL', true, async () => Number(await store.field('users/ann', 'ttl')) > 0);
  await tab.dialog('Change TTL').waitFor({ state: 'hidden' });
  await press('d');
  await checks.becomes('d deletes', null, () => store.value('users/ann'));
  await tab.button('Undo').waitFor();
  await press('u');
  await checks.becomes('u brings it back', bytesOf('two d?'), () => store.value('users/ann'));
  await until(() => tab.says('restored'));

  await press('n');
  await tab.dialog('New key').waitFor();
  // It begins with the prefix that one is at.
  await press('ControlOrMeta+a');
  await type('made/by keys');
  await press('Enter');
  await checks.becomes('n makes a key', true, () => focusIs(tab.editor));
  await type('typed');
  await press('Control+Enter');
  await checks.becomes('which is stored', bytesOf('typed'), () => store.value('made/by keys'));
  await tab.button('Edit').waitFor();
  await press('e');
  await tab.editor.waitFor();
  await press('Escape');
  await tab.button('Edit').waitFor();
  for (const keys of ['Control+d', 'Alt+d', 'Control+e', 'Meta+n']) await press(keys);
  checks.check('letters with other keys are not ours', [0, 0], await Promise.all([tab.editor.count(), tab.page.getByRole('dialog').count()]));
  checks.check('and change nothing', bytesOf('typed'), await store.value('made/by keys'));

  // Whatever can be clicked can be reached, and shows that it has the focus.
  await tab.openKey('count');
  await tab.button('Add 1').waitFor();
  const seen = new Set();
  const hidden = [];
  await press('/');
  for (let steps = 0; steps < 60; steps += 1) {
    await press('Tab');
    const focus = await until(() => focusOf(tab), focus => !focus || focus.isShown);
    if (!focus) continue;
    if (seen.has(focus.name)) break;
    seen.add(focus.name);
    if (!focus.isShown) hidden.push(focus.name);
  }
  checks.check('Tab shows where it is', [], hidden);
  const buttons = await tab.page.getByRole('button').filter({ visible: true }).evaluateAll(all => all
    .filter(button => !button.disabled).map(button => button.getAttribute('aria-label') || button.textContent.trim()));
  checks.check('and reaches each button', [], buttons.filter(name => !seen.has(name)));
}

/** A phone: one pane at a time, and nothing wider than the screen. */
export async function phone(scene) {
  const { checks } = scene;
  const long = `path/${'very-long-segment-'.repeat(20)}end`;
  const store = await scene.store({}, [['a', 'one'], ['count', '7'], ['wide', `${'w'.repeat(4000)}\n`], [long, 'x'], ['\u202Eturned', 'x']]);
  await store.put('json', `{"a":"${'long '.repeat(400)}"}`, { type: 'application/json' });
  await store.put('binary', Buffer.alloc(2000, 0xff));
  const tab = await scene.tab(store, { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
  const fits = async what => {
    const width = await tab.page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth));
    checks.check(`${what} is not wider than a phone`, true, width <= 360);
  };
  await tab.item('a').waitFor();
  await fits('the list');
  checks.check('the list is alone', false, await tab.heading.isVisible());
  for (const key of ['wide', 'json', 'binary', 'count', long, '\u202Eturned']) {
    await tab.openKey(key);
    await until(() => tab.fact('Size'));
    await fits(key.slice(0, 10));
  }
  checks.check('a key is alone', false, await tab.tree.isVisible());
  await tab.page.getByRole('link', { name: 'Back to keys' }).or(tab.button('Back to keys')).tap();
  await checks.becomes('and leads back to the list', true, () => tab.tree.isVisible());
  await tab.item('a').tap();
  await checks.becomes('a tap opens a key', 'one', () => tab.text());
  await tab.button('Edit').tap();
  await tab.editor.waitFor();
  await fits('the editor');
  await tab.editor.fill('two');
  await tab.button('Save').tap();
  await checks.becomes('and it can be changed', bytesOf('two'), () => store.value('a'));
  const letters = await tab.search.or(tab.editor).evaluateAll(fields => fields.map(field => parseFloat(getComputedStyle(field).fontSize)));
  checks.check('fields have letters of 16 px, or a phone zooms in', [], letters.filter(size => size < 16));
}

/** Reduced motion, and the two schemes. */
export async function motion(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['users/ann', 'one'], ['a', 'one']]);
  const tab = await scene.tab(store, { reducedMotion: 'reduce', fragment: '#/kv/a' });
  await checks.becomes('a key is open', 'one', () => tab.text());
  await tab.item('users/').click();
  const moving = () => tab.page.evaluate(() => [...document.querySelectorAll('*')].filter(element => {
    const style = getComputedStyle(element);
    const longest = list => Math.max(...list.split(',').map(parseFloat));
    return longest(style.transitionDuration) > 0.01 || (style.animationName !== 'none' && longest(style.animationDuration) > 0.01)
      || style.scrollBehavior === 'smooth';
  }).map(element => element.tagName));
  checks.check('with reduced motion nothing moves', [], await moving());
  await tab.button('Help').click();
  checks.check('nor does a dialog', [], await moving());
  await tab.page.keyboard.press('Escape');

  const grounds = {};
  for (const scheme of ['light', 'dark']) {
    await tab.page.emulateMedia({ colorScheme: scheme });
    grounds[scheme] = await tab.page.evaluate(() => {
      const colours = [document.body, document.documentElement].map(element => getComputedStyle(element).backgroundColor);
      const [colour] = colours.filter(colour => colour !== 'rgba(0, 0, 0, 0)');
      const context = document.createElement('canvas').getContext('2d');
      context.fillStyle = colour ?? 'white';
      context.fillRect(0, 0, 1, 1);
      const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
      return (red + green + blue) / 3;
    });
  }
  checks.check('one scheme is light and one is dark', [true, true], [grounds.light > 200, grounds.dark < 60]);
}

/** By a name and without TLS a page has no clipboard, and tells no site of its own. */
export async function plainName(scene) {
  const { checks } = scene;
  const store = await scene.store({ flags: ['--allow-host', 'lkv.example'] }, [['a', 'one'], ['count', '1']]);
  const tab = await scene.blank(store);
  tab.origin = `http://lkv.example:${store.port}`;
  await tab.open('#/kv/count');
  await tab.button('Add 1').click();
  await checks.becomes('a counter counts', '2', () => store.value('count'));
  // What the page tells of that comes before the next.
  await checks.becomes('which is shown', '2', async () => (await tab.shown.textContent()).match(/-?\d+/)?.[0]);
  checks.check('the page has no clipboard of its own', false, await tab.page.evaluate(() => window.isSecureContext));
  await tab.button('Copy curl').click();
  await checks.becomes('and copies all the same', true, () => tab.says('copied'));
  await tab.search.click();
  await tab.page.keyboard.press('ControlOrMeta+v');
  checks.check('the curl line', await tab.curl.textContent(), await tab.search.inputValue());
  checks.check('which names the store as the page does', true, (await tab.curl.textContent()).includes(`lkv.example:${store.port}/kv/count`));
  await tab.open('#/kv/a');
  await tab.button('Edit').click();
  await tab.editor.fill('two');
  await tab.button('Save').click();
  await checks.becomes('a value is saved', bytesOf('two'), () => store.value('a'));
  await checks.becomes('and it is live', 'live', () => tab.connection.textContent());
}
