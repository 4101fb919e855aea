// Each view, light and dark: axe-core finds nothing in it, and there is a picture of it.

import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { until } from './checks.mjs';

const README = path.join(path.dirname(fileURLToPath(import.meta.url)), 'console.png');

const PHOTO = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 200" width="640" height="400">
<defs><linearGradient id="sky" x2="0" y2="1"><stop stop-color="#f6c667"/><stop offset="1" stop-color="#e2725b"/></linearGradient></defs>
<rect width="320" height="200" fill="url(#sky)"/><circle cx="214" cy="92" r="26" fill="#fff3d6"/>
<path d="M0 150 60 96l42 38 54-66 70 82 40-34 54 40v44H0z" fill="#5a3d5c"/><path d="M0 172l90-34 74 30 96-40 60 30v42H0z" fill="#2f2440"/></svg>`;

// Bytes that have nothing in common, and are the same each time.
const bytesFrom = (seed, length) => crypto.createHash('shake256', { outputLength: length }).update(seed).digest();

/** A store such as one would look at: a small shop's. */
async function shop(scene, options) {
  const store = await scene.store(options);
  const lines = [];
  const add = (key, value, more) => lines.push(JSON.stringify({ key, value, ...more }));
  const addJson = (key, value) => add(key, JSON.stringify(value), { type: 'application/json' });
  for (const [name, city] of [['ann', 'Nairobi'], ['bob', 'Mombasa'], ['carla', 'Kisumu'], ['dora', 'Nakuru']]) {
    addJson(`users/${name}`, { name: name[0].toUpperCase() + name.slice(1), city, active: true, visits: name.length * 7,
      tags: ['reader', 'beta'], manager: null });
  }
  for (let n = 1; n <= 24; n += 1) {
    addJson(`orders/2026-11/${String(n).padStart(4, '0')}`, { items: n % 5 + 1, total: n * 12.5, currency: 'KES' });
  }
  for (const name of ['checkout', 'mailer', 'search']) {
    add(`config/${name}`, `# ${name}\nenabled = true\nretries = 3\ntimeout = "30s"\n`);
  }
  addJson('config/rates', { KES: 1, USD: 0.0077, EUR: 0.0071 });
  const expires = new Date(Date.now() + 3_600_000).toISOString();
  for (let n = 0; n < 6; n += 1) add(`session:${bytesFrom(`${n}`, 6).toString('hex')}`, 'ann', { expires });
  for (let n = 0; n < 12; n += 1) add(`job:01764302400${100 + n}-000000`, `resize ${n}.png`);
  add('docs/welcome', 'Little Key-Value Store\n\nYou put bytes under a name and get exactly those bytes back.\n');
  add('motto', 'Less, but better.');
  add('visits', '1274');
  await store.tell('POST', '/import', { body: `${lines.join('\n')}\n` });
  await store.put('images/valley.svg', PHOTO, { type: 'image/svg+xml' });
  await store.put('cache/thumbnail', bytesFrom('thumbnail', 20_000), { type: 'application/octet-stream' });
  await store.put('backup/shop.tar', Buffer.alloc(3 << 20, 'backup'), { type: 'application/x-tar' });
  return store;
}

const press = (tab, name) => tab.button(name).click();

/** Each view, and the way to it. */
const VIEWS = {
  async list(tab) { await tab.open('#/'); await tab.item('users/').waitFor(); },
  async filtered(tab) { await tab.open('#/?prefix=orders%2F'); await tab.tree.getByRole('treeitem').first().waitFor(); },
  async text(tab) { await key(tab, 'config/checkout'); },
  async json(tab) { await key(tab, 'users/ann'); },
  async image(tab) { await key(tab, 'images/valley.svg'); await tab.shown.getByRole('img').waitFor(); },
  async hex(tab) { await key(tab, 'cache/thumbnail'); },
  async link(tab) { await key(tab, 'backup/shop.tar'); },
  async counter(tab) { await key(tab, 'visits'); await tab.button('Add 1').waitFor(); },
  async absent(tab) { await tab.open('#/kv/nobody/has/this'); await tab.page.getByText('key not found').waitFor(); },
  async editor(tab) { await key(tab, 'users/ann'); await press(tab, 'Edit'); await tab.editor.waitFor(); },
  async mistake(tab) {
    await VIEWS.editor(tab);
    await tab.editor.fill('{"name": "Ann",}');
    await press(tab, 'Save');
    await until(() => tab.warns('Not saved'));
  },
  async deleted(tab) {
    await tab.store.put('motto', 'Less, but better.');
    await key(tab, 'motto');
    await press(tab, 'Delete');
    await tab.button('Undo').waitFor();
  },
  async conflict(tab) {
    await tab.store.put('config/mailer', '# mailer\nenabled = true\nretries = 3\n');
    await key(tab, 'config/mailer');
    await press(tab, 'Edit');
    await tab.editor.fill('# mailer\nenabled = true\nretries = 5\n');
    await tab.store.put('config/mailer', '# mailer\nenabled = false\nretries = 3\n');
    await press(tab, 'Save');
    await tab.dialog('Changed by somebody else').waitFor();
  },
  async prefix(tab) {
    await tab.open('#/?prefix=session%3A');
    await press(tab, 'Delete prefix');
    await tab.dialog('Delete prefix').waitFor();
  },
  async ttl(tab) { await key(tab, 'docs/welcome'); await press(tab, 'Change TTL'); await tab.dialog('Change TTL').waitFor(); },
  async create(tab) { await tab.open('#/'); await press(tab, 'New key'); await tab.dialog('New key').waitFor(); },
  async help(tab) { await tab.open('#/'); await press(tab, 'Help'); await tab.dialog('Keyboard').waitFor(); },
};

async function key(tab, name) {
  await tab.openKey(name);
  await until(() => tab.fact('Size'));
}

/** A tab with the console in it as it is at first. */
async function afresh(tab) {
  await tab.page.goto('about:blank');
  await tab.open();
  await until(async () => (await tab.rows()).length);
}

const VIEWPORTS = { wide: { width: 1280, height: 800 }, phone: { width: 360, height: 740 } };
const ON_PHONE = ['list', 'json', 'editor', 'counter', 'conflict', 'help'];

/** Looks at a view as those do who cannot see it, and makes a picture, in both schemes. */
async function look(scene, tab, name) {
  await tab.page.evaluate(scene.setting.axe);
  for (const colorScheme of ['light', 'dark']) {
    await tab.page.emulateMedia({ colorScheme });
    await scene.picture(tab, `${colorScheme}/${name}`);
    // The other scheme is other colours alone.
    const ofColors = { runOnly: { type: 'rule', values: ['color-contrast', 'link-in-text-block'] } };
    const rules = colorScheme === 'light' ? {} : ofColors;
    const { violations } = await tab.page.evaluate(rules => window.axe.run(document, { resultTypes: ['violations'], ...rules }), rules);
    scene.checks.check(`axe-core finds nothing in ${colorScheme}/${name}`, [],
      violations.map(({ id, nodes }) => [id, ...nodes.slice(0, 3).map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary}`)]));
  }
}

/** All views in both schemes, and the main ones on a phone. */
export async function views(scene) {
  const store = await shop(scene);
  for (const [device, viewport] of Object.entries(VIEWPORTS)) {
    const tab = await scene.blank(store, { viewport, reducedMotion: 'reduce' });
    for (const [name, arrange] of Object.entries(VIEWS)) {
      if (device === 'phone' && !ON_PHONE.includes(name)) continue;
      await afresh(tab);
      await arrange(tab);
      await look(scene, tab, device === 'phone' ? `phone-${name}` : name);
    }
  }
}

/** The view of one who has to give a token. */
export async function locked(scene) {
  const store = await scene.store({ tokens: ['token-of-one-who-may-do-all'] }, [['a', 'one']]);
  const tab = await scene.tab(store, { reducedMotion: 'reduce' });
  await tab.dialog('Token').waitFor();
  await look(scene, tab, 'token');
}

/** The README's picture, which is kept, as after two minutes of some use. */
export async function readme(scene) {
  const store = await shop(scene, { port: 8888 });
  const tab = await scene.blank(store, { viewport: { width: 1120, height: 640 }, colorScheme: 'light', reducedMotion: 'reduce' });
  await tab.page.clock.install();
  await tab.open();
  await tab.item('users/').click();
  await tab.item('ann').click();
  await until(() => tab.fact('Size'));
  for (let round = 0; round < 60; round += 1) {
    const writes = Math.round(14 + 8 * Math.sin(round / 5) + 4 * Math.sin(round / 1.7));
    for (let times = 0; times < writes; times += 1) await store.tell('POST', '/kv/visits?incr');
    if (round % 3) await store.tell('POST', '/kv?prefix=job:', { body: 'resize 1.png' });
    const { length } = tab.requests;
    const told = tab.page.waitForResponse(response => response.url().endsWith('/metrics'));
    while (!tab.since(length, ({ path }) => path === '/metrics').length) await tab.page.clock.runFor(250);
    await told;
  }
  await tab.page.mouse.move(700, 550);
  await until(async () => await tab.connection.textContent() === 'live');
  const bytes = await tab.page.screenshot();
  fs.writeFileSync(README, bytes);
  scene.checks.check(`the picture is small (${bytes.length} bytes)`, true, bytes.length < 100_000);
}
