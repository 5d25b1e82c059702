"""Which tools a process finds, which Python they are, and what is said if that may be the wrong one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from orchestra.config.tools import find_program, launcher_of, with_tools
from tests.config_kit import Project

if TYPE_CHECKING:
    from pathlib import Path


def environment(folder: Path, *programs: str, version: str = "3.12.3") -> Path:
    """A virtual environment by name, with programs that are scripts for its Python."""
    scripts = folder / "bin"
    scripts.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = /x\nversion_info = {version}.final.0\n")
    (scripts / "python").touch()
    (scripts / "python").chmod(0o755)
    for name in programs:
        (scripts / name).write_text(f"#!{scripts}/python\n")
        (scripts / name).chmod(0o755)
    return folder


def tools(env: dict[str, str], folder: Path, root: Path, scripts: str | None = None) -> dict[str, str]:
    return with_tools(env, folder=folder, root=root, scripts=scripts)


def test_the_nearest_environment_is_used_as_if_activated(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "PYTHONHOME": "/elsewhere"}
    backend, deep = tmp_path / "backend", tmp_path / "backend" / "src"
    deep.mkdir(parents=True)
    assert tools(env, backend, tmp_path) == env
    environment(tmp_path / "env")
    assert tools(env, deep, tmp_path)["VIRTUAL_ENV"] == f"{tmp_path}/env"
    environment(tmp_path / "venv")
    assert tools(env, deep, tmp_path)["VIRTUAL_ENV"] == f"{tmp_path}/venv"
    environment(backend / ".venv")
    expected = {
        "PATH": f"{backend}/.venv/bin:/usr/bin:/bin:/ours/bin",
        "VIRTUAL_ENV": f"{backend}/.venv",
    }
    for folder in (backend, deep):
        assert tools(env, folder, tmp_path, "/ours/bin") == expected
    assert tools(env, tmp_path, tmp_path)["VIRTUAL_ENV"] == f"{tmp_path}/venv"


def test_a_folder_outside_the_project_has_its_own_tools_then_the_project_s(tmp_path: Path) -> None:
    root, other = tmp_path / "project", tmp_path / "other"
    environment(root / ".venv")
    assert tools({}, other, root)["VIRTUAL_ENV"] == f"{root}/.venv"
    environment(other / ".venv")
    assert tools({}, other, root)["VIRTUAL_ENV"] == f"{other}/.venv"


def test_an_active_environment_stays_but_orchestra_s_own_gives_way(tmp_path: Path) -> None:
    found, ours = environment(tmp_path / ".venv"), environment(tmp_path / "ours")
    scripts = f"{ours}/bin"
    activated = {"PATH": "/a/bin:/usr/bin", "VIRTUAL_ENV": "/a"}
    assert tools(activated, tmp_path, tmp_path) == activated
    own = {"PATH": f"{scripts}:/usr/bin", "VIRTUAL_ENV": str(ours)}
    assert tools(own, tmp_path, tmp_path, scripts)["VIRTUAL_ENV"] == str(found)
    assert tools(own, tmp_path / "ours", tmp_path / "ours", scripts) == own
    launched = with_tools(own, folder=tmp_path, root=tmp_path, scripts=scripts, is_launched=True)
    assert launched == {"PATH": own["PATH"]}


def test_uv_is_told_where_its_environment_is(tmp_path: Path) -> None:
    environment(tmp_path / ".uv")
    env = {"UV_PROJECT_ENVIRONMENT": ".uv"}
    assert "VIRTUAL_ENV" not in tools(env, tmp_path, tmp_path)
    (tmp_path / "uv.lock").touch()
    assert tools(env, tmp_path, tmp_path)["VIRTUAL_ENV"] == f"{tmp_path}/.uv"
    assert launcher_of(tmp_path / "member", tmp_path) == ("uv", tmp_path)


def test_programs_of_packages_are_found_before_they_are_installed(tmp_path: Path) -> None:
    ui = tmp_path / "packages" / "web"
    ui.mkdir(parents=True)
    for folder in (ui, tmp_path):
        (folder / "package.json").touch()
    path = tools({"PATH": "/bin"}, ui, tmp_path)["PATH"]
    assert path == f"{ui}/node_modules/.bin:{tmp_path}/node_modules/.bin:/bin"


def test_our_own_scripts_are_found_last_and_named_once(tmp_path: Path) -> None:
    env = {"PATH": "/ours/bin:/bin"}
    assert tools(env, tmp_path, tmp_path, "/ours/bin") == env
    assert tools({}, tmp_path, tmp_path, "/ours/bin") == {"PATH": f"{os.defpath}:/ours/bin"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#!{venv}/bin/python3\n", "x (Python 3.12.3 of .venv)"),
        ("#!/bin/sh\n'''exec' \"{venv}/bin/python3\" \"$0\" \"$@\"\n' '''\n", "x (Python 3.12.3 of .venv)"),
        ("#!/usr/bin/env -S python3 -I\n", "x (Python 3.12.3 of .venv)"),
        ("#!/usr/bin/env node\n", "x"),
        ("#!/bin/sh\n", "x"),
        ("\x7fELF", "x"),
        ("", "x"),
    ],
)
def test_a_script_says_which_python_it_is(tmp_path: Path, text: str, expected: str) -> None:
    venv = environment(tmp_path / ".venv", "python3")
    (tmp_path / "x").write_text(text.format(venv=venv))
    found = find_program("./x", tmp_path, {"PATH": f"{venv}/bin"}, scripts=None)
    assert found is not None
    assert found.in_words(tmp_path) == expected


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "backend").mkdir()
    return Project(tmp_path)


CD = "api: cd backend && flask run\n"


def test_a_command_that_changes_its_folder_has_the_tools_of_that(project: Project) -> None:
    environment(project.root / "backend" / ".venv", "flask")
    environment(project.root / ".venv", "flask")
    project.program("flask")
    by_command, by_setting, of_root = project.load(
        f"{CD}web: flask run\nroot: flask run\n", '[process.web]\ncwd = "backend"\n'
    ).processes
    words = "backend/.venv/bin/flask (Python 3.12.3 of backend/.venv)"
    assert [by_command.program, by_setting.program] == [words, words]
    assert of_root.program == ".venv/bin/flask (Python 3.12.3 of .venv)"


def warnings(project: Project, procfile: str = CD, **options: object) -> list[tuple[str, str]]:
    notes = project.load(procfile, **options).notes  # type: ignore[arg-type] # of the machine
    shown = [(each.text.replace(f"{project.root}/", ""), each.hint) for each in notes]
    return [(text[text.index("api: ") :], hint) for text, hint in shown if "api: " in text]


def test_a_python_of_orchestra_s_is_not_taken_silently(project: Project) -> None:
    ours = environment(project.root / "ours", "flask")
    own = {"scripts": f"{ours}/bin"}
    ((text, hint),) = warnings(project, machine=own)
    assert text.startswith("api: ours/bin/flask is that of orchestra's own environment: there is no")
    assert hint == "Install it, or activate yours."
    project.environ["VIRTUAL_ENV"] = str(ours)
    assert warnings(project, machine=own) == []  # the user's choice


def test_a_global_program_is_not_taken_for_that_of_a_locked_project(project: Project) -> None:
    project.program("flask")
    (project.root / "bin" / "flask").write_text("#!/usr/bin/env python3\n")
    project.program("python3")
    assert warnings(project) == []
    (project.root / "backend" / "poetry.lock").touch()
    ((text, hint),) = warnings(project)
    assert text == "api: bin/flask is not of an environment that poetry has made"
    assert hint == "Write `poetry run flask`, run `poetry install` in backend, or activate yours."
    assert warnings(project, "api: cd backend && poetry run flask run\n") == [
        ("api: poetry is not found on PATH", "Install it, or correct the command.")
    ]


def test_another_environment_than_the_folder_s_is_named(project: Project) -> None:
    environment(project.root / "backend" / ".venv", "flask")
    active = environment(project.root / "other", "flask")
    project.environ |= {"VIRTUAL_ENV": str(active), "PATH": f"{active}/bin"}
    ((text, _),) = warnings(project)
    assert text == "api: the active environment other is used, not backend/.venv"


def test_an_environment_without_a_python_is_named(project: Project) -> None:
    venv = environment(project.root / "backend" / ".venv", "flask")
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/gone/python3")
    project.program("flask")
    ((text, _),) = warnings(project)
    assert text == "api: backend/.venv has no Python that can be executed, and is not used"


def test_a_script_of_a_moved_environment_is_named(project: Project) -> None:
    venv = environment(project.root / "backend" / ".venv", "flask")
    (venv / "bin" / "flask").write_text("#!/old/.venv/bin/python\n")
    ((text, hint),) = warnings(project)
    assert text.endswith("flask is a script for /old/.venv/bin/python, which is not there")
    assert hint == "Make its virtual environment again."


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ([], "Install it, or correct the command."),
        (["backend/.venv/bin/python"], "Install it in backend/.venv, or correct the command."),
        (["backend/uv.lock"], "Write `uv run flask`, run `uv sync` in backend, or correct the command."),
        (["backend/app/venv/bin/python"], "backend/app has a virtual environment: begin with `cd app &&`."),
    ],
)
def test_the_next_step_follows_from_what_the_folder_has(
    project: Project, files: list[str], hint: str
) -> None:
    for name in files:
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).touch()
    ((text, found),) = warnings(project)
    assert text == "api: flask is not found on PATH"
    assert found == hint
