// A tab of the browser with the console in it, as people see it: by roles and names,
// never by how it is built. It notes what must not happen while it is open.

import { until } from './checks.mjs';

/** The fragment that opens a key. */
export const fragmentOf = key => `#/kv/${key.split('/').map(encodeURIComponent).join('/')}`;

export class Tab {
  /** Each request of the page: method, URL, fields. */
  requests = [];
  #faults = [];

  constructor(page, store) {
    this.page = page;
    this.store = store;
    page.on('dialog', dialog => this.#asks(dialog));
    page.on('pageerror', err => this.#fault(`an error: ${err.stack || err}`));
    page.on('console', message => {
      // An answer of 4xx is told there as well, and is no fault.
      const isFault = ['error', 'warning'].includes(message.type()) && !message.text().startsWith('Failed to load resource');
      if (isFault) this.#fault(`${message.type()}: ${message.text()}`);
    });
    page.on('request', request => this.#asked(request));
  }

  #fault(text) {
    this.#faults.push(text);
  }

  #asks(dialog) {
    // Who leaves with something typed is asked by the browser.
    if (dialog.type() === 'beforeunload') return dialog.accept();
    this.#fault(`a dialog: ${dialog.message()}`);
    return dialog.dismiss();
  }

  #asked(request) {
    const url = new URL(request.url());
    const fields = request.headers();
    const method = request.method();
    this.requests.push({ method, path: url.pathname, query: url.searchParams, target: url.pathname + url.search, fields });
    if (['data:', 'blob:'].includes(url.protocol)) return;
    if (url.origin !== new URL(this.origin ?? this.store.url).origin) this.#fault(`a request of another origin: ${url}`);
    // Whatever a page writes depends on the state that it has seen.
    const isWrite = method === 'PUT' || (method === 'DELETE' && url.pathname !== '/kv');
    const isConditional = fields['if-match'] || fields['if-none-match'] || url.searchParams.has('create');
    if (isWrite && url.pathname.startsWith('/kv') && !isConditional) this.#fault(`a write without a condition: ${method} ${url}`);
  }

  /** What was seen of what must not happen. */
  get faults() {
    return this.#faults;
  }

  /** Opens the console, at a fragment. */
  async open(fragment = '#/') {
    await this.page.goto(`${this.origin ?? this.store.url}/${fragment}`);
    return this;
  }

  /** Opens a key, and waits for its heading. */
  async openKey(key) {
    await this.open(fragmentOf(key));
    await until(async () => await this.key() === key);
    return this;
  }

  // Its parts.

  get search() { return this.page.getByRole('searchbox', { name: 'Filter by prefix' }); }
  get tree() { return this.page.getByRole('tree', { name: 'Keys' }); }
  get heading() { return this.page.getByRole('main').getByRole('heading', { level: 2 }); }
  get connection() { return this.page.getByRole('status', { name: 'Connection' }); }
  get alert() { return this.page.getByRole('alert'); }
  get shown() { return this.page.getByRole('region', { name: 'Value', exact: true }); }
  get editor() { return this.page.getByRole('textbox', { name: 'Value', exact: true }); }
  get figures() { return this.page.getByRole('region', { name: 'Figures' }); }
  get curl() { return this.page.getByRole('region', { name: 'curl', exact: true }).locator('code'); }

  item(name) { return this.tree.getByRole('treeitem', { name, exact: true }); }
  button(name) { return this.page.getByRole('button', { name, exact: true }); }
  dialog(name) { return this.page.getByRole('dialog', { name, exact: true }); }

  // What it shows.

  /** The key that is open: the heading's text as it is. */
  key() { return this.heading.textContent({ timeout: 1000 }); }

  /** The text of the value, as it is shown. */
  text() { return this.shown.locator('pre').textContent({ timeout: 1000 }); }

  /** A fact about the key: the text behind its name. */
  fact(name) {
    return this.page.evaluate(name => {
      const term = [...document.querySelectorAll('dt')].find(term => term.textContent.trim() === name && term.checkVisibility());
      return term ? term.nextElementSibling.textContent.trim() : null;
    }, name);
  }

  /** The names of the rows of the tree that are in the document, in order. */
  async rows() {
    const snapshot = await this.tree.ariaSnapshot({ timeout: 1000 });
    return [...snapshot.matchAll(/treeitem ("(?:[^"\\]|\\.)*")/g)].map(([, name]) => JSON.parse(name));
  }

  /** The row of the tree that has the focus: something that tells it from its neighbours, and its state. */
  row() {
    return this.page.evaluate(() => {
      const focus = document.activeElement;
      const active = focus.getAttribute('aria-activedescendant');
      const row = active ? document.getElementById(active) : focus.closest('[role=treeitem]');
      if (!row) return null;
      const place = name => row.getAttribute(`aria-${name}`);
      const next = row.nextElementSibling?.getAttribute('aria-level');
      return {
        id: `${place('level')} ${place('posinset')} ${row.textContent}`,
        expanded: place('expanded'),
        hasRows: place('expanded') === 'true' && Number(next) > Number(place('level')),
      };
    });
  }

  /** Whether a text is told by the status, or in the alert. */
  async says(text) {
    return (await this.page.getByRole('status').allTextContents()).some(said => said.includes(text));
  }

  async warns(text = '') {
    return (await this.alert.allTextContents()).some(said => said && said.includes(text));
  }

  /** The number of nodes in the document. */
  nodes() {
    return this.page.evaluate(() => {
      const walker = document.createTreeWalker(document);
      let nodes = 1;
      while (walker.nextNode()) nodes += 1;
      return nodes;
    });
  }

  /** The requests since a mark that `requests.length` gave. */
  since(mark, matches) {
    return this.requests.slice(mark).filter(matches);
  }
}

/** Whether a request lists keys. */
export const lists = ({ method, path, query }) => method === 'GET' && path === '/kv' && !query.has('count');
