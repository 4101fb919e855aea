// What a scenario has: stores, tabs of the browser, and checks. What it has started
// ends with it.

import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { Store } from './stores.mjs';
import { Tab } from './tab.mjs';
import { patienceMs } from './checks.mjs';

export class Scene {
  #stores = [];
  #contexts = [];

  /** Tabs of the scenario that are open. */
  tabs = [];

  constructor(name, setting, browser, checks) {
    this.name = name;
    this.setting = setting;
    this.browser = browser;
    this.checks = checks;
  }

  /** Whether there is a change log. */
  get isLive() {
    return this.setting.engine !== 'cluster';
  }

  /** A store of the scenario's own that listens; `entries` are loaded. */
  async store(options, entries = []) {
    const store = new Store(this.setting, `${this.name}-${this.#stores.length}`, options);
    this.#stores.push(store);
    await store.start();
    if (this.setting.engine === 'cluster') await store.tell('DELETE', '/clear');
    if (entries.length) await store.load(entries);
    return store;
  }

  /**
   * A browser's user with nothing of another's: no token, no storage. Unless `isPunctual`,
   * what has ten seconds has ten minutes, as a busy machine may take longer.
   */
  async user({ isPunctual, ...options } = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    context.setDefaultTimeout(patienceMs());
    if (!isPunctual) {
      await context.addInitScript(() => {
        const { setTimeout } = window;
        window.setTimeout = (run, ms, ...more) => setTimeout(run, ms === 10_000 ? 60 * ms : ms, ...more);
      });
    }
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    this.#contexts.push(context);
    return context;
  }

  /** A tab with nothing in it yet, of a user of its own unless one is given. */
  async blank(store, { user, ...options } = {}) {
    const context = user ?? await this.user(options);
    const tab = new Tab(await context.newPage(), store);
    this.tabs.push(tab);
    return tab;
  }

  /** A tab with the console in it. */
  async tab(store, { fragment, ...options } = {}) {
    return (await this.blank(store, options)).open(fragment);
  }

  /** What bash and curl make of the line that a tab shows, each byte as a character; beside the files. */
  async runs(tab) {
    const line = await tab.curl.textContent();
    const environment = { PATH: process.env.PATH, HOME: this.setting.directory, no_proxy: '*', LKV_TOKEN: tab.store.token ?? '' };
    return new Promise(done => {
      execFile('bash', ['-c', line], { cwd: this.#files(), env: environment, encoding: 'latin1', maxBuffer: 1 << 26, timeout: patienceMs() },
        (err, stdout, stderr) => done(err ? `${line}: ${err.message} ${stderr}` : stdout));
    });
  }

  /** A file of the scenario's own, to be uploaded. */
  file(name, bytes) {
    const file = path.join(this.#files(), name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, bytes);
    return file;
  }

  #files() {
    const directory = path.join(this.setting.directory, `${this.name}-files`);
    fs.mkdirSync(directory, { recursive: true });
    return directory;
  }

  /** A picture of a tab in the directory of pictures. */
  async picture(tab, name) {
    const file = path.join(this.setting.pictures, `${name}.png`);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    await tab.page.screenshot({ path: file });
  }

  /** Ends what it has started, and looks at how it ends. */
  async end() {
    this.checks.check(`${this.name}: nothing happened that must not`, [], this.tabs.flatMap(tab => tab.faults));
    // With a browser connected: it must not hold up a store.
    for (const store of this.#stores) {
      if (!store.isRunning) continue;
      this.checks.check(`${this.name}: the store stops with`, 0, await store.stop());
      this.checks.check(`${this.name}: its log has no panic`, [], store.panics());
    }
    await Promise.all(this.#contexts.map(context => context.close()));
  }
}
