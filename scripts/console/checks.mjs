// The count of checks, and waits with a bound.

import { setTimeout as pause } from 'node:timers/promises';

let patience = 60_000;

/** Sets for how long each wait has patience. */
export function waitFor(milliseconds) {
  patience = milliseconds;
}

export const patienceMs = () => patience;

/** Whether each check held, counted and printed as those of lib.sh are. */
export class Checks {
  passed = 0;
  failed = 0;

  /** Two values are equal, as JSON. Gives whether they are. */
  check(what, expected, got) {
    const [should, is] = [expected, got].map(value => JSON.stringify(value) ?? 'undefined');
    if (should === is) {
      this.passed += 1;
      console.log(`ok      ${what}`);
    } else {
      this.failed += 1;
      console.log(`FAILED  ${what}\n        expected: ${short(should)}\n        got:      ${short(is)}`);
    }
    return should === is;
  }

  /** What `read` gives becomes `expected`, however late. */
  async becomes(what, expected, read) {
    const should = JSON.stringify(expected);
    return this.check(what, expected, await until(read, got => JSON.stringify(got) === should));
  }
}

const short = text => (text.length > 500 ? `${text.slice(0, 500)}...` : text);

/**
 * Reads again and again until what is read `fits`; gives what was read last. What it
 * throws counts as not yet there, unless it is thrown to the end.
 */
export async function until(read, fits = Boolean) {
  const end = Date.now() + patience;
  for (;;) {
    let got, fault;
    try {
      got = await read();
    } catch (err) {
      fault = err;
    }
    if (!fault && fits(got)) return got;
    if (Date.now() > end) {
      if (fault) throw fault;
      return got;
    }
    await pause(25);
  }
}
