"""A folder as a user has it, and what comes of reading it: a plan, or everything that is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from orchestra.config import Machine, load
from orchestra.config.files import Problems
from orchestra.errors import ConfigErrors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestra.config.plan import Plan
    from orchestra.errors import ConfigError

TWO = "vite: cd ui && npm run dev\napi: serve --port $PORT\n"

T = TypeVar("T")


def completed(step: Callable[[Problems], T]) -> T:
    """Do one step of reading; raise all that it found wrong."""
    problems = Problems()
    result: list[T] = []
    with problems.caught():
        result.append(step(problems))
    problems.raise_all()
    return result[0]


class Project:
    """A folder with a Procfile, a frontend in ``ui``, and programs that exist by name only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"PATH": str(root / "bin"), "HOME": str(root)}
        for program in ("node", "npm", "run", "serve", "python", "work"):
            self.program(program)
        (root / "manage.py").touch()
        (root / "ui").mkdir()
        (root / "ui" / "package.json").write_text(json.dumps({"scripts": {"dev": "vite"}}))

    def program(self, name: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.chmod(0o755)

    def load(self, procfile: str = TWO, settings: str = "", *, machine: Any = None, **options: Any) -> Plan:
        (self.root / "Procfile").write_text(procfile)
        if settings:
            (self.root / "orchestra.toml").write_text(settings)
        here = Machine(environ=self.environ, **(machine or {}))
        return load(self.root / "Procfile", here, **options)

    def errors(self, procfile: str = TWO, settings: str = "", **options: Any) -> list[tuple[str, str]]:
        with pytest.raises(ConfigErrors) as caught:
            self.load(procfile, settings, **options)
        return [self.said(each) for each in caught.value.errors]

    def error(self, procfile: str = TWO, settings: str = "", **options: Any) -> tuple[str, str]:
        (found,) = self.errors(procfile, settings, **options)
        return found

    def said(self, error: ConfigError) -> tuple[str, str]:
        assert "\n" not in str(error) + error.hint
        return str(error).replace(f"{self.root}/", ""), error.hint
