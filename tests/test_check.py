"""`orchestra check`: everything that is wrong at once, and what was understood."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.kit import base_port, free_port, orchestra

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real

PROCFILE = """\
vite: cd ui && npm run dev
db: nosuchdb -D data
bad name: x
migrate: ./migrate.sh
api: uvicorn app:app --port $PORT
worker: sh -c "nosuchworker -A app"
open: echo 'x
"""
SETTINGS = """\
[run]
outptu = "plain"
[proxy]
hold = -1
listen = "127.0.0.1:{port}"
[process.db]
ready = ["tcp", "udp"]
env = {{ A = 1 }}
[process.migrate]
depends_on = ["db", "api:completed"]
[process.api]
depends_on = ["migrate:completed", "redis"]
[process.worker]
cwd = "nowhere"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a frontend, and programs that are none."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("node", "npm", "uvicorn"):
        (tools / name).write_text("#!/bin/sh\necho v22.12.0\n")
        (tools / name).chmod(0o755)
    (tmp_path / "ui").mkdir()
    package = {"scripts": {"dev": "vite"}, "devDependencies": {"vite": "^8"}}
    (tmp_path / "ui" / "package.json").write_text(json.dumps(package))
    return tmp_path


def checked(folder: Path, *arguments: str, path: str | None = None) -> tuple[int, str, str]:
    """Run it; the folder is called HERE."""
    env = {
        "PATH": f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}" if path is None else path,
        "PORT": str(base_port()),
        "VIRTUAL_ENV": "x",
    }
    code, out, err = orchestra("check", *arguments, cwd=folder, env=env)
    return code, out.replace(str(folder), "HERE"), err.replace(str(folder), "HERE")


def test_all_faults_are_said_at_once_in_the_order_of_the_files(project: Path) -> None:
    (project / "Procfile").write_text(PROCFILE)
    (project / ".env").write_text("A=1\nB\nC='x\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (project / "orchestra.toml").write_text(SETTINGS.format(port=port))
        code, out, err = checked(project)
    assert code == 2
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.removeprefix("error: ").partition(" (")[0] for line in said] == [
        "Procfile:2: db: nosuchdb is not found on PATH",
        "Procfile:3: 'bad name' is not allowed as a name: a blank in column 4",
        "Procfile:4: migrate: there is no HERE/migrate.sh",
        "Procfile:7: open: a quote is opened and not closed",
        "orchestra.toml:2: run.outptu: no such setting",
        "orchestra.toml:4: proxy.hold: Expected `float` >= 0.0",
        "orchestra.toml:7: process.db.ready: 'udp' is not a valid check",
        "orchestra.toml:8: process.db.env: Expected `str`, got `int`",
        "orchestra.toml:10: process.migrate.depends_on: dependency cycle: migrate -> api -> migrate",
        "orchestra.toml:12: process.api.depends_on: there is no process redis",
        "orchestra.toml:14: process.worker.cwd: there is no folder HERE/nowhere",
        ".env:2: 'B' has no value",
        ".env:3: cannot be understood as NAME=value",
        f"port {port} is taken by pid {os.getpid()}",
    ]
    assert "Traceback" not in err
    assert out.startswith("HERE/Procfile\n")


def test_what_was_understood_is_said(project: Path) -> None:
    (project / "Procfile").write_text(
        "vite: cd ui && npm run dev\ndb: uvicorn x\nmigrate: true\nsite: uvicorn app:app\nworker: uvicorn y\n"
    )
    (project / "orchestra.toml").write_text(
        '[process.db]\nready = "tcp"\n[process.migrate]\ndepends_on = ["db"]\n'
        '[process.site]\ninstances = 2\ndepends_on = ["db", "migrate:completed"]\n'
        '[process.worker]\ndepends_on = ["site:started"]\n[proxy]\nbackend = "site"\n'
    )
    port = free_port()
    code, out, err = checked(project, "--listen", str(port), "-p", "20000", "-x", "worker")
    assert (code, err) == (0, "")
    assert (
        out
        == f"""\
HERE/Procfile

http://127.0.0.1:{port} asks
  backend   site.1 and site.2: set by proxy.backend
  frontend  vite: `npm run dev` in ui runs vite

process  PORT   command
vite     20000  cd ui && npm run dev
                runs tools/npm
                `npm install --no-audit --no-fund` is run first, in HERE/ui
                ready: http
db       20100  uvicorn x
                runs tools/uvicorn
                ready: tcp
migrate  20200  true
site.1   20300  uvicorn app:app
                runs tools/uvicorn
                ready: http
                watched: *.py, *.html, *.jinja, *.jinja2, *.j2, *.css
site.2   20301  uvicorn app:app
                runs tools/uvicorn
                ready: http
                watched: *.py, *.html, *.jinja, *.jinja2, *.j2, *.css

what waits for what
site.1
├─ db, ready
└─ migrate, completed
   └─ db, ready
site.2
├─ db, ready
└─ migrate, completed
   └─ db, ready
"""
    )


@pytest.mark.parametrize("command", ["npm run dev", "sh -c 'npm run dev'"])
def test_a_machine_without_node_is_told(project: Path, command: str) -> None:
    (project / "Procfile").write_text(f"vite: cd ui && {command}\n")
    code, _, err = checked(project, path="/nowhere")
    assert code == 2
    assert err.startswith("error: Procfile:1: vite: it needs node and npm, but node is not found on PATH\n")
    assert "https://nodejs.org" in err


def test_too_many_ports_do_not_hide_the_rest(project: Path) -> None:
    (project / "Procfile").write_text("a: nosuch\nb: true\n")
    code, out, err = checked(project, "-p", "65500")
    assert code == 2
    assert "no port is left for b" in err
    assert "a: nosuch is not found on PATH" in err
    assert "65500" in out


def test_what_is_going_to_be_installed_is_not_missed(project: Path) -> None:
    (project / "Procfile").write_text("vite: cd ui && ./node_modules/.bin/vite\n")
    assert checked(project)[::2] == (0, "")


def test_a_procfile_that_cannot_be_read_does_not_hide_the_rest(project: Path) -> None:
    (project / "Procfile").write_bytes(b"web: \xff\n")
    (project / "orchestra.toml").write_text("[rnu]\n")
    (project / ".env").write_text("B\n")
    code, _, err = checked(project)
    assert code == 2
    assert [line.split(" ")[1] for line in err.splitlines() if line.startswith("error: ")] == [
        "Procfile:1:",
        "orchestra.toml:1:",
        ".env:1:",
    ]
