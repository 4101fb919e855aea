#!/usr/bin/env python3
"""Makes countries.tsv, flags/ and the LICENSE files from two npm packages.

    npm pack countries-list@3.4.1 flag-icons@7.5.0
    mkdir list icons
    tar -xzf countries-list-3.4.1.tgz --strip-components=1 -C list
    tar -xzf flag-icons-7.5.0.tgz --strip-components=1 -C icons
    python3 extract.py list icons

Writes next to this file. Needs nothing but Python 3, opens no connection, and
writes the same bytes from the same packages.
"""

import json
import re
import shutil
import sys
import unicodedata
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Countries whose flag the icons keep under another name than their code.
FLAG_NAMES = {"ac": "sh-ac", "ta": "sh-ta"}


def slug(name):
    """The name in lower-case ASCII, with one `-` for everything else."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", ascii_only.lower()).strip("-")


def facts(code, country, world):
    """The facts about one country, as (name, value); some values are empty."""
    currencies = [world["currencies"][each] for each in country["currency"]]
    languages = [world["languages"][each] for each in country["languages"]]
    continents = country.get("continents", [])
    whole = country.get("partOf")

    yield "name", country["name"]
    yield "native", country["native"]
    yield "aliases", ", ".join(country.get("alias", []))
    yield "capital", country["capital"]
    yield "continent", world["continents"][country["continent"]]
    yield "continents", ", ".join(world["continents"][each] for each in continents)
    yield "part-of", world["countries"][whole]["name"] if whole else ""
    yield "currencies", ", ".join(each["name"] for each in currencies)
    yield "currency-codes", ", ".join(country["currency"])
    yield "currency-symbols", ", ".join(each["symbol"] for each in currencies)
    yield "languages", ", ".join(each["name"] for each in languages)
    yield "languages-native", ", ".join(each["native"] for each in languages)
    yield "language-codes", ", ".join(country["languages"])
    yield "phone", ", ".join(f"+{each}" for each in country["phone"])
    yield "code", code
    yield "code3", world["codes3"].get(code, "")
    yield "emoji", world["emojis"].get(code, "")


def main(package, icons):
    """Writes the extract of the two unpacked packages."""

    def read(path):
        return json.loads((package / path).read_text(encoding="utf-8"))

    world = {
        "countries": read("countries.min.json"),
        "continents": read("continents.min.json"),
        "currencies": read("currencies.all.min.json"),
        "languages": read("languages.all.min.json"),
        "codes3": read("minimal/countries.2to3.min.json"),
        "emojis": read("minimal/countries.emoji.min.json"),
    }
    by_slug = {slug(each["name"]): code for code, each in world["countries"].items()}
    assert len(by_slug) == len(world["countries"]), "two countries share a key"

    flags = HERE / "flags"
    shutil.rmtree(flags, ignore_errors=True)
    flags.mkdir()
    lines = []
    for country, code in sorted(by_slug.items()):
        for fact, value in facts(code, world["countries"][code], world):
            assert not re.search("[\t\r\n]", value), (country, fact)
            if value:
                lines.append(f"{country}:{fact}\t{value}\n")
        name = code.lower()
        flag = icons / "flags" / "4x3" / f"{FLAG_NAMES.get(name, name)}.svg"
        (flags / f"{name}.svg").write_bytes(flag.read_bytes())

    (HERE / "countries.tsv").write_bytes("".join(lines).encode("utf-8"))
    for source in (package, icons):
        name = json.loads((source / "package.json").read_text(encoding="utf-8"))["name"]
        (HERE / f"LICENSE.{name}").write_bytes((source / "LICENSE").read_bytes())
    print(f"{len(by_slug)} countries, {len(lines)} facts, {len(by_slug)} flags")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: extract.py COUNTRIES-LIST FLAG-ICONS")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
