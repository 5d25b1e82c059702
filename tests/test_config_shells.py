"""Words of bash in commands that another shell runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestra.config.programs import foreign_word, knows_bash

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("source .venv/bin/activate && flask run", "source"),
        ("cd x && source .env; run", "source"),
        ("while [[ ! -e x ]]; do sleep 1; done", "[["),
        ("for i in {1..3}; do echo $i; done", "{1..3}"),
        ("cp a.{js,css} out", "{a,b}"),
        ("diff <(a) <(b)", "<(…)"),
        ("run &> log", "&>"),
        ("run |& tee log", "|&"),
        ("cat <<< $X", "<<<"),
        ("pushd ui && npm run dev", "pushd"),
        ("shopt -s globstar; run", "shopt"),
        ("declare -A hosts; run", "declare"),
        ("readarray -t names < list", "mapfile"),
        ("function f { run; }; f", "function"),
    ],
)
def test_what_is_bash_s_is_found(command: str, word: str) -> None:
    found = foreign_word(command)
    assert found is not None
    assert found[0] == word


@pytest.mark.parametrize(
    "command",
    [
        "bash -c '[[ -e x ]] && source y'",
        'bash -c "for i in {1..3}; do echo; done"',
        "run --source x && python source.py",
        "echo ${A} ${A:-b} ${A%,*} ; { run; }",
        "run > log 2>&1 & other",
        "a && b || c; d & e",
        'curl -d \'{"a": 1, "b": 2}\' http://x',
        "[ -e x ] && . ./.env && run",
    ],
)
def test_what_every_shell_has_is_not(command: str) -> None:
    assert foreign_word(command) is None


def test_which_shells_know_bash_s_words(tmp_path: Path) -> None:
    for name, knows in (("bash", True), ("dash", False)):
        (tmp_path / name).touch()
        (tmp_path / "sh").unlink(missing_ok=True)
        (tmp_path / "sh").symlink_to(tmp_path / name)
        assert knows_bash(str(tmp_path / "sh")) is knows
        assert knows_bash(f"{name} -e") is knows
    assert knows_bash("fish")  # not known: not judged
