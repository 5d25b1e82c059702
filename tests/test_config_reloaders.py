"""Which commands reload themselves, and what their users are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestra.config.command import read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("command", "word", "hint"),
    [
        ("uvicorn app:app --reload --port $PORT", "--reload", "Delete --reload"),
        ("exec python -m uvicorn --reload app:app", "--reload", "Delete --reload"),
        ("cd backend && uv run uvicorn app:app --reload", "--reload", "Delete --reload"),
        ("hypercorn --reload app:app", "--reload", "Delete --reload"),
        ("python -m bottle --reload app:app", "--reload", "Delete --reload"),
        ("gunicorn --reload app:app", "--reload", "Delete --reload"),
        ("litestar run --reload", "--reload", "Delete --reload"),
        ("flask --app notes run --debug", "--debug", "Add --no-reload"),
        ("FLASK_DEBUG=1 flask run", None, ""),  # its output tells
        ("fastapi dev app.py", "dev", "Add --no-reload"),
        ("python manage.py runserver $PORT", "runserver", "Add --noreload"),
        ("./manage.py runserver", "runserver", "Add --noreload"),
        ("uvicorn-hmr app:app", "uvicorn-hmr", ""),
        ("watchfiles 'python app.py' src", "watchfiles", "Delete watchfiles"),
        ("nodemon --exec python app.py", "nodemon", "Delete nodemon"),
        ("watchexec -r -- python app.py", "watchexec", "Delete watchexec"),
        ("ls *.py | entr -r python app.py", "entr", "Delete entr"),
    ],
)
def test_a_command_that_reloads_itself_is_known(
    command: str, word: str | None, hint: str, tmp_path: Path
) -> None:
    reloader = read(command, cwd=tmp_path, root=tmp_path).reloader
    assert (reloader.word if reloader is not None else None) == word
    if reloader is not None:
        assert reloader.hint.startswith(hint)
        assert bool(reloader.hint) == bool(hint)


@pytest.mark.parametrize(
    "command",
    [
        "uvicorn app:app",
        "fastapi run app.py",
        "fastapi dev --no-reload app.py",
        "python manage.py runserver --noreload",
        "python manage.py migrate",
        "flask run",
        "flask run --debug --no-reload",
        "python app.py",
        "celery -A app worker",
    ],
)
def test_any_other_does_not(command: str, tmp_path: Path) -> None:
    assert read(command, cwd=tmp_path, root=tmp_path).reloader is None


@pytest.mark.parametrize(
    ("command", "is_late"),
    [("python manage.py runserver", True), ("flask run --debug", False), ("uvicorn app:app --reload", False)],
)
def test_django_notices_templates_late(command: str, is_late: bool, tmp_path: Path) -> None:  # noqa: FBT001
    reloader = read(command, cwd=tmp_path, root=tmp_path).reloader
    assert reloader is not None
    # Longer than the second after which `StatReloader` looks again.
    assert (reloader.template_delay > 1) == is_late


@pytest.mark.parametrize(("value", "reloads"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_flask_reloads_in_an_environment_for_debugging(value: str, reloads: bool, tmp_path: Path) -> None:  # noqa: FBT001
    found = read("flask run", cwd=tmp_path, root=tmp_path, env={"FLASK_DEBUG": value})
    assert (found.reloader is not None) == reloads
