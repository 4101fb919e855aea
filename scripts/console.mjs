// Tests of the console in a browser, which playwright-core drives. console.sh runs it:
//
//     node console.mjs --program PATH --browser PATH --tools DIR --directory DIR
//                      --pictures DIR --engine NAME [--cluster NODES] [SCENARIO...]
//
// Each scenario has stores and users of its own, and one browser serves them all, one
// after the other. A check waits for what has to come, and none judges how long it took.
//
//     console.mjs ──► scene.mjs ──► stores.mjs   the program under test
//     which run                └──► tab.mjs      the page, by roles and names
//          └──► scenarios: tree, keys, values, saving, live, files, tokens, troubles, use, hostile, views

import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Checks, waitFor } from './console/checks.mjs';
import { Scene } from './console/scene.mjs';
import * as files from './console/files.mjs';
import * as hostile from './console/hostile.mjs';
import * as keys from './console/keys.mjs';
import * as live from './console/live.mjs';
import * as saving from './console/saving.mjs';
import * as tokens from './console/tokens.mjs';
import * as tree from './console/tree.mjs';
import * as troubles from './console/troubles.mjs';
import * as use from './console/use.mjs';
import * as values from './console/values.mjs';
import * as views from './console/views.mjs';

const { readme, ...SCENARIOS } = { ...tree, ...keys, ...values, ...saving, ...live, ...files, ...tokens, ...troubles, ...use, ...hostile, ...views };

// What the page shows and keeps from happening is of the page, and the answers are the
// same on every engine, as the transcripts of the Rust tests say: on those but memory run
// those with many requests for one thing, with conditions, and with long bodies, and what
// is another on them: a restart that loses nothing, and a cluster without a change log.
const ON_EACH = ['saving', 'undoing', 'prefixes', 'uploads', 'exporting'];
const ON = {
  memory: Object.keys(SCENARIOS).filter(name => name !== 'notLive'),
  durable: [...ON_EACH, 'many', 'large', 'live', 'restart'],
  cluster: [...ON_EACH, 'levels', 'addressed', 'counters', 'notLive'],
};

const { values: setting, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ...Object.fromEntries(['program', 'browser', 'tools', 'directory', 'pictures', 'engine', 'cluster', 'count']
      .map(name => [name, { type: 'string' }])),
    picture: { type: 'boolean', default: false },
    // Of each wait: long, for a machine that has much else to do.
    patience: { type: 'string', default: '60' },
  },
});

const load = createRequire(path.join(setting.tools, 'package.json'));
const { chromium } = load('playwright-core');
setting.axe = fs.readFileSync(load.resolve('axe-core'), 'utf8');
waitFor(Number(setting.patience) * 1000);

/** The scenarios to be run. */
function chosen() {
  if (setting.picture) return { readme };
  const names = positionals.length ? positionals : ON[setting.engine];
  return Object.fromEntries(names.map(name => [name, SCENARIOS[name]]));
}

async function run(name, play, browser, checks) {
  const scene = new Scene(name, setting, browser, checks);
  const begin = Date.now();
  let end = 'comes to its end';
  try {
    await play(scene);
  } catch (err) {
    end = String(err.stack || err);
    for (const [number, tab] of scene.tabs.entries()) {
      await scene.picture(tab, `failed-${name}-${number + 1}`).catch(() => {});
    }
  }
  await scene.end().catch(err => { end = `does not end well: ${err.stack || err}`; });
  checks.check(`${name} (${((Date.now() - begin) / 1000).toFixed(1)} s)`, 'comes to its end', end);
}

async function main() {
  const checks = new Checks();
  const browser = await chromium.launch({
    executablePath: setting.browser,
    // It opens pages of ours alone, and root has no sandbox.
    chromiumSandbox: process.getuid() !== 0,
    args: ['--no-proxy-server', '--disable-gpu', '--host-resolver-rules=MAP lkv.example 127.0.0.1'],
  });
  try {
    for (const [name, play] of Object.entries(chosen())) await run(name, play, browser, checks);
  } finally {
    await browser.close();
  }
  fs.writeFileSync(setting.count, `${checks.passed} ${checks.failed}\n`);
  process.exitCode = checks.failed ? 1 : 0;
}

await main();
