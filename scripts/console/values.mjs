// Values of every kind: how each is shown, edited and saved; the facts beside it.

import crypto from 'node:crypto';
import fs from 'node:fs';
import { PNG, bytesOf } from './stores.mjs';
import { until } from './checks.mjs';

const MIB = 1 << 20;

const etagOf = bytes => crypto.createHash('sha256').update(bytes).digest('hex').slice(0, 32);

/** Edits the open key to a text, and saves it. */
async function save(tab, text) {
  await tab.button('Edit').click();
  await tab.editor.fill(text);
  await tab.button('Save').click();
}

/** Text: as it is, and back as it was but for what was typed. */
export async function texts(scene) {
  const { checks } = scene;
  const store = await scene.store();
  const tab = await scene.tab(store);
  for (const [name, text] of [
    ['one line', 'Nairobi'], ['newlines at both ends', '\n\nbetween\n\n'], ['spaces and tabs', '  two\t\ttabs  '],
    ['CRLF', 'one\r\ntwo\r\n'], ['mixed line ends', 'one\r\ntwo\nthree\rfour\n\r'], ['a mark of byte order', '\uFEFFmarked'], ['any alphabet', 'Zürich 長 🦁 e\u0301'],
    ['a single space', ' '], ['markup', '<b onclick="x()">bold</b>&amp;</pre>'], ['many lines', 'line\n'.repeat(15_000)],
    ['what begins as JSON and is none', '[main]\nport = 1\n'],
  ]) {
    await store.put('text', text, { type: 'text/plain; charset=utf-8' });
    await tab.open('#/');
    await tab.openKey('text');
    await checks.becomes(`${name}: it is shown as it is`, text.replace(/\r\n?/g, '\n'), async () => (await tab.text()).replace(/\r\n?/g, '\n'));
    await tab.button('Edit').click();
    // As one who types a letter at its end.
    await tab.editor.press('ControlOrMeta+End');
    await tab.editor.pressSequentially('!');
    await tab.button('Save').click();
    await checks.becomes('    with what was typed it is saved, and else as it was', bytesOf(`${text}!`), () => store.value('text'));
    await checks.becomes('    which is told', true, () => tab.says('saved'));
  }
  await store.put('text', 'one\r\ntwo', { type: 'text/plain' });
  await tab.openKey('text');
  await checks.becomes('where all lines end with CRLF', 'one two', async () => (await tab.text()).replace(/\s+/, ' '));
  await save(tab, 'one\ntwo\nthree');
  await checks.becomes('    so does a new one', 'one\r\ntwo\r\nthree', () => store.value('text'));
  await store.put('log', 'line\n'.repeat(25_000));
  await tab.openKey('log');
  await tab.page.getByRole('link', { name: 'Download' }).waitFor();
  checks.check('a text of 25,000 lines is not edited', 0, await tab.button('Edit').count());

  await store.put('note', 'as it is', { type: 'text/x-own; charset=utf-8', ttl: '500s' });
  await tab.openKey('note');
  await save(tab, 'changed');
  await checks.becomes('saving keeps the type', [bytesOf('changed'), 'text/x-own; charset=utf-8'],
    async () => [await store.value('note'), await store.field('note', 'content-type')]);
  const left = Number(await store.field('note', 'ttl'));
  checks.check(`and the TTL (${left})`, true, left > 0 && left <= 500);

  await store.put('note', 'changed', { type: 'text/x-own; note="it\'s"' });
  await tab.open('#/');
  await tab.openKey('note');
  await tab.button('Edit').click();
  await tab.editor.fill('not to be saved');
  scene.file('FILE', 'sent by curl');
  checks.check('the curl line of the editor sends a file', '', await scene.runs(tab));
  checks.check('with the type', [bytesOf('sent by curl'), 'text/x-own; note="it\'s"'],
    [await store.value('note'), await store.field('note', 'content-type')]);
  checks.check('and only once, for then it is another value', 'precondition failed\n', await scene.runs(tab));
  await store.put('note', 'changed');
  await tab.button('Cancel').click();
  await checks.becomes('a cancelled edit shows what is there', 'changed', () => tab.text());
  checks.check('and saves nothing', bytesOf('changed'), await store.value('note'));
  await tab.button('Edit').click();
  await tab.editor.fill('');
  await tab.button('Save').click();
  await checks.becomes('the store refuses an empty value, in its own words', true, () => tab.warns('value cannot be empty'));
  checks.check('and what was there stays', bytesOf('changed'), await store.value('note'));

  // curl puts the file's name behind a slash at the end.
  await store.put('folder/', 'as it is');
  await tab.openKey('folder/');
  await tab.button('Edit').click();
  checks.check('the curl line sends a file also where a key ends in a slash', '', await scene.runs(tab));
  checks.check('to that key', bytesOf('sent by curl'), await store.value('folder/'));
  await tab.button('Cancel').click();
}

/** JSON: shown formatted, checked before it is saved, saved as typed. */
export async function json(scene) {
  const { checks } = scene;
  const store = await scene.store();
  const raw = '{"b":[1.0,12345678901234567890,1e2,-0],"a":{"deep":{"er":null},"empty":{},"none":[]},'
    + '"a":"twice","text":"a: b, {c} \\"d\\" \\u00e9 \\n é","t":true}';
  await store.put('json', raw, { type: 'application/json' });
  const tab = await scene.tab(store);
  await tab.openKey('json');
  await checks.becomes('JSON is shown formatted', true, async () => (await tab.text()).split('\n').length > 8);
  const shown = await tab.text();
  // Outside of strings it has no spaces, so they can be taken out where lines begin, and behind a colon.
  const plain = shown.replace(/\n\s*/g, '').replaceAll('": ', '":');
  checks.check('and no number, name or letter of it is changed', raw, plain);
  checks.check('its curl line gives the bytes themselves', bytesOf(raw), await scene.runs(tab));
  await tab.button('Edit').click();
  checks.check('it is edited as it is stored', raw, await tab.editor.inputValue());

  await tab.editor.fill('{"a": 1,}');
  await tab.button('Save').click();
  await checks.becomes('JSON with a mistake is not saved', true, () => tab.warns('Not saved:'));
  checks.check('by the page itself', bytesOf(raw), await store.value('json'));
  checks.check('and can be mended', '{"a": 1,}', await tab.editor.inputValue());
  const typed = '{ "a" :  1,\n\n   "b":[ ]\t}\n';
  await tab.editor.fill(typed);
  await tab.button('Save').click();
  await checks.becomes('JSON is saved as typed', bytesOf(typed), () => store.value('json'));
  checks.check('with its type', 'application/json', await store.field('json', 'content-type'));
  checks.check('and the mistake is forgotten', false, await tab.warns('Not saved:'));

  await store.put('problem', '{"a":[{"b":1}]}', { type: 'application/problem+json' });
  await tab.openKey('problem');
  await checks.becomes('so is what a +json names', true, async () => (await tab.text()).split('\n').length > 3);
  for (const broken of ['{"a":1', '{"a":1}}', '[1 2]', '"x']) {
    await store.put('broken', broken, { type: 'application/json' });
    await tab.open('#/');
    await tab.openKey('broken');
    await checks.becomes(`what is called JSON and is none is shown as it is: ${broken}`, broken, () => tab.text());
  }
}

/** Images, and bytes that are no text. */
export async function bytes(scene) {
  const { checks } = scene;
  const store = await scene.store();
  const tab = await scene.tab(store);
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8" fill="teal"/></svg>';
  const image = tab.shown.getByRole('img');
  for (const [key, body, type] of [['pictures/dot.png', PNG, 'image/png'], ['pictures/square.svg', svg, 'image/svg+xml']]) {
    await store.put(key, body, { type });
    await tab.openKey(key);
    await image.waitFor();
    await checks.becomes(`${type} is shown`, true, () => image.evaluate(image => image.complete && image.naturalWidth > 0));
    checks.check('    with its key as text', key, await image.getAttribute('alt'));
    checks.check('    its curl line gives it', Buffer.from(body).toString('latin1'), await scene.runs(tab));
  }
  await store.put('torn.png', PNG.subarray(0, 20), { type: 'image/png' });
  await tab.openKey('torn.png');
  await checks.becomes('the type of an image that is none', 'image/png', () => tab.fact('Type'));

  const random = crypto.createHash('shake256', { outputLength: 3000 }).update('seed').digest();
  await store.put('binary', random, { type: 'application/octet-stream' });
  await tab.openKey('binary');
  const hex = tab.shown.getByLabel('Hex');
  await hex.waitFor();
  const pairs = (await hex.textContent()).split('\n').flatMap(line => hexOf(line));
  checks.check('of bytes the first KiB is shown in hex', random.subarray(0, 1024).toString('hex'), pairs.join(''));
  checks.check('bytes cannot be edited as text', 0, await tab.button('Edit').count());
  checks.check('their curl line gives them', random.toString('latin1'), await scene.runs(tab));
  const few = Buffer.from([0xff, 0x00, 0x0a]);
  await store.put('few', few);
  await tab.openKey('few');
  await checks.becomes('three bytes are three', 'ff000a', async () => (await hex.textContent()).split('\n').flatMap(hexOf).join(''));
}

// The bytes of a line of hex: pairs of digits behind an offset, and before their letters.
function hexOf(line) {
  const [, dump] = /^[0-9a-f]{4,8}:?\s+((?:[0-9a-f]{2}\s{1,3}){1,32})/.exec(`${line} `) ?? [];
  return dump ? dump.trim().split(/\s+/) : [];
}

/** Over 1 MiB a link, and nothing of it is fetched. */
export async function large(scene) {
  const { checks } = scene;
  const store = await scene.store();
  const text = 'a line of text\n'.repeat(80_000);
  const image = Buffer.concat([PNG, Buffer.alloc(2 * MIB)]);
  await store.put('large.txt', text, { type: 'text/plain' });
  await store.put('large.png', image, { type: 'image/png' });
  await store.put('edge', 'e'.repeat(MIB), { type: 'text/plain' });
  const tab = await scene.tab(store);
  for (const [key, body] of [['large.txt', text], ['large.png', image]]) {
    const mark = tab.requests.length;
    await tab.openKey(key);
    const link = tab.page.getByRole('link', { name: 'Download' });
    await link.waitFor();
    checks.check(`${key} is a link alone`, [0, 0, 0],
      await Promise.all([tab.shown.locator('pre').count(), tab.shown.getByRole('img').count(), tab.button('Edit').count()]));
    checks.check('    nothing of it is fetched', [], tab.since(mark, ({ method, path, fields }) =>
      method === 'GET' && path.startsWith('/kv/large') && !fields.range).map(({ target }) => target));
    checks.check('    its curl line gives it', Buffer.from(body).toString('latin1'), await scene.runs(tab));
    const [download] = await Promise.all([tab.page.waitForEvent('download'), link.click()]);
    checks.check('    and so does the link', Buffer.from(body).toString('latin1'), fs.readFileSync(await download.path(), 'latin1'));
    checks.check('    under the name of the key', key, download.suggestedFilename());
  }
  await tab.openKey('edge');
  await checks.becomes('1 MiB is shown', MIB, async () => (await tab.text()).length);
}

/** Type, size, ETag, and a TTL that counts down, can be changed, and taken away. */
export async function facts(scene) {
  const { checks } = scene;
  const store = await scene.store();
  await store.put('plain', 'Nairobi');
  await store.put('typed', '{"a":1}', { type: 'application/json', ttl: '900s' });
  await store.put('sized', 'x'.repeat(4096));
  const tab = await scene.tab(store);
  await tab.openKey('plain');
  await checks.becomes('type and ETag of a text', ['text/plain; charset=utf-8', true],
    async () => [await tab.fact('Type'), (await tab.fact('ETag')).includes(etagOf('Nairobi'))]);
  checks.check('its size', true, /^7 (B|bytes)$/.test(await tab.fact('Size')));
  checks.check('it never expires', false, /\d/.test(await tab.fact('TTL') ?? ''));
  await tab.openKey('sized');
  await checks.becomes('4 KiB', true, async () => /4,?096|4(\.0)? KiB/.test(await tab.fact('Size')));

  await tab.openKey('typed');
  await checks.becomes('type of JSON', 'application/json', () => tab.fact('Type'));
  const first = await until(async () => seconds(await tab.fact('TTL')));
  checks.check(`a TTL is told (${first} s)`, true, first > 0 && first <= 900);
  await checks.becomes('and counts down by itself', true, async () => seconds(await tab.fact('TTL')) <= first - 2);

  const dialog = tab.dialog('Change TTL');
  const field = dialog.getByRole('textbox', { name: 'TTL' });
  await tab.button('Change TTL').click();
  await field.fill('2h');
  await dialog.getByRole('button', { name: 'Set TTL' }).click();
  await checks.becomes('it can be changed', true, async () => Number(await store.field('typed', 'ttl')) > 7000);
  await checks.becomes('and is shown', true, async () => seconds(await tab.fact('TTL')) > 7000);
  await tab.button('Change TTL').click();
  await field.fill('soon');
  await dialog.getByRole('button', { name: 'Set TTL' }).click();
  checks.check('what is no time is not taken', true, await dialog.isVisible() || await until(() => tab.warns('ttl')));
  if (await dialog.isVisible()) await dialog.getByRole('button', { name: 'Cancel' }).click();
  checks.check('and changes nothing', true, Number(await store.field('typed', 'ttl')) > 7000);
  await tab.button('Change TTL').click();
  await dialog.getByRole('button', { name: 'Remove TTL' }).click();
  await checks.becomes('it can be taken away', undefined, () => store.field('typed', 'ttl'));
  checks.check('and nothing else has changed', [bytesOf('{"a":1}'), 'application/json'],
    [await store.value('typed'), await store.field('typed', 'content-type')]);
  await tab.openKey('plain');
  await tab.button('Change TTL').click();
  await field.fill('3s');
  await dialog.getByRole('button', { name: 'Set TTL' }).click();
  await checks.becomes('a key expires while one looks at it', true, () => tab.page.getByText('key not found').isVisible());
}

// A TTL in seconds, as it is shown: `59 s`, `1 h 59 min`.
function seconds(text) {
  const units = { d: 86_400, h: 3600, min: 60, m: 60, s: 1 };
  return [...(text ?? '').matchAll(/(\d+) ?(d|h|min|m|s)\b/g)].reduce((sum, [, n, unit]) => sum + n * units[unit], 0);
}
