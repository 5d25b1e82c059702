"""Applications with nothing configured but `app`: FastAPI, Flask and Django."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kit import Run, get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

FASTAPI = """
from fastapi import FastAPI


def create():
    app = FastAPI()
    app.get("/")(lambda: "hello")
    return app
"""
FLASK = """
from flask import Flask

app = Flask(__name__)
app.get("/")(lambda: "hello")
"""


def fastapi(root: Path) -> None:
    (root / "src" / "notes").mkdir(parents=True)
    (root / "src" / "notes" / "main.py").write_text(FASTAPI)


def flask(root: Path) -> None:
    (root / "notes.py").write_text(FLASK)


def django(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "django", "startproject", "mysite", "."], cwd=root, check=True)


@pytest.mark.parametrize(
    ("make", "app", "head"),
    [
        (fastapi, "notes.main:create()", 405),
        (flask, "notes:app", 200),
        (django, "mysite.wsgi:application", 200),
        (django, "mysite.asgi:application", 200),
    ],
)
def test_an_application_is_all_that_is_configured(
    tmp_path: Path, make: Callable[[Path], None], app: str, head: int
) -> None:
    make(tmp_path)
    (tmp_path / "orchestra.toml").write_text(f'[process.api]\napp = "{app}"\n')
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path) as run:
        run.state("api", "ready")
        answer = get(run.url)
        assert (answer.status, answer.upstream) == (200, "backend")
        assert get(run.url, method="HEAD").status == head


def test_an_application_that_is_not_there_is_said(tmp_path: Path) -> None:
    flask(tmp_path)
    (tmp_path / "orchestra.toml").write_text('[process.api]\napp = "notes:ap"\nrestart = "never"\n')
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path) as run:
        place = f"orchestra.toml: process.api.app: there is no ap in {tmp_path}/notes.py"
        run.line("api", f'{place}: did you mean "notes:app"?')
        run.state("api", "failed")
