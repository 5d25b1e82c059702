"""Wrong input of every source, through the command line: what is said, and that nothing begins.

What is said of each mistake in a file is a test of what reads the file (`test_config_*`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from orchestra import cli
from tests.kit import orchestra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WEB = "web: touch started; sleep 1000\n"


class Run(Protocol):
    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which programs exist by name only."""
    (tmp_path / "bin").mkdir()
    for name in ("a", "b", "npm", "node", "run", "x", "y"):
        (tmp_path / "bin" / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("PORT", raising=False)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orchestra", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        pytest.param(
            {},
            ["run"],
            (
                "error: no Procfile in HERE: looked for Procfile.dev and Procfile\n"
                " hint: Nothing to run was found, either: write one, with lines such as `web: python app.py`.\n"
            ),
            id="no-procfile",
        ),
        pytest.param(
            {},
            ["run", "web", "worker"],
            (
                "error: no Procfile with web, worker in HERE: looked for Procfile.dev and Procfile\n"
                " hint: Nothing to run was found, either: write one, with lines such as `web: python app.py`.\n"
            ),
            id="no-procfile-for-run",
        ),
        pytest.param(
            {},
            ["check", "web", "worker"],
            (
                "error: no Procfile with web, worker in HERE: looked for Procfile.dev and Procfile\n"
                " hint: Nothing to run was found, either: write one, with lines such as `web: python app.py`.\n"
            ),
            id="no-procfile-for-check",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "Procfile.dvv"],
            (
                "error: Procfile.dvv: no such file\n"
                " hint: There is Procfile in that folder: name it on the command line.\n"
            ),
            id="a-procfile-that-is-not-there",
        ),
        pytest.param(
            {"Procfile": WEB, "sub/Procfile": WEB},
            ["run", "sub/"],
            ("error: sub: a folder, not a Procfile\n hint: Name the file: sub/Procfile\n"),
            id="a-folder",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "."],
            ("error: .: a folder, not a Procfile\n hint: Name the file: Procfile\n"),
            id="the-folder-itself",
        ),
        pytest.param(
            {"Procfile": b"web: a\nworker: \xff\n"},
            ["run"],
            (
                "error: Procfile:2: not UTF-8: byte 0xff at byte 9 of the line\n"
                " hint: Save the file as UTF-8.\n"
            ),
            id="not-utf-8",
        ),
        pytest.param(
            {"Procfile": "SECRET=abc\nweb: touch started; sleep 1000\n"},
            ["run"],
            (
                "error: Procfile:1: 'SECRET' is a variable, not an entry\n"
                " hint: Put it into a file .env beside this.\n"
            ),
            id="a-variable",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "wbe"],
            ("error: Procfile: there is no process wbe\n hint: Did you mean web? There is only web.\n"),
            id="an-unknown-process",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "-x", "wbe"],
            ("error: Procfile: there is no process wbe\n hint: Did you mean web? There is only web.\n"),
            id="an-unknown-process-left-out",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "-x", "web"],
            ("error: Procfile: no process is left to run\n hint: There is only web.\n"),
            id="nothing-left",
        ),
        pytest.param(
            {"Procfile": WEB + "b: x\n"},
            ["run", "b", "-x", "b"],
            (
                "error: Procfile: no process is left to run\n"
                " hint: There are web, b.\n"
                "error: b is named, and left out by -x, too\n"
                " hint: Do one of the two.\n"
            ),
            id="named-and-left-out",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "--listen", "localhost"],
            (
                "error: cannot listen on 'localhost': it is not HOST:PORT\n"
                " hint: Write HOST:PORT, such as 127.0.0.1:8000, [::1]:8000, or a port alone.\n"
            ),
            id="a-listen-without-a-port",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "--listen", "http://localhost:8000"],
            (
                "error: cannot listen on 'http://localhost:8000': it is a URL\n"
                " hint: Write the address alone: localhost:8000.\n"
            ),
            id="a-listen-that-is-a-url",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "--listen", ":6000"],
            (
                "error: cannot listen on ':6000': browsers refuse to open port 6000\n"
                " hint: Choose another port, such as 8000.\n"
            ),
            id="a-listen-that-browsers-refuse",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "--output", "dashboard"],
            (
                "error: the dashboard needs a terminal: standard input or output is not one\n"
                " hint: Use --output plain (or json), or leave it to --output auto.\n"
            ),
            id="a-dashboard-without-a-terminal",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "--exit-on", "wbe"],
            (
                "error: --exit-on wbe: no such process is run\n"
                " hint: Did you mean web? There are all, any, failure, web.\n"
            ),
            id="an-exit-on-that-is-none",
        ),
        pytest.param(
            {"Procfile": WEB},
            ["run", "-e", "x.env"],
            (
                "error: x.env: no such env file\n"
                " hint: Create it, or correct its name; it is looked for in the project's folder.\n"
            ),
            id="an-env-file-that-is-missing",
        ),
        pytest.param(
            {"Procfile": WEB, ".env": "A=1\nB='open\n"},
            ["run"],
            (
                "error: .env:2: cannot be understood as NAME=value\n"
                " hint: Write NAME=value; a value with quotes, line ends or ' #' in it needs quotes around it.\n"
            ),
            id="an-env-line-that-cannot-be-read",
        ),
        pytest.param(
            {"Procfile": WEB, ".env": "A=1\nB\n"},
            ["run"],
            ("error: .env:2: 'B' has no value\n hint: Write B=value, or B= for an empty value.\n"),
            id="an-env-line-without-a-value",
        ),
        pytest.param(
            {"Procfile": WEB, ".env": "PORT=http\n"},
            ["run"],
            (
                "error: PORT is 'http' in the env file: not a port\n"
                " hint: Set it to a number from 1 to 65535, or unset it: then processes get 5000, 5100, ...\n"
            ),
            id="a-port-in-the-env-file-that-is-none",
        ),
        pytest.param(
            {"Procfile": WEB, "orchestra.toml": "[run]\n", "pyproject.toml": "[tool.orchestra.run]\n"},
            ["run"],
            (
                "error: orchestra.toml: settings are in orchestra.toml and in [tool.orchestra] of pyproject.toml\n"
                " hint: Keep one of the two, and move everything there.\n"
            ),
            id="both-settings",
        ),
        pytest.param(
            {"Procfile": WEB, "pyproject.toml": "[tool.orchestra.process.web]\nportt = 1\n"},
            ["run"],
            (
                "error: pyproject.toml:2: tool.orchestra.process.web.portt: no such setting\n"
                " hint: Did you mean port?\n"
            ),
            id="a-key-of-pyproject",
        ),
        pytest.param(
            {"Procfile": WEB, "orchestra.toml": "[process.web]\nport = 'x'\n"},
            ["run"],
            (
                "error: orchestra.toml:2: process.web.port: Expected `int | null`, got `str`\n"
                " hint: port: its PORT, 0 for any that is free (default: by position).\n"
            ),
            id="a-value-of-the-wrong-type",
        ),
        pytest.param(
            {"Procfile": WEB, "orchestra.toml": "[process.web]\nready = 'udp'\n"},
            ["run"],
            (
                "error: orchestra.toml:2: process.web.ready: 'udp' is not a valid check\n"
                ' hint: It can be "tcp", "tcp:PORT", "tcp:HOST:PORT", "http", "http:/path", "http:/path=204", "http://HOST:PORT/path", "log:REGEX", "exec:COMMAND" or "delay:2".\n'
            ),
            id="a-check-that-is-none",
        ),
        pytest.param(
            {"Procfile": WEB + "ui: npm run dev\n", "package.json": "{,}"},
            ["run"],
            (
                "error: HERE/package.json:1: not JSON: Expecting property name enclosed in double quotes\n"
                " hint: Look at column 2; JSON has neither comments nor commas at the end.\n"
            ),
            id="a-package-json-that-is-broken",
        ),
        pytest.param(
            {"Procfile.dev": WEB},
            ["init"],
            ("error: Procfile.dev: it is there already, and was not touched\n hint: Run it: orchestra run\n"),
            id="init-where-there-is-one",
        ),
    ],
)
def test_wrong_input_is_said_word_for_word(
    project: Path, run: Run, files: dict[str, str | bytes], arguments: list[str], said: str
) -> None:
    write(project, files)
    code, out, err = run(*arguments)
    assert err.replace(str(project), "HERE") == said
    assert (code, out) == (2, "")


@pytest.mark.parametrize("command", ["run", "check"])
def test_all_of_it_is_said_at_once(project: Path, run: Run, command: str) -> None:
    write(
        project,
        {
            "Procfile": "web: run\nbad name: x\napi: nosuch\n",
            "orchestra.toml": "[run]\noutptu = 1\n[process.api]\nport = 'x'\n",
            ".env": "B\n",
        },
    )
    code, _, err = run(command)
    assert code == 2
    assert err.replace(str(project), "HERE") == (
        "error: Procfile:2: 'bad name' is not allowed as a name: a blank in column 4\n"
        " hint: Names are made of letters, digits, _ and -, such as bad-name.\n"
        "error: Procfile:3: api: nosuch is not found on PATH\n"
        " hint: Install it, or correct the command.\n"
        "error: orchestra.toml:2: run.outptu: no such setting\n"
        " hint: Did you mean output?\n"
        "error: orchestra.toml:4: process.api.port: Expected `int | null`, got `str`\n"
        " hint: port: its PORT, 0 for any that is free (default: by position).\n"
        "error: .env:1: 'B' has no value\n"
        " hint: Write B=value, or B= for an empty value.\n"
    )


@pytest.mark.real
@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        ({}, ["run"], "no Procfile in "),
        ({"Procfile": WEB + "oops\n"}, ["run"], "Procfile:2: there is no colon"),
        ({"Procfile": WEB, "orchestra.toml": "[run]\ncolour = 1\n"}, ["run"], "orchestra.toml:2: run.colour"),
        ({"Procfile": WEB}, ["check", "wbe"], "there is no process wbe"),
        ({"Procfile.dev": WEB}, ["init"], "it is there already"),
    ],
)
def test_nothing_is_started(
    tmp_path: Path, files: dict[str, str | bytes], arguments: list[str], said: str
) -> None:
    write(tmp_path, files)
    code, _, err = orchestra(*arguments, cwd=tmp_path)
    assert (code, said in err) == (2, True)
    assert "Traceback" not in err
    assert not (tmp_path / "started").exists()
