// The tree of keys: its levels, its steps, the filter, and a store of 100,000 keys.

import { until } from './checks.mjs';
import { fragmentOf, lists } from './tab.mjs';

const STEP = 1000;
const NODES_MAX = 2000;

const pairs = (...keys) => keys.map(key => [key, `value of ${key}`]);

/** Levels fold by both separators, and each is asked for once it is opened. */
export async function levels(scene) {
  const { checks } = scene;
  const store = await scene.store({}, pairs('a', 'a/b', 'a/b/c', 'orders:1:item', 'orders:1:price', 'orders:2:item',
    'top', 'users/ann', 'users/bob', 'users/eve:mail', 'users/eve:phone'));
  const tab = await scene.tab(store);
  const rows = ['a', 'a/', 'orders:', 'top', 'users/'];
  await checks.becomes('the first level folds by / and :', rows, () => tab.rows());
  checks.check('a folder is closed', 'false', await tab.item('users/').getAttribute('aria-expanded'));
  checks.check('a key is no folder', null, await tab.item('top').getAttribute('aria-expanded'));

  await tab.item('users/').click();
  await checks.becomes('a folder opens', [...rows, 'ann', 'bob', 'eve:'], () => tab.rows());
  await tab.item('eve:').click();
  await checks.becomes('and one in it', [...rows, 'ann', 'bob', 'eve:', 'mail', 'phone'], () => tab.rows());
  checks.check('rows tell their levels', ['1', '2', '3'], await Promise.all(['users/', 'eve:', 'mail']
    .map(name => tab.item(name).getAttribute('aria-level'))));
  await tab.item('mail').click();
  await checks.becomes('a key opens', 'users/eve:mail', () => tab.key());
  checks.check('the address has it', `${store.url}/#/kv/users/eve:mail`, decodeURIComponent(tab.page.url()));
  checks.check('and the title', 'users/eve:mail - Little Key-Value Store', await tab.page.title());
  await checks.becomes('with its value', 'value of users/eve:mail', () => tab.text());
  await tab.item('users/').click();
  await checks.becomes('a folder closes', rows, () => tab.rows());

  await tab.page.goBack();
  await checks.becomes('Back leaves the key', true, async () => await tab.key() !== 'users/eve:mail');
  await tab.page.goForward();
  await checks.becomes('and forward opens it again', 'users/eve:mail', () => tab.key());
}

/** An empty store. */
export async function empty(scene) {
  const { checks } = scene;
  const store = await scene.store();
  const tab = await scene.tab(store);
  await tab.button('New key').waitFor();
  checks.check('an empty store has no rows', 0, await tab.tree.getByRole('treeitem').count());
  await store.put('first', 'one');
  if (!scene.isLive) await tab.page.reload();
  await checks.becomes('its first key appears', ['first'], () => tab.rows());
}

/** The filter, as one types. */
export async function filter(scene) {
  const { checks } = scene;
  const store = await scene.store({}, pairs('orders:1', 'top', 'user:ann', 'users/ann', 'users/bob', 'x#?%&+ y/z', 'é/a'));
  const tab = await scene.tab(store);
  await tab.item('top').waitFor();
  const listed = async query => (await store.tell('GET', `/kv${query}`)).bytes.toString('latin1');
  checks.check('the curl line of the list gives all keys', await listed(''), await scene.runs(tab));
  await tab.search.pressSequentially('user');
  await checks.becomes('the filter leaves what begins so', ['user:', 'users/'], () => tab.rows());
  await tab.search.pressSequentially('s/');
  await tab.item('top').waitFor({ state: 'hidden' });
  await checks.becomes('down to the keys', [true, true], () => Promise.all(['ann', 'bob']
    .map(async name => (await tab.rows()).some(row => row.endsWith(name)))));
  checks.check('the curl line gives those that begin so', await listed('?prefix=users/'), await scene.runs(tab));
  await checks.becomes('the address has the prefix', `${store.url}/#/?prefix=users/`, () => decodeURIComponent(tab.page.url()));
  await tab.page.reload();
  await checks.becomes('which a reload keeps', 'users/', () => tab.search.inputValue());
  await checks.becomes('and so its rows', [false, true], async () => {
    const rows = await tab.rows();
    return [rows.includes('top'), rows.some(row => row.endsWith('bob'))];
  });
  await tab.search.fill('x#?%&+ ');
  await checks.becomes('a prefix has any letters', 1, async () => (await tab.rows()).length);
  await tab.search.fill('é');
  await checks.becomes('and any alphabet', ['é/'], () => tab.rows());
  await tab.search.fill('nothing begins so');
  await checks.becomes('where nothing begins so there are no rows', 0, async () => tab.tree.getByRole('treeitem').count());
  await tab.search.fill('');
  await checks.becomes('without a filter all is there', ['orders:', 'top', 'user:', 'users/', 'x#?%&+ y/', 'é/'], () => tab.rows());
}

/** A key that is opened by its address is unfolded in the tree, and marked. */
export async function addressed(scene) {
  const { checks } = scene;
  const store = await scene.store({}, pairs(...[...Array(1500).keys()].map(n => `list/${String(n).padStart(4, '0')}`),
    'orders:1:item', 'orders:2:item', 'top', 'users/ann', 'users/eve:mail', 'users/eve:phone'));
  const tab = await scene.tab(store, { fragment: '#/kv/users/eve:mail' });
  const marked = () => tab.tree.getByRole('treeitem', { selected: true }).allTextContents();
  await checks.becomes('its folders are open, and no others', ['list/', 'orders:', 'top', 'users/', 'ann', 'eve:', 'mail', 'phone'], () => tab.rows());
  await checks.becomes('and it is marked', ['mail'], marked);
  await tab.page.keyboard.press('/');
  await tab.page.keyboard.press('Tab');
  await checks.becomes('the arrows go on from it', '3 1 mail', async () => (await tab.row())?.id);
  await tab.open(fragmentOf('orders:2:item'));
  await checks.becomes('so is the next', ['item'], marked);
  await tab.page.goBack();
  await checks.becomes('and the last, by Back', ['mail'], marked);
  await tab.item('users/').click();
  await store.put('users/new', 'one');
  await checks.becomes('a folder that one closes stays closed', false, async () => (await tab.rows()).includes('ann'));

  const mark = tab.requests.length;
  await tab.open(fragmentOf('list/1005'));
  await checks.becomes('one behind the first step is marked as well', ['1005'], marked);
  const before = await tab.rows();
  checks.check('behind the rest that is not loaded', ['0999', 'Show more', '1005'], before.slice(before.indexOf('0999'), before.indexOf('1005') + 1));
  checks.check('and is not read for it', 1, tab.since(mark, lists).length);
  await tab.item('Show more').click();
  await checks.becomes('which comes before it', ['1004', '1005', '1006'], async () => {
    const rows = await tab.rows();
    return rows.slice(rows.indexOf('1005') - 1, rows.indexOf('1005') + 2);
  });

  await tab.open(fragmentOf('nobody/has/this'));
  await tab.page.getByText('key not found').waitFor();
  checks.check('one that is not there is not in the tree', false, (await tab.rows()).includes('nobody/'));
  await store.put('nobody/has/this', 'one');
  if (!scene.isLive) await tab.page.reload();
  await checks.becomes('and is once it is', ['this'], marked);
  await tab.open(fragmentOf('top'));
  await tab.page.reload();
  await checks.becomes('a reload marks it again', ['top'], marked);
}

/** Thousands of rows, and thousands more that others make. */
export async function crowd(scene) {
  const { checks } = scene;
  const number = n => String(n).padStart(6, '0');
  const store = await scene.store({}, pairs(...[...Array(7000).keys()].map(n => number(n * 10))));
  const tab = await scene.blank(store);
  await tab.page.addInitScript(() => {
    const { sort } = Array.prototype;
    window.sorted = 0;
    Array.prototype.sort = function counted(...by) {
      window.sorted += this.length;
      return sort.apply(this, by);
    };
  });
  await tab.open();
  await tab.item(number(0)).waitFor();
  for (let step = 1; step < 6; step += 1) {
    await farDown(tab);
    await tab.item('Show more').click();
    await checks.becomes(`step ${step}`, true, async () => { await farDown(tab); return (await tab.rows()).includes(number(step * 10_000 + 9990)); });
  }
  await checks.becomes('it is live', 'live', () => tab.connection.textContent());
  await tab.page.evaluate(() => { window.sorted = 0; });
  await store.load(pairs(...[...Array(2000).keys()].map(n => number(n * 10 + 1)), number(59_985)));
  await checks.becomes('2,000 new keys appear among 6,000 rows', true, async () => { await farDown(tab); return (await tab.rows()).includes(number(59_985)); });
  const sorted = await tab.page.evaluate(() => window.sorted);
  checks.check(`they are not sorted for each of them (${sorted} rows)`, true, sorted < 2000 * 1000);
  await tab.page.evaluate(() => { window.sorted = 0; });
  await store.tell('DELETE', '/kv?prefix=00');
  await checks.becomes('and go', true, async () => { await tab.page.keyboard.press('Home'); await tab.tree.hover(); await tab.page.mouse.wheel(0, -10_000_000); return (await tab.rows())[0] === number(10_000); });
  checks.check('nor when they go', true, await tab.page.evaluate(() => window.sorted) < 2000 * 1000);
}

/** 100,000 keys in one level, 1,100 folders in another. */
export async function many(scene) {
  const { checks } = scene;
  const store = await scene.store();
  const number = n => String(n).padStart(6, '0');
  await store.load([...Array(100_000).keys()].map(n => [`row-${number(n)}`, `${n}`]));
  await store.load([...Array(1100).keys()].map(n => [`set/${number(n)}/of`, 'x']));
  await store.load([...Array(3000).keys()].map(n => [`time:${number(n)}`, 'x']));

  const tab = await scene.blank(store);
  const begin = Date.now();
  await tab.open();
  await tab.item('row-000000').waitFor();
  console.log(`        first rows of 100,000 keys after ${Date.now() - begin} ms`);
  const nodes = async what => {
    const count = await tab.nodes();
    checks.check(`${what}: under ${NODES_MAX} nodes (${count})`, true, count < NODES_MAX);
  };
  await nodes('100,000 keys');
  checks.check('the first rows take one step', 1, tab.requests.filter(lists).length);

  await farDown(tab);
  await checks.becomes('the step ends with row 1,000', true, async () => (await tab.rows()).includes('row-000999'));
  await nodes('at its end');
  for (const last of ['row-001999', 'row-002999']) {
    const mark = tab.requests.length;
    await tab.item('Show more').click();
    await until(() => tab.since(mark, lists).length);
    await checks.becomes(`a step more ends with ${last}`, true, async () => {
      await farDown(tab);
      return (await tab.rows()).includes(last);
    });
    checks.check('it is asked for behind the last row', 1, tab.since(mark, lists).length);
  }
  await nodes('3,000 rows');

  await tab.search.fill('row-0999');
  await checks.becomes('the filter finds those at the end', 'row-099900', async () => (await tab.rows())[0]);
  await farDown(tab);
  await checks.becomes('all of them', true, async () => (await tab.rows()).includes('row-099999'));
  await nodes('filtered');
  await tab.search.fill('s');
  await tab.item('set/').click();
  await tab.item('000000/').waitFor();
  await farDown(tab);
  await checks.becomes('a level of folders has steps as well', true, async () => (await tab.rows()).includes('000999/'));
  await tab.item('Show more').click();
  await checks.becomes('and an end', [true, 0], async () => {
    await farDown(tab);
    return [(await tab.rows()).includes('001099/'), await tab.item('Show more').count()];
  });
  await nodes('1,100 folders');
  await tab.search.fill('t');
  await tab.item('time:').waitFor();
  await tab.item('time:').click();
  await tab.item('000000').waitFor();
  await nodes('a folder of 3,000');

  const asked = tab.requests.filter(lists);
  const sizes = asked.map(({ query }) => Number(query.get('limit') ?? Infinity));
  checks.check('no request lists more than a step', [], sizes.filter(size => size > STEP));
  checks.check(`the store was not read through (${asked.length} steps)`, true, asked.length < 40);
}

/** Scrolls the tree to its end. */
async function farDown(tab) {
  await tab.tree.hover();
  await tab.page.mouse.wheel(0, 10_000_000);
}
