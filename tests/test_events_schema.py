"""The JSON lines against their schema, which is the README's table of events, and against a real run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
from msgspec import inspect

from orchestra.dashboard.printers import JsonPrinter
from orchestra.events import Event, OutputLine
from tests.kit import Run, get

if TYPE_CHECKING:
    from collections.abc import Iterator

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
STAMP = {"v", "seq", "time", "type"}
# Of the keys that a client has to be ready for: JSON's types by the name of msgspec's.
SCHEMA = msgspec.json.schema(Event)


def table() -> Iterator[tuple[str, set[str]]]:
    """The README's events: type and keys."""
    lines = README.partition("| `type` | keys |")[2].split("\n")[2:]
    for line in lines:
        if not line.startswith("|"):
            return
        types, keys = re.split(r"(?<!\\)\|", line)[1:3]
        # What stands in parentheses or after a colon explains; "when closed also" adds keys to the last type.
        told = re.sub(r"\([^)]*\)", "", keys)
        usual, _, more = told.partition(" also ")
        when = usual.rpartition("when ")[2]  # closed, shown
        names = re.findall(r"`([a-z.]+)`", types)
        for name in names:
            is_more = more and name.endswith(when)
            yield name, set(re.findall(r"`(\w+)`", usual + (more if is_more else "")))


def fields(kind: type[msgspec.Struct]) -> set[str]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name for field in info.fields} - STAMP


def test_the_readme_has_every_event_that_json_prints_with_all_its_keys() -> None:
    printed = {kind.__struct_config__.tag: fields(kind) for kind in (OutputLine, *JsonPrinter.kinds)}
    assert dict(table()) == printed


def conforms(value: object, schema: dict[str, Any]) -> bool:
    """Whether JSON is as a schema wants it, as far as ours use schemas."""
    if "$ref" in schema:
        return conforms(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return any(conforms(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    match schema.get("type"):
        case "object":
            assert isinstance(value, dict)
            known = schema["properties"]
            return set(schema["required"]) <= value.keys() <= known.keys() and all(
                conforms(each, known[name]) for name, each in value.items()
            )
        case "array":
            return isinstance(value, list) and all(conforms(each, schema["items"]) for each in value)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float)
        case "null":
            return value is None
        case kind:
            return isinstance(value, {"string": str, "boolean": bool}[str(kind)])


@pytest.mark.real
def test_the_json_lines_of_a_real_run_are_as_the_schema_says(tmp_path: Path) -> None:
    serve = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"
    (tmp_path / "late.py").write_text("import time\nbreakpoint()\ntime.sleep(1000)\n")
    (tmp_path / "bad.py").write_text("raise ValueError('no')\n")
    (tmp_path / "Procfile").write_text(
        f"web: sleep 0.3; {serve}\nfails: exec {sys.executable} bad.py\nasks: exec {sys.executable} late.py\n"
    )
    (tmp_path / "orchestra.toml").write_text(
        '[proxy]\nlisten = "127.0.0.1:0"\nbackend = "web"\n[process.fails]\nrestart = "never"\n'
    )
    with Run(cwd=tmp_path) as stack:
        assert get(f"{stack.url}/bad.py").status == 200  # held
        stack.state("web", "ready")
        assert get(f"{stack.url}/Procfile").status == 200
        assert get(f"{stack.url}/nothing").status == 404
        stack.state("fails", "failed")
        stack.until(lambda event: event["type"] == "input.wanted")
        (tmp_path / "bad.py").write_text("print('mended')\n")
        stack.stop()
        events = list(stack.events)
    kinds = {event["type"] for event in events}
    assert {
        "run.started",
        "process.state",
        "process.output",
        "input.wanted",
        "error.shown",
        "request.held",
        "request.released",
        "request.finished",
        "notice",
        "run.ended",
    } <= kinds
    by_type = {
        SCHEMA["$defs"][name]["properties"]["type"]["enum"][0]: SCHEMA["$defs"][name]
        for name in (kind.__name__ for kind in get_args(Event))
    }
    for event in events:
        assert conforms(event, by_type[event["type"]]), json.dumps(event)
