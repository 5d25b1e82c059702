"""Mappings, lists and scalars -> YAML as people write it. Nothing reads YAML here, so no library is needed.

The key ``#`` of a mapping holds comments that stand above the rest.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Value", "render"]

Value: TypeAlias = "Mapping[str, Value] | Sequence[Value] | str | int | bool"

# Text that no version of YAML takes for anything but a string.
_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[A-Za-z/][A-Za-z0-9_./-]*", re.IGNORECASE)


def render(value: Mapping[str, Value]) -> str:
    """Give the text of a document."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Value) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "#":
                yield from (f"# {line}" for line in each)
            else:
                yield from _entry(f"{_scalar(key)}:", each)
    elif isinstance(value, list):
        for each in value:
            first, *rest = _lines(each) if each or not isinstance(each, dict | list) else [_empty(each)]
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)


def _entry(key: str, value: Value) -> Iterator[str]:
    if not isinstance(value, dict | list):
        yield f"{key} {_scalar(value)}"
    elif not value:
        yield f"{key} {_empty(value)}"
    else:
        yield key
        yield from (f"  {line}" for line in _lines(value))


def _empty(value: Value) -> str:
    return "{}" if isinstance(value, dict) else "[]"


def _scalar(value: Value) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    if isinstance(value, str) and '"' in value and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
