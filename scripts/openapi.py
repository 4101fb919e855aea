"""Hooks of Schemathesis for scripts/openapi.sh, which names this file in SCHEMATHESIS_HOOKS.

No call waits for long: a stream of changes gets an end, and a wait is a short one. Bodies of
lines have some that the store takes. Two checks stand for one of Schemathesis, which wants a
type for an empty body, and for one that it lacks: that each header field is described.
"""

import json
import pathlib

import schemathesis

DESCRIPTION = pathlib.Path(__file__).parent.parent / "src/api/openapi.json"
SHORT_WAIT = "1ms"

# Those that every response of HTTP may have, and the type, which is checked by itself.
USUAL_FIELDS = {"date", "connection", "content-length", "transfer-encoding", "content-type"}

description = json.loads(DESCRIPTION.read_text())


def described(response, case):
    """The description of a response. That it has one is checked elsewhere."""
    found = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    while "$ref" in found:
        place, found = found["$ref"], description
        for name in place.removeprefix("#/").split("/"):
            found = found[name]
    return found


@schemathesis.hook
def before_call(context, case, kwargs):
    """Bounds the time of a call."""
    if case.operation.path == "/watch" and case.method.upper() == "GET":
        case.query = {**(case.query or {}), "wait": SHORT_WAIT}
    elif case.query and "wait" in case.query:
        case.query["wait"] = SHORT_WAIT
    for name in [name for name in case.headers or {} if name.lower() == "prefer"]:
        del case.headers[name]


@schemathesis.serializer("application/x-ndjson", "application/x-tar")
def lines(context, value):
    """A list as lines, of which every other one is a write that can be done."""
    texts = []
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        text = json.dumps(item, default=str)
        texts.append(json.dumps({"key": "k", "value": text}) if index % 2 == 0 else text)
    return "\n".join(texts).encode()


@schemathesis.check
def described_fields(context, response, case):
    """Each header field of a response is described."""
    found = described(response, case)
    if found:
        known = {name.lower() for name in found.get("headers", {})} | USUAL_FIELDS
        unknown = {name.lower() for name in response.headers} - known
        assert not unknown, f"header fields that are not described: {sorted(unknown)}"


@schemathesis.check
def described_type(context, response, case):
    """The type of a body is described."""
    found = described(response, case)
    if found and response.content:
        kinds = found.get("content", {})
        (kind, *_) = response.headers.get("content-type", ["none"])
        kind = kind.split(";")[0].strip()
        assert kind in kinds or "*/*" in kinds, f"a type that is not described: {kind}"
