// A store of the program under test, which can be asked past any browser, stopped, and
// started again on its port and its directory.

import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { patienceMs, until } from './checks.mjs';

const running = new Set();
process.on('exit', () => running.forEach(child => child.kill('SIGKILL')));

/** A key as it stands behind `/kv/`. */
export const encoded = key => encodeURIComponent(key);

export class Store {
  #child = null;
  #flags;
  #log;

  /** `setting` has the program, a directory for all of them, the engine and its cluster. */
  constructor(setting, name, { tokens, port = 0, flags = [] } = {}) {
    this.program = setting.program;
    this.directory = fs.mkdtempSync(path.join(setting.directory, `${name}-`));
    this.tokenFile = path.join(this.directory, 'tokens');
    this.port = port;
    const engines = {
      memory: [],
      durable: ['--working-dir', path.join(this.directory, 'store')],
      cluster: ['--cluster', setting.cluster, '--cluster-clear'],
    };
    this.#flags = [...engines[setting.engine], ...flags];
    if (tokens) {
      this.allow(tokens);
      this.#flags.push('--token-file', this.tokenFile);
    }
    // Whoever asks past the browser may do all.
    this.token = tokens?.[0].split(' ')[0];
    this.#log = path.join(this.directory, 'log');
  }

  /** Writes the lines of the file of tokens. */
  allow(lines) {
    fs.writeFileSync(this.tokenFile, `${lines.join('\n')}\n`, { mode: 0o600 });
  }

  /** Starts it on the port that it had, if it had one, and waits until it listens. */
  async start() {
    // Somebody else may have the port for a moment.
    if (!await until(() => this.#listens(), listens => listens || !this.port)) {
      throw new Error(`the store does not start: ${fs.readFileSync(this.#log, 'utf8')}`);
    }
    return this;
  }

  async #listens() {
    const log = fs.openSync(this.#log, 'a');
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('LKV_')));
    const child = spawn(this.program, ['--port', String(this.port), ...this.#flags],
      { stdio: ['ignore', 'pipe', log], env: environment });
    fs.closeSync(log);
    running.add(child);
    child.ended = new Promise(done => child.on('exit', code => { running.delete(child); done(code); }));
    let said = '';
    child.stdout.on('data', bytes => { said += bytes; });
    await until(() => said.split('\n').length > 2 || child.exitCode !== null);
    const url = /http:\/\/[\w.:[\]]+:(\d+)/.exec(said);
    if (!url) return false;
    this.#child = child;
    this.port = Number(url[1]);
    return true;
  }

  get isRunning() {
    return this.#child?.exitCode === null && this.#child.signalCode === null;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Asks it to stop; gives its exit code. */
  async stop() {
    const child = this.#child;
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), patienceMs());
    const code = await child.ended;
    clearTimeout(late);
    return code;
  }

  /** The lines of its log that tell of a panic of its own. */
  panics() {
    return fs.readFileSync(this.#log, 'utf8').split('\n').filter(line => line.includes('panicked at src'));
  }

  /** Asks it, with the path as it is; gives the status, the fields and the bytes. */
  ask(method, target, { headers = {}, body } = {}) {
    const own = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    return new Promise((done, fail) => {
      const request = http.request({ host: '127.0.0.1', port: this.port, method, path: target,
        headers: { ...own, ...headers }, timeout: patienceMs() }, answer => {
        const parts = [];
        answer.on('data', part => parts.push(part));
        answer.on('error', fail);
        answer.on('end', () => done({ status: answer.statusCode, headers: answer.headers, bytes: Buffer.concat(parts) }));
      });
      request.on('timeout', () => request.destroy(new Error(`${method} ${target}: no answer`)));
      request.on('error', fail);
      request.end(body);
    });
  }

  /** The same, where anything but success is a fault of the test. */
  async tell(method, target, options) {
    const answer = await this.ask(method, target, options);
    if (answer.status >= 300) throw new Error(`${method} ${target}: ${answer.status} ${answer.bytes}`);
    return answer;
  }

  put(key, body, { type, ttl } = {}) {
    return this.tell('PUT', `/kv/${encoded(key)}${ttl ? `?ttl=${ttl}` : ''}`,
      { body, headers: type ? { 'Content-Type': type } : {} });
  }

  remove(key) {
    return this.tell('DELETE', `/kv/${encoded(key)}`);
  }

  /** The value's bytes as text that can be told apart, or null. */
  async value(key) {
    const answer = await this.ask('GET', `/kv/${encoded(key)}`);
    return answer.status === 200 ? answer.bytes.toString('latin1') : null;
  }

  /** A field of the answer to a look at a key. */
  async field(key, name) {
    return (await this.ask('HEAD', `/kv/${encoded(key)}`)).headers[name];
  }

  /** The number of keys that begin so. */
  async count(prefix = '') {
    return Number((await this.tell('GET', `/kv?count&prefix=${encoded(prefix)}`)).bytes);
  }

  /** All that it has, as lines without order. */
  async entries() {
    return (await this.tell('GET', '/kv?values')).bytes.toString().split('\n').filter(Boolean).sort();
  }

  /** Stores many at once: `[key, value]` pairs. */
  async load(pairs) {
    const lines = pairs.map(([key, value]) => JSON.stringify({ key, value }));
    await this.tell('POST', '/import', { body: `${lines.join('\n')}\n` });
  }
}

/** A picture of four pixels, for a value. */
export const PNG = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGP8z8Dwn4GBgYGJAQoAABYkAgE6zdUTAAAAAElFTkSuQmCC', 'base64');

/** Bytes as `value` gives them. */
export const bytesOf = text => Buffer.from(text).toString('latin1');
