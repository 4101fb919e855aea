// A page's EventSource on the changes of the store, as node-eventsource has it. It is
// run by events.sh:
//
//     node events.js --url URL --count FILE
//
// Between the two stands a relay, which cuts the connection when it is told to: then
// the client comes back by itself, with the id of the last event (Last-Event-ID), and
// hears of what it has missed, once.

'use strict';

const EventSource = require('eventsource');
const fs = require('fs');
const http = require('http');
const net = require('net');

const PATIENCE_MS = 25_000;
const PREFIX = `events-${process.pid}/`;

const argument = name => process.argv[process.argv.indexOf(name) + 1];
const store = new URL(argument('--url'));

let passed = 0;
let failed = 0;

function check(what, expected, got) {
  const fine = JSON.stringify(expected) === JSON.stringify(got);
  if (fine) passed += 1; else failed += 1;
  console.log(fine ? `ok      ${what}` : `FAILED  ${what}: ${JSON.stringify(got)}, not ${JSON.stringify(expected)}`);
}

async function within(condition) {
  const end = Date.now() + PATIENCE_MS;
  while (!condition() && Date.now() < end) await new Promise(done => setTimeout(done, 20));
}

// Asks the store for something itself, past the relay.
function ask(method, path, body) {
  return new Promise((done, fail) => {
    const request = http.request(new URL(path, store), { method }, answer => {
      answer.resume();
      answer.on('end', () => (answer.statusCode < 300 ? done() : fail(new Error(`${method} ${path}: ${answer.statusCode}`))));
    });
    request.on('error', fail);
    request.end(body);
  });
}

const put = (key, body) => ask('PUT', `/kv/${PREFIX}${key}`, body);
const remove = key => ask('DELETE', `/kv/${PREFIX}${key}`);

// The relay. While it is closed it cuts whoever comes.
let isOpen = true;
const relayed = new Set();
const relay = net.createServer(client => {
  if (!isOpen) return client.destroy();
  const there = net.connect(store.port, store.hostname);
  for (const [from, to] of [[client, there], [there, client]]) {
    relayed.add(from);
    from.on('data', bytes => to.write(bytes));
    from.on('error', () => {});
    from.on('close', () => { relayed.delete(from); to.destroy(); });
  }
});

function cut() {
  isOpen = false;
  for (const socket of relayed) socket.destroy();
}

// Follows a watch. What it hears is `[event, data]` pairs and their ids.
function follow(query) {
  const source = new EventSource(`http://127.0.0.1:${relay.address().port}/watch?${query}`);
  const heard = { events: [], ids: [], opened: 0, source };
  source.onopen = () => { heard.opened += 1; };
  for (const name of ['put', 'delete', 'expire', 'evict', 'reset', 'ready', 'message']) {
    source.addEventListener(name, event => {
      heard.events.push([name, event.data]);
      heard.ids.push(event.lastEventId);
    });
  }
  return heard;
}

async function main() {
  await new Promise(done => relay.listen(0, '127.0.0.1', done));
  await put('there', 'before');

  const heard = follow(`prefix=${PREFIX}`);
  await within(() => heard.opened);
  check('a page is connected', 1, heard.opened);
  await put('a', '1');
  await put('S%C3%A3o%20Paulo%0A%22', '1');
  await remove('a');
  await within(() => heard.events.length >= 3);
  check('it hears of each change, and the key stands as in a URL', [
    ['put', `${PREFIX}a`], ['put', `${PREFIX}S%C3%A3o%20Paulo%0A%22`], ['delete', `${PREFIX}a`],
  ], heard.events);
  check('each has an id of its own', 3, new Set(heard.ids).size);

  cut();
  await put('b', '1');
  await put('c', '1');
  isOpen = true;
  await within(() => heard.events.length >= 5);
  await put('d', '1');
  await within(() => heard.events.length >= 6);
  check('cut off, it comes back and hears of what it has missed, and that alone', [
    ['put', `${PREFIX}b`], ['put', `${PREFIX}c`], ['put', `${PREFIX}d`],
  ], heard.events.slice(3));
  check('it came back by itself', 2, heard.opened);
  heard.source.close();

  const all = follow(`prefix=${PREFIX}&since=0&values`);
  await within(() => all.events.length >= 6);
  check('from the start there is a reset, and all that is there', ['reset', 'put', 'put', 'put', 'put', 'put'],
    all.events.slice(0, 6).map(([name]) => name));
  check('a reset has a text, or nothing would be heard of it', ['reset', 'reset'], all.events[0]);
  check('with its value', ['before'], all.events.slice(1)
    .map(([, data]) => JSON.parse(data)).filter(({ key }) => key === `${PREFIX}there`).map(({ value }) => value));
  await put('there', 'after');
  await within(() => all.events.length >= 7);
  const [name, data] = all.events[6] || ['nothing', '{}'];
  const { key, value } = JSON.parse(data);
  check('a change comes with the new one', ['put', `${PREFIX}there`, 'after'], [name, key, value]);
  all.source.close();
}

main().catch(err => check('nothing goes wrong', '', String(err))).finally(() => {
  fs.writeFileSync(argument('--count'), `${passed} ${failed}\n`);
  process.exit(failed ? 1 : 0);
});
