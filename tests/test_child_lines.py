from __future__ import annotations

import re

import pytest
from hypothesis import example, given, strategies as st

from orchestra.child.lines import LineSplitter, clean, without_colours


def lines_of(*chunks: bytes) -> list[str]:
    splitter = LineSplitter()
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.close()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"no end", ["no end"]),
        (b"\n\n", ["", ""]),
        (b"", []),
        (b"10%\r50%\r100%\n", ["100%"]),
        (b"10%\r50%\r\n", ["50%"]),
        ("naïve ✓\n".encode(), ["naïve ✓"]),
        (b"caf\xe9\n", ["caf\ufffd"]),
        (b"a\x0cb\x1cc\n", ["abc"]),
        ("a\u2028b\n".encode(), ["a\u2028b"]),
        (b"tab\there\n", ["tab\there"]),
    ],
)
def test_lines_are_what_a_person_would_have_seen(written: bytes, shown: list[str]) -> None:
    assert lines_of(written) == shown


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[38;5;9mred\x1b[m", "\x1b[38;5;9mred\x1b[m"),
        ("\x1b[38:2::1:2:3mred", "\x1b[38:2::1:2:3mred"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("\x1b[?25lhidden\x1b[?25h", "hidden"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPsixel\x1b\\text", "text"),
        ("\x1b]0;never ended", ""),
        ("\x1bcreset", "reset"),
        ("\x1b(Bcharset", "charset"),
        ("\x9b2Jc1", "c1"),
        ("\x1b[>4;2mmodify", "modify"),
        ("bell\x07 and \x7f delete", "bell and  delete"),
        ("ends in \x1b", "ends in "),
        ("ends in \x1b[3", "ends in "),
    ],
)
def test_of_all_control_sequences_only_colours_are_left(line: str, left: str) -> None:
    assert clean(line) == left


def test_colours_can_be_removed_too() -> None:
    assert without_colours("\x1b[31mred\x1b[0m and plain") == "red and plain"


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_the_lines_do_not_depend_on_how_the_bytes_were_cut(chunks: list[bytes]) -> None:
    assert lines_of(*chunks) == lines_of(b"".join(chunks))


@given(st.text(alphabet=st.one_of(st.sampled_from("\x1b[]()0123456789;?mHJ\r\x07\\\x9bP"), st.characters())))
def test_nothing_that_is_left_controls_a_terminal(line: str) -> None:
    left = clean(line.replace("\n", ""))
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", without_colours(left))


@example([b" ", b"\r\xc2"])
@given(st.lists(st.binary(max_size=30), max_size=8))
def test_the_beginning_of_a_line_is_what_has_come_since_the_last_end(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    for index, chunk in enumerate(chunks):
        splitter.feed(chunk)
        so_far = b"".join(chunks[: index + 1]).rpartition(b"\n")[2]
        # Up to three bytes of a character that is not whole are left out, and perhaps the end's first half.
        shorter = (so_far[: max(len(so_far) - count, 0)] for count in range(5))
        assert splitter.partial() in [line for each in shorter for line in lines_of(each) or [""]]


def test_half_a_character_at_the_end_of_a_beginning_is_not_shown() -> None:
    splitter = LineSplitter()
    splitter.feed("5 €".encode()[:-1])
    assert splitter.partial() == "5 "
    splitter.feed("€".encode()[-1:])
    assert splitter.partial() == "5 €"


def test_the_beginning_of_a_line_that_is_no_prompt_is_not_shown() -> None:
    splitter = LineSplitter()
    splitter.feed(b"x" * 10_000)
    assert splitter.partial() == ""
    splitter.feed(b"\nPassword: ")
    assert splitter.partial() == "Password: "


def test_a_very_long_line_stays_whole() -> None:
    chunks = [b"x" * 65536] * 160
    (line,) = lines_of(*chunks, b"\n")
    assert len(line) == 65536 * 160
