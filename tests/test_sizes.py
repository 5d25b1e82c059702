"""Nothing in the package is too large to read at once; the figures are printed with ``pytest -s``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "orchestra"
# By kind: the most lines that one may have. Past that, it has two jobs.
MOST_LINES = {"module": 500, "class": 300, "function": 60}
MOST_METHODS = 25

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Piece(NamedTuple):
    lines: int
    kind: str
    name: str
    methods: int = 0


def _pieces() -> Iterator[Piece]:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        name = str(path.relative_to(PACKAGE))
        yield Piece(text.count("\n"), "module", name)
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ClassDef | _Function):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(each, _Function) for each in node.body)
                yield Piece(lines, "class", f"{name}:{node.name}", methods)
            else:
                yield Piece(lines, "function", f"{name}:{node.name}")


def test_no_module_class_or_function_is_too_large() -> None:
    pieces = list(_pieces())
    print(f"\norchestra/: {sum(each.lines for each in pieces if each.kind == 'module')} lines")
    for kind in MOST_LINES:
        largest = sorted((each for each in pieces if each.kind == kind), reverse=True)[:3]
        print(f"largest {kind}: " + ", ".join(f"{each.name} {each.lines}" for each in largest))
    too_large = [
        f"{each.kind} {each.name}: {each.lines} lines, {each.methods} methods"
        for each in pieces
        if each.lines > MOST_LINES[each.kind] or each.methods > MOST_METHODS
    ]
    assert not too_large, "\n".join(too_large)
