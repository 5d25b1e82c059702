"""Procfiles: what is an entry, and what is said about everything else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from orchestra.config import procfile
from orchestra.config.files import Problems
from orchestra.config.procfile import DEFAULT_NAMES, Entry, find, is_name, render
from orchestra.errors import ConfigError
from tests.config_kit import completed


def parse(text: str) -> tuple[Entry, ...]:
    return completed(lambda problems: procfile.parse(text, Path("Procfile"), problems))


def read(path: Path) -> tuple[Entry, ...]:
    return completed(lambda problems: procfile.read(path, problems))


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("web: python app.py", [("web", "python app.py", 1)]),
        ("web:python app.py\n", [("web", "python app.py", 1)]),
        ("web:  \t python app.py \t \n", [("web", "python app.py", 1)]),
        ("web: a\r\napi: b\r\n", [("web", "a", 1), ("api", "b", 2)]),
        ("\ufeffweb: a\n", [("web", "a", 1)]),
        ("# one\n  # two\n\t#three\n\n \t \nweb: a # b\n", [("web", "a # b", 6)]),
        ("z: 1\na: 2\nm: 3\n", [("z", "1", 1), ("a", "2", 2), ("m", "3", 3)]),
        ("web: echo a:b::c", [("web", "echo a:b::c", 1)]),
        ("Web_2-x: a", [("Web_2-x", "a", 1)]),
        ("9: a", [("9", "a", 1)]),
        ("web: a\x0cb\u2028c\x85d\x0be\napi: b", [("web", "a\x0cb\u2028c\x85d\x0be", 1), ("api", "b", 2)]),
        ("web: echo \\\\", [("web", "echo \\\\", 1)]),
        ("# comment \\\nweb: a", [("web", "a", 2)]),
        ("web: a=b c", [("web", "a=b c", 1)]),
    ],
)
def test_entries_are_read(text: str, entries: list[tuple[str, str, int]]) -> None:
    assert parse(text) == tuple(Entry(*each) for each in entries)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "web python app.py",
            "Procfile:1: there is no colon after the name (column 4): 'web python app.py'",
            "Write `web: python app.py`.",
        ),
        (
            "web: a\n\n./run.sh",
            "Procfile:3: there is no colon after the name (column 9): './run.sh'",
            "Write `web: python app.py`.",
        ),
        (
            ": python app.py",
            "Procfile:1: no name before the colon (column 1)",
            "Names are made of letters, digits, _ and -: `web: python app.py`.",
        ),
        (
            "web.1: a",
            "Procfile:1: 'web.1' is not allowed as a name: '.' in column 4",
            "Names are made of letters, digits, _ and -, such as web-1.",
        ),
        (
            "my web: a",
            "Procfile:1: 'my web' is not allowed as a name: a blank in column 3",
            "Names are made of letters, digits, _ and -, such as my-web.",
        ),
        ("web : a", "Procfile:1: a blank before the colon (column 4)", "Write `web: a`."),
        (
            "a: b\n  web: a",
            "Procfile:2: the entry 'web' is indented (column 3)",
            "Begin it in column 1; if it continues the line above, make the two one line.",
        ),
        ("web:", "Procfile:1: web has no command (column 5)", "Write one after the colon, or delete line 1."),
        (
            "web: \t\r\n",
            "Procfile:1: web has no command (column 5)",
            "Write one after the colon, or delete line 1.",
        ),
        (
            "web: python \\\n  app.py",
            "Procfile:1: web: a backslash at the end of the line (column 13), but an entry is one line",
            "Write the command on one line, or put it into a script.",
        ),
        (
            "web: a\napi: b\n\nweb: c\n",
            "Procfile:4: web is already defined on line 1",
            "Give one of the two another name, or delete line 1 or 4.",
        ),
        ("", "Procfile: no entries: nothing to run", "Add a line such as `web: python app.py`."),
        (
            "\ufeff# only\n\n",
            "Procfile: no entries: nothing to run",
            "Add a line such as `web: python app.py`.",
        ),
        (
            "export SECRET=hush:hush",
            "Procfile:1: 'export SECRET' is a variable, not an entry",
            "Put it into a file .env beside this.",
        ),
        (
            "web: a\0b",
            "Procfile:1: web: a NUL character in column 7",
            "Delete it: no command can contain one.",
        ),
    ],
)
def test_everything_else_is_an_error_with_its_place_cause_and_fix(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert (str(caught.value), caught.value.hint) == (message, hint)
    assert caught.value.exit_code == 2


def test_reading_goes_on_after_an_error() -> None:
    problems = Problems()
    found = procfile.parse("web: a\noops\n api: b\nlast: c\n", Path("Procfile"), problems)
    assert [each.name for each in found] == ["web", "last"]
    assert [each.line for each in problems.errors] == [2, 3]


def test_of_very_many_problems_the_first_are_listed() -> None:
    """A file that is no Procfile has one in every line."""
    problems = Problems()
    procfile.parse("{}\n" * 1000, Path("Procfile"), problems)
    *listed, last = problems.in_order()
    assert [each.line for each in listed] == [*range(1, 51)]
    assert str(last) == "950 more problems are not listed"


def attempt(text: str) -> tuple[Entry, ...] | ConfigError:
    try:
        return parse(text)
    except ConfigError as exc:
        return exc


names = st.text("abcXYZ019_-", min_size=1, max_size=4)
pieces = st.sampled_from(
    ["web", "api", ":", " ", "\t", "\n", "\r\n", "\r", "#", "\\", "\ufeff", "\0", "é", "=", "\x0c"]
)


@given(st.one_of(st.text(), st.lists(pieces).map("".join)))
@example("web: a\r")
def test_what_is_parsed_and_printed_is_read_again(text: str) -> None:
    entries = attempt(text)
    if isinstance(entries, ConfigError):
        assert entries.hint
        return
    assert entries
    again = parse(render(entries))
    assert [(each.name, each.command) for each in again] == [(each.name, each.command) for each in entries]
    assert all(is_name(each.name) for each in entries)


@given(st.dictionaries(names, st.text("abc $'\"#:=\\\u2028é", min_size=1), min_size=1))
def test_each_entry_that_may_be_is_read_back(processes: dict[str, str]) -> None:
    wanted = {name: f"x{command}y" for name, command in processes.items()}
    text = render([Entry(name, command, 1) for name, command in wanted.items()])
    assert {entry.name: entry.command for entry in parse(text)} == wanted


@given(st.binary(max_size=40))
def test_reading_raises_nothing_but_our_error(data: bytes) -> None:
    class InMemory(type(Path())):  # type: ignore[misc] # the concrete class depends on the platform
        def read_bytes(self) -> bytes:
            return data

    with contextlib.suppress(ConfigError):
        assert read(InMemory("Procfile"))


def test_bytes_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "Procfile"
    path.write_bytes(b"\xef\xbb\xbfweb: a\napi: caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value) == f"{path}:2: not UTF-8: byte 0xe9 at byte 9 of the line"
    path.write_bytes("web: a".encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8: byte 0xff at byte 1"):
        read(path)


def test_a_missing_file_names_similar_ones(tmp_path: Path) -> None:
    (tmp_path / "Procfile.local").touch()
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "Procfile.lokal")
    assert str(caught.value) == f"{tmp_path / 'Procfile.lokal'}: no such file"
    assert caught.value.hint == "There is Procfile.local in that folder: name it on the command line."
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "nowhere" / "Procfile")
    assert "cannot be read or does not exist" in caught.value.hint


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    """Another Procfile is not run in its place."""
    (tmp_path / "Procfile").write_text("web: run\n")
    (tmp_path / "Procfile.dev").symlink_to("gone")
    with pytest.raises(ConfigError, match=r"Procfile.dev: a link to nothing"):
        read(find(tmp_path))


def test_a_folder_is_no_procfile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: a folder, not a Procfile"
    (tmp_path / "Procfile").touch()
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    assert caught.value.hint == f"Name the file: {tmp_path / 'Procfile'}"


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"loop: cannot be read: Too many levels of symbolic links"):
        read(tmp_path / "loop")


def test_the_default_is_the_one_for_development(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert str(caught.value) == f"no Procfile in {tmp_path}: looked for {' and '.join(DEFAULT_NAMES)}"
    (tmp_path / "procfile").touch()
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    if not (tmp_path / "Procfile").exists():  # the file system tells upper case from lower case
        assert caught.value.hint == "There is procfile in that folder: name it on the command line."
    (tmp_path / "Procfile").touch()
    assert find(tmp_path).name == "Procfile"
    (tmp_path / "Procfile.dev").touch()
    assert find(tmp_path).name == "Procfile.dev"
