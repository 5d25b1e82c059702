"""Which files matter to which process: tables."""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestra.config.plan import FromProcess, Plan, ProcessPlan, ProxyPlan, Role
from orchestra.config.reloaders import Reloader
from orchestra.config.schema import BeforeRestart
from orchestra.watch.filters import Filter
from orchestra.watch.interest import RUN, Kind, in_words, interests

ROOT = Path("/nowhere/project")
CODE, TEMPLATE, STYLE = Kind.CODE, Kind.TEMPLATE, Kind.STYLE


def kinds(path: str, *, files: tuple[str, ...] = (), vite: str | None = "ui", **process: Any) -> Any:
    """What a file is to a process called api; and to the run."""
    process = {"role": Role.BACKEND, "cwd": ROOT, **process}
    plan = Plan(
        processes=(
            ProcessPlan(name="api", command="serve", **process),
            ProcessPlan(
                name="vite", command="vite", role=Role.FRONTEND, vite_folder=ROOT / vite if vite else None
            ),
        ),
        files=tuple(ROOT / each for each in files),
    )
    found = Filter(interests(plan, plan.processes)).kinds(normpath(ROOT / path))
    return found.get("api") or found.get(RUN)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("app.py", CODE),
        ("notes/views.py", CODE),
        (".env", CODE),
        ("notes/.env", None),
        ("templates/page.html", TEMPLATE),
        ("page.jinja", TEMPLATE),
        ("page.jinja2", TEMPLATE),
        ("page.html.j2", TEMPLATE),
        ("static/app.css", STYLE),
        ("app.pyc", None),
        ("app.py~", None),
        ("data.json", None),
        ("ui/index.html", None),
        ("ui/src/app.css", None),
        ("ui/tools.py", CODE),
        ("../other.py", None),
    ],
)
def test_a_backend_has_code_templates_and_styles(path: str, kind: Kind | None) -> None:
    assert kinds(path) is kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("index.html", None),
        ("src/app.css", None),
        ("public/help.html", None),
        ("templates/index.html", TEMPLATE),
        ("static/app.css", STYLE),
    ],
)
def test_where_vite_shares_the_folder_its_files_are_left_out(path: str, kind: Kind | None) -> None:
    assert kinds(path, vite=".") is kind


@pytest.mark.parametrize(
    ("watch", "path", "is_watched"),
    [
        (["src/**/*.py"], "src/a.py", True),
        (["src/**/*.py"], "src/b/c/a.py", True),
        (["src/**/*.py"], "a.py", False),
        (["*.toml"], "conf/a.toml", True),
        (["conf/*.toml"], "conf/a.toml", True),
        (["conf/*.toml"], "conf/b/a.toml", False),
        (["./app.toml"], "app.toml", True),
        (["./app.toml"], "b/app.toml", False),
        (["app.toml"], "b/app.toml", True),
        (["data/"], "data/x/y.json", True),
        (["a/data/"], "a/data/x/y.json", True),
        (["a/data/"], "b/a/data/x.json", False),
        (["a/data"], "a/data/x.json", True),
        (["../lib/**/*.py"], "../lib/x/a.py", True),
        (["../lib/**/*.py"], "lib/a.py", False),
        (["*/conf/*.toml"], "a/conf/b.toml", True),
        (["*/conf/*.toml"], "a/b/conf/b.toml", False),
        (["**"], "any/thing", True),
        (["a[bc].txt"], "ab.txt", True),
        (["!"], "app.py", False),
        (["[z-a]", "*.py"], "app.py", True),
    ],
)
def test_patterns_are_those_of_gitignore(watch: list[str], path: str, is_watched: bool) -> None:  # noqa: FBT001
    assert kinds(path, watch=tuple(watch)) is (CODE if is_watched else None)


def test_a_process_is_watched_by_its_role_or_as_it_says() -> None:
    assert kinds("app.py", role=Role.OTHER) is None
    assert kinds("app.py", role=Role.UNDECIDED) is None
    assert kinds("app.py", watch=False) is None
    assert kinds("app.py", role=Role.OTHER, watch=True) is CODE


def test_what_the_proxy_asks_is_the_backend_before_its_role_is_known() -> None:
    process = ProcessPlan(name="api", command="serve", cwd=ROOT, role=Role.UNDECIDED)
    proxy = ProxyPlan(backend=FromProcess(name="api"), frontend=None)
    assert list(interests(Plan(processes=(process,), proxy=proxy), [process])) == ["api"]


def test_no_page_comes_from_a_process_that_is_not_the_backend() -> None:
    assert kinds("mail.html", role=Role.OTHER, watch=True) is CODE
    assert kinds("app.css", role=Role.OTHER, watch=True) is None


def test_what_is_ignored_is_left_out() -> None:
    assert kinds("generated/a.py", ignore=("generated/**",)) is None
    assert kinds("a/generated/a.py", ignore=("generated/",)) is None
    assert kinds("a.py", ignore=("generated/**",)) is CODE


def test_the_inputs_of_a_command_before_a_restart_are_watched() -> None:
    command = BeforeRestart(command="make css", inputs=("css/*.scss",))
    assert kinds("css/app.scss", before_restart=(command,)) is CODE
    assert kinds("css/app.scss", before_restart=(command,), watch=False) is None
    assert kinds("css/app.scss", before_restart=(command,), watch=("*.py",)) is CODE


def test_the_files_of_the_plan_are_the_runs() -> None:
    files = ("Procfile", ".env", "orchestra.toml", "Procfile.[dev]")  # names, not patterns
    for path in files:
        assert kinds(path, files=files) is Kind.PLAN
    assert kinds(".env", files=("Procfile",)) is CODE


@pytest.mark.parametrize(
    ("process", "words"),
    [
        ({}, "watched: *.py, .env, *.html, *.jinja, *.jinja2, *.j2, *.css"),
        ({"watch": ("src/**/*.py",)}, "watched: src/**/*.py"),
        ({"ignore": ("gen/**",), "watch": ("*.py",)}, "watched: *.py, without gen/**"),
        ({"watch": False}, "not watched (watch = false)"),
        ({"role": Role.OTHER}, ""),
        ({"role": Role.UNDECIDED}, "watched, if it turns out to be the backend"),
        (
            {"reloader": Reloader("--reload")},
            "watched: *.py, .env, *.html, *.jinja, *.jinja2, *.j2, *.css; --reload restarts it",
        ),
    ],
)
def test_it_can_be_said_what_is_watched(process: dict[str, Any], words: str) -> None:
    plan = ProcessPlan(name="api", command="serve", **{"role": Role.BACKEND, "cwd": ROOT, **process})
    assert in_words(plan, Plan(processes=(plan,))) == words


def test_where_vite_turned_out_to_run_counts_as_if_it_was_planned() -> None:
    api = ProcessPlan(name="api", command="serve", role=Role.BACKEND, cwd=ROOT)
    web = ProcessPlan(name="web", command="make dev", cwd=ROOT)
    now = replace(web, role=Role.FRONTEND, vite_folder=ROOT / "ui")
    for found, expected in ((web, {"api": TEMPLATE}), (now, {})):
        wanted = interests(Plan(processes=(api, web)), [api, found])
        assert Filter(wanted).kinds(normpath(ROOT / "ui/index.html")) == expected
