"""Tests exports and imports of a store as tar archives with Python's tarfile:
archives in all of its formats are imported, and the store's are read.

    scripts/archives.py --url http://127.0.0.1:8888

It uses keys below archives/ and leaves some there. scripts/archives.sh runs it.
"""

import argparse
import io
import sys
import tarfile
import urllib.parse
import urllib.request

from lib import Checks

KEYS = {
    "archives/plain": b"hello",
    "archives/dir/sub/file": bytes(range(256)) * 40,
    "archives/S\u00e3o Paulo": b"1",
    "archives/" + "s" * 90 + "/" + "n" * 90: b"2",
}
# Names that only some formats have room for.
LONG_KEYS = {
    "archives/" + "n" * 300: b"3",
    "archives/\U0001f511" + "\u00e9" * 500: b"4",
}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def ask(url, method="GET", data=None, headers=None):
    """The status and the body of an answer."""
    request = urllib.request.Request(url, data, headers or {}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        return err.code, err.read()


def url_of(url, key):
    return f"{url}/kv/{urllib.parse.quote(key, safe='')}"


def archive_of(entries, form, headers=None):
    """An archive with a directory and these files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        directory = tarfile.TarInfo("archives")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for key, value in entries.items():
            member = tarfile.TarInfo(key)
            member.size = len(value)
            member.mtime = 1.5
            member.pax_headers = dict(headers or {})
            archive.addfile(member, io.BytesIO(value))
    return file.getvalue()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--count")
    parser.add_argument("--pid")
    arguments = parser.parse_args()
    url, checks = arguments.url, Checks()
    everything = f"{url}/kv?prefix=archives/"

    for name, form in FORMATS.items():
        ask(everything, "DELETE")
        entries = KEYS if name == "ustar" else KEYS | LONG_KEYS
        told = ask(f"{url}/import", "PUT", archive_of(entries, form))
        checks.check(f"Python's {name} is imported",
                     told == (200, b"%d\n" % len(entries)), told)
        stored = {key: ask(url_of(url, key))[1] for key in entries}
        checks.check("    with every value", stored == entries)

    ask(everything, "DELETE")
    headers = {"SCHILY.xattr.user.mime_type": "text/csv", "LKV.expires": "2200-01-01T00:00:00.5Z"}
    told = ask(f"{url}/import", "POST", archive_of(KEYS, tarfile.PAX_FORMAT, headers))
    checks.check("types and expiries are imported", told[0] == 200, told)
    lines = ask(f"{everything}&values")[1].splitlines()
    has_all = [b'"type":"text/csv","expires":"2200-01-01T00:00:00.500Z"' in line for line in lines]
    checks.check("    each", len(lines) == len(KEYS) and all(has_all), lines)

    hostile = "archives/../a\0b/"
    ask(url_of(url, hostile), "PUT", b"5")
    archive = tarfile.open(fileobj=io.BytesIO(ask(f"{everything}&tar")[1]))
    members = {member.pax_headers.get("LKV.key", member.name): member for member in archive}
    checks.check("Python lists the store's archive", set(members) == set(KEYS) | {hostile},
                 sorted(members))
    values = {key: archive.extractfile(member).read() for key, member in members.items()}
    checks.check("    and reads every value", values == KEYS | {hostile: b"5"})
    names = [member.name for member in members.values()]
    checks.check("    no path leads out of where it is extracted",
                 not any(".." in name.split("/") or name.startswith("/") for name in names), names)
    of_plain = members["archives/plain"].pax_headers
    of_store = {name: of_plain.get(name) for name in headers}
    checks.check("    types and expiries are in it",
                 of_store == headers | {"LKV.expires": "2200-01-01T00:00:00.500Z"}, of_store)
    return checks.end(arguments.count)


if __name__ == "__main__":
    sys.exit(main())
