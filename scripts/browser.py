"""Opens pages of several origins in a browser, one after the other, and hears what
each of them can do with a store. browser.js is what runs in the pages.

    scripts/browser.py --program PATH --browser chromium --directory DIR

scripts/browser.sh runs it. The stores and the pages are on ports of the system's choice
of 127.0.0.1; to a browser localhost is another site, and another port another origin.
"""

import argparse
import collections
import http.client
import http.server
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading

from lib import Checks, Store, ask, wait_for

# For a machine that has much else to do: a browser's start alone may take long then.
PATIENCE_SECONDS = 180
TOKEN = "only-a-test-has-this-token"
PAGE = b"<!doctype html><title>page</title><script src=/browser.js></script>"

# A page to open: the site and the port that it is of, and what browser.js is told.
Page = collections.namedtuple("Page", "name origin role store token")


class Memory(Store):
    """A store in memory that allows pages of one origin, and maybe has a token."""

    def __init__(self, program, origin, token, log):
        super().__init__(program, None, "info", PATIENCE_SECONDS)
        self.command = [program, "--port", "0", "--max-value-size", "64KiB",
                        "--cors-origin", origin]
        self.environment = {"LKV_TOKEN": token} if token else {}
        self.token, self.log = token, log

    def run(self):
        """Starts it; gives whether it listens."""
        with open(self.log, "wb") as log:
            return self.start(log)

    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def entries(self):
        """All that it has, asked for past any browser."""
        connection = self.connect()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return ask(connection, "GET", "/kv?values", headers=headers)


class Pages(http.server.ThreadingHTTPServer):
    """Serves the page that is to be opened next, and hears what it says."""

    daemon_threads = True

    def __init__(self, heard):
        super().__init__(("127.0.0.1", 0), Visit)
        self.heard = heard
        self.scenario = {}
        self.script = pathlib.Path(__file__).with_name("browser.js").read_bytes()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, host):
        return f"http://{host}:{self.server_address[1]}"


class Visit(http.server.BaseHTTPRequestHandler):
    """A request of a page's own origin."""

    def do_GET(self):
        served = {"/": ("text/html", PAGE),
                  "/browser.js": ("text/javascript", self.server.script),
                  "/scenario": ("application/json", json.dumps(self.server.scenario).encode())}
        path = self.path.partition("?")[0]
        kind, body = served.get(path, ("text/plain", b""))
        self.answer(200 if path in served else 404, kind, body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answered = threading.Event()
        told = {}
        self.server.heard.put((json.loads(body), told, answered))
        answered.wait(PATIENCE_SECONDS)
        self.answer(200, "application/json", json.dumps(told).encode())

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing."""


def start_browser(command, directory, url):
    """Starts a browser without a window, sandbox, network or anybody's settings. What
    it writes goes into the directory."""
    flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--no-default-browser-check", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-extensions",
             "--disable-breakpad", "--no-proxy-server", "--password-store=basic",
             # It opens pages of ours alone, and not everybody may have a sandbox.
             "--no-sandbox", f"--user-data-dir={directory}/profile"]
    environment = {**os.environ, "HOME": directory, "XDG_CONFIG_HOME": directory,
                   "XDG_CACHE_HOME": directory}
    with open(f"{directory}/browser.log", "wb") as log:
        return subprocess.Popen([command, *flags, url], stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log, env=environment, start_new_session=True)


def stop_browser(browser):
    """Ends it and the processes that it has started, which are its own group, so that
    none of them writes to the directory any more."""

    def is_gone():
        browser.poll()
        try:
            os.killpg(browser.pid, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False

    wait_for(is_gone, PATIENCE_SECONDS)


def hear(checks, heard, page):
    """Counts what a page checks, up to its last word; gives the way to answer that."""
    while True:
        try:
            said, told, answered = heard.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            checks.check(f"{page.name} comes to its end", False, "it is silent")
            return None
        if "end" in said:
            checks.check(f"{page.name} comes to its end", said["end"] == page.name, said["end"])
            return told, answered
        checks.check(f"{page.name}: {said['what']}", said["fine"], said.get("otherwise", ""))
        answered.set()


def visit(checks, heard, pages, plan, options):
    """Has a browser open the pages of the plan."""
    browser, answer = None, None
    try:
        for page in plan:
            for server in pages:
                server.scenario = {"name": page.name, "role": page.role, "store": page.store.url(),
                                   "token": page.token, "hasToken": bool(page.store.token)}
            before = page.store.entries()
            if browser is None:
                browser = start_browser(options.browser, options.directory, page.origin)
            else:
                told, answered = answer
                told["next"] = page.origin
                answered.set()
            answer = hear(checks, heard, page)
            if answer is None:
                with open(f"{options.directory}/browser.log", errors="replace") as log:
                    print(log.read()[-2000:])
                return
            if page.role == "refused":
                after = page.store.entries()
                checks.check(f"{page.name} has changed nothing", after == before,
                             f"{after[0]} {after[1][-300:]}")
    finally:
        if browser is not None:
            stop_browser(browser)


def end_store(checks, store):
    """Stops a store and looks at its log."""
    store.process.terminate()
    ended = wait_for(lambda: store.process.poll() is not None, PATIENCE_SECONDS)
    checks.check("the store stops with 0", ended and store.process.returncode == 0,
                 store.process.returncode)
    with open(store.log, errors="replace") as log:
        panics = [line for line in log if "panicked at src" in line]
    checks.check("its log has no panic of our own", not panics, panics[:3])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--browser", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--count")
    options = parser.parse_args()

    checks, heard = Checks(), queue.Queue()
    pages = own, other = Pages(heard), Pages(heard)
    # The site of the stores is 127.0.0.1.
    allowed = own.url("localhost")
    near, far = other.url("127.0.0.1"), other.url("localhost")
    kinds = {"open": (allowed, None), "token": (allowed, TOKEN), "any": ("*", TOKEN)}
    stores = {name: Memory(options.program, origin, token, f"{options.directory}/{name}.log")
              for name, (origin, token) in kinds.items()}
    try:
        for name, store in stores.items():
            if not store.run():
                with open(store.log, errors="replace") as log:
                    checks.check(f"the store starts ({name})", False, log.read())
                return checks.end(options.count)
        visit(checks, heard, pages, [
            Page("an allowed page", allowed, "allowed", stores["open"], None),
            Page("a page of another port", near, "refused", stores["open"], None),
            Page("a page of another site", far, "refused", stores["open"], None),
            Page("an allowed page with a token", allowed, "allowed", stores["token"], TOKEN),
            Page("a page of another port with the token", near, "refused", stores["token"], TOKEN),
            Page("a page of another site without it", far, "refused", stores["token"], None),
            Page("any page with a token", far, "allowed", stores["any"], TOKEN),
        ], options)
        for store in stores.values():
            end_store(checks, store)
    finally:
        for store in stores.values():
            if store.process is not None and store.process.poll() is None:
                store.kill()
    return checks.end(options.count)


if __name__ == "__main__":
    sys.exit(main())
