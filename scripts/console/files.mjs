// Files: uploads by drop and by choice, export, import.

import fs from 'node:fs';
import path from 'node:path';
import { PNG, bytesOf } from './stores.mjs';
import { until } from './checks.mjs';

/** Drops files, or folders, as a person does from a file manager. */
async function drop(tab, ...files) {
  const session = await tab.page.context().newCDPSession(tab.page);
  const at = { x: 640, y: 500, data: { items: [], files, dragOperationsMask: 1 } };
  for (const type of ['dragEnter', 'dragOver', 'drop']) await session.send('Input.dispatchDragEvent', { type, ...at });
  await session.detach();
}

/** Chooses files, as one does behind a button. */
async function choose(tab, name, ...files) {
  const [chooser] = await Promise.all([tab.page.waitForEvent('filechooser'), tab.button(name).click()]);
  await chooser.setFiles(files);
}

/** Notes each progress that a page tells of, for as long as it is there. */
async function noteProgress(tab) {
  await tab.page.evaluate(() => {
    window.progress = [];
    const note = () => document.querySelectorAll('progress, [role=progressbar]').forEach(bar => {
      if (bar.checkVisibility()) window.progress.push(bar.getAttribute('aria-label') ?? bar.tagName);
    });
    new MutationObserver(note).observe(document, { subtree: true, childList: true, attributes: true });
  });
  return () => tab.page.evaluate(() => window.progress.length > 0);
}

/** Files that are dropped are uploaded behind the current prefix, with their types. */
export async function uploads(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['docs/there', 'one'], ['top', 'one']]);
  const large = Buffer.alloc(3 << 20, 'large ');
  const files = {
    'dot.png': [PNG, 'image/png'], 'data.json': [Buffer.from('{"a": 1}'), 'application/json'],
    'Ünï cödé #1?.txt': [Buffer.from('text\r\n'), 'text/plain'], 'large.bin': [large, 'application/octet-stream'],
    page: [Buffer.from([0, 255, 1]), 'application/octet-stream'],
  };
  const tab = await scene.tab(store);
  await tab.item('docs/').click();
  await tab.item('there').waitFor();
  const showsProgress = await noteProgress(tab);
  await drop(tab, ...Object.entries(files).map(([name, [bytes]]) => scene.file(name, bytes)));
  await checks.becomes('all are uploaded', true, () => tab.says(`uploaded ${Object.keys(files).length} of ${Object.keys(files).length}`));
  for (const [name, [bytes, type]] of Object.entries(files)) {
    checks.check(`    ${name}`, bytes.toString('latin1'), await store.value(`docs/${name}`));
    const stored = await store.field(`docs/${name}`, 'content-type');
    checks.check(`    its type is ${stored}`, true, stored.startsWith(type));
  }
  checks.check('progress was shown', true, await showsProgress());
  if (scene.isLive) await checks.becomes('the tree has them', true, async () => (await tab.rows()).includes('dot.png'));

  const folder = path.dirname(scene.file('site/index.html', '<p>page'));
  scene.file('site/img/dot.png', PNG);
  await drop(tab, folder);
  await checks.becomes('a folder is uploaded with what is in it', [bytesOf('<p>page'), PNG.toString('latin1')],
    () => Promise.all(['docs/site/index.html', 'docs/site/img/dot.png'].map(key => store.value(key))));

  await choose(tab, 'Upload', scene.file('chosen.css', 'a{}'));
  await checks.becomes('a file can be chosen as well', bytesOf('a{}'), () => store.value('docs/chosen.css'));

  const dialog = tab.dialog('Already there');
  await drop(tab, scene.file('there', 'two'), scene.file('fresh', 'two'));
  await dialog.waitFor();
  checks.check('one that is there is told', true, (await dialog.textContent()).includes('docs/there'));
  await checks.becomes('and stays, while others are uploaded', [bytesOf('one'), bytesOf('two')],
    () => Promise.all(['docs/there', 'docs/fresh'].map(key => store.value(key))));
  await dialog.getByRole('button', { name: 'Keep', exact: true }).click();
  await dialog.waitFor({ state: 'hidden' });
  checks.check('it is kept', bytesOf('one'), await store.value('docs/there'));
  await drop(tab, scene.file('there', 'two'));
  await dialog.getByRole('button', { name: 'Replace', exact: true }).click();
  await checks.becomes('or replaced', bytesOf('two'), () => store.value('docs/there'));

  await drop(tab, scene.file('empty', ''), scene.file('full', 'x'));
  await checks.becomes('an empty file is told, and the others are uploaded', [true, bytesOf('x')],
    async () => [await tab.warns('empty'), await store.value('docs/full')]);
  await drop(tab, scene.file('beyond', Buffer.alloc(11 << 20, 'x')));
  await checks.becomes('so is one that is too large', true, () => tab.warns('beyond'));
  checks.check('it is not there', null, await store.value('docs/beyond'));
}

/** What is exported can be imported, and is the same. */
export async function exporting(scene) {
  const { checks } = scene;
  const full = await scene.store({}, [...Array(2500).keys()].map(n => [`rows/${n}`, `value ${n}`]));
  await full.put('pictures/dot.png', PNG, { type: 'image/png' });
  await full.put('line\nbreak 🦁 #?', 'é\r\n', { type: 'text/x-own' });
  await full.put('session', 'x', { ttl: '7d' });
  const tab = await scene.tab(full);
  await tab.item('rows/').waitFor();
  const showsProgress = await noteProgress(tab);
  const [download] = await Promise.all([tab.page.waitForEvent('download'), tab.button('Export').click()]);
  const file = scene.file('all.ndjson', fs.readFileSync(await download.path()));
  const before = await full.entries();
  checks.check(`an export has all (${download.suggestedFilename()})`, before, linesOf(file));
  await checks.becomes('which is told', true, () => tab.says('exported'));
  checks.check('progress was shown', true, await showsProgress());

  await tab.search.fill('rows/1');
  await tab.item('rows/').waitFor({ state: 'hidden' }).catch(() => {});
  const [part] = await Promise.all([tab.page.waitForEvent('download'), tab.button('Export').click()]);
  checks.check('one of a prefix has what begins so', before.filter(line => line.includes('"key":"rows/1')),
    linesOf(await part.path()));
  await tab.search.fill('');

  if (scene.setting.engine === 'cluster') {
    // There is one cluster for all stores.
    await full.tell('DELETE', '/clear');
    await importing(scene, full, file, before);
  } else {
    await importing(scene, await scene.store(), file, before);
  }
}

async function importing(scene, store, file, before) {
  const { checks } = scene;
  const tab = await scene.tab(store);
  await tab.button('Import').waitFor();
  const showsProgress = await noteProgress(tab);
  const dialog = tab.dialog('Import');
  await choose(tab, 'Import', file);
  await dialog.waitFor();
  checks.check('nothing is imported unasked', [], await store.entries());
  await dialog.getByRole('button', { name: 'Import keys' }).click();
  await checks.becomes('an empty store has the same after an import', before, () => store.entries());
  await checks.becomes('which is told with the number', true, () => tab.says(String(before.length)));
  checks.check('progress was shown', true, await showsProgress());
  await choose(tab, 'Import', scene.file('bad.ndjson', '{"key":"good","value":"x"}\n{"key":'));
  await dialog.getByRole('button', { name: 'Import keys' }).click();
  await checks.becomes('a bad line is told in the words of the store', true, () => tab.warns('line 2'));
}

const linesOf = file => fs.readFileSync(file, 'utf8').split('\n').filter(Boolean).sort();

/** Figures of the store. */
export async function figures(scene) {
  const { checks } = scene;
  const store = await scene.store({}, [['a', 'x'], ['b', 'x'], ['c', 'x']]);
  const tab = await scene.tab(store);
  await tab.figures.waitFor();
  await checks.becomes('the figures tell the keys', true, async () => /(?<!\d)3(?!\d)/.test(await tab.figures.textContent()));
  const names = ['keys', 'bytes', 'requests', 'latency'];
  await checks.becomes('and what else there is', names, async () => {
    const text = (await tab.figures.textContent()).toLowerCase();
    return names.filter(name => text.includes(name));
  });
  await checks.becomes('the latency is a percentile', true, async () => /latency\s*99% under [\d.]+ ms/.test(await tab.figures.textContent()));
  const more = [...Array(40).keys()].map(n => [`more-${n}`, 'x']);
  await store.load(more);
  await checks.becomes('they go on by themselves', true, async () => /(?<!\d)43(?!\d)/.test(await tab.figures.textContent()));
  const charts = await tab.figures.locator('svg').count();
  checks.check(`${charts} charts`, true, charts >= 2);
  const size = await until(() => tab.nodes());
  const mark = tab.requests.length;
  await until(() => tab.since(mark, ({ path }) => path === '/metrics').length >= 2);
  checks.check('charts do not grow for ever', true, await tab.nodes() < size + 200);
}
