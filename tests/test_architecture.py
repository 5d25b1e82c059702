"""The floors of the design, enforced: who may import whom, and which room each third party may enter.

A module imports only from below: from a lower floor, or, where rooms of one floor have an order, from a
lower step. What is imported for type checkers counts too: a type that is known is a dependency in the
reader's head.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "orchestra"

# (floor, step). Steps give the modules of one floor an order; equal places know nothing of each other.
# A package's name stands for its __init__, "__init__" for the one of orchestra itself.
FLOORS: dict[str, tuple[int, int]] = {
    "version": (0, 0),
    "errors": (0, 0),
    "events": (0, 0),
    "config.schema": (1, 0),
    "config.checks": (1, 0),
    "config.files": (1, 0),
    "config.plan": (1, 1),  # extends the schema
    "config.dotenv": (1, 1),
    "config.environment": (1, 1),
    "config.procfile": (1, 1),
    "config.toml": (1, 2),  # gives notes of the plan
    "config.packages": (1, 2),
    "config.select": (1, 3),  # of settings
    "config.addresses": (1, 4),  # of processes
    "config.roles": (1, 4),
    "config.command": (1, 5),  # knows which programs do not speak HTTP
    "config.initial": (1, 6),  # reads package.json as `command` does
    "config.load": (1, 6),  # puts the others together
    "config": (1, 7),
    "supervision.lifecycle": (1, 2),  # reads a ProcessPlan
    "supervision.symptoms": (1, 0),
    "child": (1, 0),
    "child.lines": (1, 0),
    "proxy.message": (2, 0),
    "proxy.route": (2, 1),
    "proxy.answers": (2, 2),
    "proxy.memo": (2, 2),
    "proxy.chunks": (2, 2),
    "proxy.inject": (2, 2),
    "dashboard.words": (2, 0),
    "dashboard.model": (2, 1),
    "child.table": (3, 0),
    "child.families": (3, 1),
    "supervision.graceful": (3, 0),
    "supervision.feed": (3, 1),  # waits by `graceful`
    "child.guard": (3, 1),
    "child.guardian": (3, 1),  # a script, run as a process of its own: it imports nothing of ours
    "child.logfile": (3, 0),
    "child.orphans": (3, 1),
    "child.spawn": (3, 2),
    "child.sockets": (3, 1),
    "watch": (3, 0),
    "proxy.transport": (3, 0),
    "child.probe": (4, 0),
    "child.readiness": (4, 1),  # asks by `child.probe`
    "supervision.delivery": (4, 1),
    "supervision.runtime": (4, 2),  # delivers
    "supervision.install": (4, 3),  # spawns by a `runtime`
    "supervision.attempt": (4, 3),
    "supervision.handover": (4, 4),  # of attempts
    "supervision.worker": (4, 5),
    "supervision.workers": (4, 6),
    "supervision": (4, 7),
    "proxy.gate": (4, 0),
    "proxy.wire": (4, 0),
    "proxy.pool": (4, 1),
    "proxy.tunnel": (4, 1),
    "proxy.upload": (4, 1),
    "proxy.relay": (4, 2),  # hands a WebSocket over to the tunnel
    "proxy.server": (5, 0),
    "proxy": (5, 1),
    "control": (6, 9),
    "dashboard.text": (7, 0),
    "dashboard.writer": (7, 0),
    "dashboard.view": (7, 1),
    "dashboard.plain": (7, 1),
    "dashboard.jsonl": (7, 1),
    "dashboard.screen": (7, 2),
    "dashboard": (7, 9),
    "supervisor": (8, 0),
    "embedding": (8, 1),
    "pytest_plugin": (8, 2),
    "check": (8, 1),  # reads as `supervisor` does
    "__init__": (9, 0),
    "foreground": (9, 1),
    "cli": (9, 2),
    "__main__": (9, 3),
}
# All of control/ is one floor; its modules get places when they come.
FLOOR_OF_CONTROL = (6, 0)

# Who may import what we did not write.
ROOMS: dict[str, set[str]] = {
    "click": {"cli"},
    "dotenv": {"config.dotenv"},
    "h11": {"proxy.message", "proxy.wire", "proxy.pool", "proxy.relay", "proxy.tunnel"},
    "hypercorn": {"control"},
    "msgspec": {"check", "config", "dashboard", "events", "foreground", "supervision"},
    "psutil": {"child.sockets"},
    "table": {"child.guardian"},
    "pytest": {"pytest_plugin"},
    "rich": {"dashboard.text", "dashboard.view", "dashboard.screen"},
    "starlette": {"control"},
    "trio": {
        "foreground",
        "control",
        "dashboard.writer",
        "dashboard.screen",
        "embedding",
        "child.families",
        "child.guard",
        "child.logfile",
        "child.orphans",
        "child.sockets",
        "child.probe",
        "child.spawn",
        "child.readiness",
        "proxy.gate",
        "proxy.pool",
        "proxy.relay",
        "proxy.server",
        "proxy.transport",
        "proxy.tunnel",
        "proxy.upload",
        "proxy.wire",
        "supervision.attempt",
        "supervision.delivery",
        "supervision.feed",
        "supervision.graceful",
        "supervision.handover",
        "supervision.install",
        "supervision.runtime",
        "supervision.worker",
        "supervision.workers",
        "supervisor",
        "watch",
    },
    "watchfiles": {"watch"},
    "wsproto": {"proxy.tunnel"},
}

# Floors 0 to 2 decide and do nothing: `now` is an argument, and so is whatever only the machine knows.
IMPURE = {"asyncio", "os", "select", "socket", "subprocess", "threading", "time", "trio"}
HIGHEST_PURE_FLOOR = 2
# Reading files is what config is for.
MAY_IMPORT_OS = {"config.load", "config.environment"}


class Import(NamedTuple):
    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"orchestra/{self.importer.replace('.', '/')}.py:{self.line} imports {self.imported}"


def name_of(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def place_of(name: str) -> tuple[int, int] | None:
    return FLOORS.get(name, FLOOR_OF_CONTROL if name.startswith("control.") else None)


def imports_of(name: str) -> Iterator[Import]:
    """All imports of a module, wherever they stand in it, each name as exactly as it can be told."""
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[name]}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = ours(inner) in MODULES or ours(inner) in FLOORS
                yield Import(name, inner if is_module else node.module, node.lineno)


def ours(imported: str) -> str | None:
    """The name of one of our modules without ``orchestra.``; `None` for anybody else's."""
    if imported == "orchestra":
        return "__init__"
    return imported.removeprefix("orchestra.") if imported.startswith("orchestra.") else None


ALL_IMPORTS = list(dict.fromkeys(each for name in MODULES for each in imports_of(name)))


def test_every_module_has_a_floor() -> None:
    homeless = [name for name in MODULES if place_of(name) is None]
    assert not homeless, f"give {', '.join(homeless)} a place in FLOORS of this test"


def test_a_module_imports_only_from_below() -> None:
    wrong = []
    for each in ALL_IMPORTS:
        target = ours(each.imported)
        if target is None or (each.importer.startswith("control") and target.startswith("control")):
            continue
        above, below = place_of(each.importer), place_of(target)
        if above is None or below is None or not below < above:
            wrong.append(f"{each}: {below} is not below {above}")
    assert not wrong, "\n".join(wrong)


def test_a_third_party_stays_in_its_rooms() -> None:
    wrong = []
    for each in ALL_IMPORTS:
        party = each.imported.partition(".")[0]
        if party == "orchestra" or party in sys.stdlib_module_names:
            continue
        room = each.importer
        allowed = ROOMS.get(party, set())
        if room not in allowed and room.partition(".")[0] not in allowed:
            wrong.append(f"{each}, which may only enter: {', '.join(sorted(allowed)) or 'nowhere'}")
    assert not wrong, "\n".join(wrong)


def test_what_decides_does_nothing() -> None:
    wrong = []
    for each in ALL_IMPORTS:
        place = place_of(each.importer)
        party = each.imported.partition(".")[0]
        if place is None or place[0] > HIGHEST_PURE_FLOOR or party not in IMPURE:
            continue
        if not (party == "os" and each.importer in MAY_IMPORT_OS):
            wrong.append(str(each))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["orchestra", "orchestra.config", "orchestra.supervisor"])
def test_embedding_loads_neither_the_dashboard_nor_the_control_app(module: str) -> None:
    if module != "orchestra" and ours(module) not in MODULES:
        pytest.fail(f"there is no {module} any more")
    script = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"rich", "starlette", "hypercorn", "click"})
