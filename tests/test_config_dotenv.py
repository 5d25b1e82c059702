"""``.env`` files: what is read, and what is said about everything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from orchestra.config import environment
from orchestra.config.files import Problems
from orchestra.errors import ConfigError
from tests.config_kit import completed

if TYPE_CHECKING:
    from collections.abc import Mapping


def parse(text: str, *, over: Mapping[str, str]) -> dict[str, str]:
    return completed(lambda problems: environment.parse(text, Path(".env"), problems, over=over))


def merge(environ: Mapping[str, str], files: list[tuple[Path, bool]]) -> dict[str, str]:
    return completed(lambda problems: environment.merge(environ, files, problems))


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("A=1\nB = 2\n", {"A": "1", "B": "2"}),
        ("export A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("A=a b\n", {"A": "a b"}),
        ("A=\nB=''\n", {"A": "", "B": ""}),
        ("A='x # y' # z\nB=x # y\nC=x#y\n", {"A": "x # y", "B": "x", "C": "x#y"}),
        ('A="one\ntwo"\nB="a\\nb"\n', {"A": "one\ntwo", "B": "a\nb"}),
        ("A=1\nB=${A}2${FROM_OS}${NONE:-d}\n", {"A": "1", "B": "12osd"}),
        ("FROM_OS=mine\nB=${FROM_OS}\n", {"FROM_OS": "mine", "B": "mine"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("# A=1\n\n", {}),
    ],
)
def test_env_files_are_read(text: str, variables: Mapping[str, str]) -> None:
    assert parse(text, over={"FROM_OS": "os"}) == variables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\n\n\n  hush hush\n", ".env:4: cannot be understood as NAME=value"),
        ('A=1\nB="hush\nC=2\n', ".env:2: cannot be understood as NAME=value"),
        ("A=1\n=hush", ".env:2: cannot be understood as NAME=value"),
        ("\nA", ".env:2: 'A' has no value"),
        ("'A=B'=hush", ".env:1: 'A=B': no variable can have = in it"),
        ("A=hu\0sh", ".env:1: 'A': no variable can have NUL in it"),
    ],
)
def test_a_line_that_makes_no_sense_is_named_without_its_value(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, over={})
    assert str(caught.value) == message
    assert caught.value.hint
    assert "hush" not in str(caught.value) + caught.value.hint


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_parsing_raises_nothing_but_our_error(text: str, over: dict[str, str]) -> None:
    try:
        variables = parse(text, over=over)
    except ConfigError:
        return
    assert all(key and "=" not in key and "\0" not in key for key in variables)


def test_the_later_file_wins_and_sees_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("A=1\nB=1\n")
    (tmp_path / "two").write_text("B=${B}2\n")
    files = [(tmp_path / "one", True), (tmp_path / "none", False), (tmp_path / "two", True)]
    assert merge({"A": "os", "Z": "os"}, files) == {"A": "1", "B": "12", "Z": "os"}


def test_a_file_that_has_to_be_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none: no such env file"):
        merge({}, [(tmp_path / "none", True)])
    with pytest.raises(ConfigError, match="a folder, not an env file"):
        merge({}, [(tmp_path, False)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nB=x$A\n", ["B: $A stays as it is written"]),
        ('PATH="$PATH:./bin"\n', ["PATH: $PATH stays as it is written"]),
        ("URL=http://$HOST/\n", ["URL: $HOST stays as it is written"]),
        ("A=1\nB='x$A'\nC=${A}$\nSECRET=pa$word\nD=\\\\$A\n", []),
    ],
)
def test_a_variable_without_braces_is_named_if_it_could_be_meant(text: str, said: list[str]) -> None:
    problems = Problems()
    environment.parse(text, Path(".env"), problems, over={"HOST": "x", "PATH": "/bin"})
    found = [*problems.errors, *problems.warnings]
    assert [str(each).rpartition("env:")[2].partition(": ")[2] for each in found] == said
