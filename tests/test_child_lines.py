from __future__ import annotations

import re

import pyte
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
        (b"a\x0cb\x1cc\n", ["a", "bc"]),
        ("a\u2028b\n".encode(), ["a\u2028b"]),
        (b"tab\there\n", ["tab\there"]),
        (b"one\x1b[1G\x1b[0Kdone\n", ["done"]),
        ("⠙\x1b[1G\x1b[0K⠹\x1b[1G\x1b[0Kinstalled\n".encode(), ["installed"]),
        (b"100%\r50%\n", ["50%%"]),
        (b"passs\bword\n", ["password"]),
        (b"abcd\x1b[2Dxy\n", ["abxy"]),
        (b"ab\x1b[3Ccd\x1b[10G!\n", ["ab   cd  !"]),
        (b"abc\x1b[1D\x1b[1K!\n", ["  !"]),
        (b"abc\x1b[2K!\n", ["   !"]),
        (b"abcd\x1b[3D\x1b[2P!\n", ["a!"]),
        (b"abcd\x1b[3D\x1b[2@12\x1b[1X\n", ["a12 cd"]),
        (b"a\x1b7bc\x1b8BC\x1b[sde\x1b[uDE\n", ["aBCDE"]),
        (b"12345678\r\tX\n", ["12345678X"]),
        (b"a\tb\rA\x1b[?25l\n", ["A\tb"]),
        (b"a\tb\r\x1b[3G.\n", ["a .     b"]),
        ("日本\rx\n".encode(), ["x 本"]),
        ("日本\x1b[2D!\n".encode(), ["日! "]),
        ("日\x1b[0Ke\u0301\n".encode(), ["日e\u0301"]),
        (b"one\x1b[1Atwo\x1b[5;1Hthree", ["one", "two", "three"]),
        # Two bars of tqdm's: the outer one's line is passed on the way to the inner one.
        (
            b"outer 1\n\rinner 1\x1b[A\n\rinner 2\x1b[A\router 2\n",
            ["outer 1", "inner 1", "inner 2", "outer 2"],
        ),
        # Vite's clear, an editor's other screen, and what sets a mode.
        (b"\n\x1b[2J\x1b[3J\x1b[Hready\n", ["", "ready"]),
        (b"log\x1b[?1049hscreen\x1b[?1049lback\n", ["log", "screen", "back"]),
        (b"\x1b[?25l\x1b[>1u\x1b[?2004htext\x1b[<u\n", ["text"]),
        (
            b"\x1b]8;;http://a\x1b\\link\x1b]8;;\x07 and \x1b]0;title\x1b[32mgreen\n",
            ["link and \x1b[32mgreen\x1b[0m"],
        ),
        (b"\x1b[31mred\x1b[39m \x1b[1mbold\x1b[5Doff\n", ["\x1b[31mred\x1b[0;1moffld\x1b[0m"]),
        (b"\x1b[999C!\n", [" " * 79 + "!"]),
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


# What terminals are sent, whole and in parts, and what they are not.
_PIECES = st.one_of(
    st.sampled_from(
        [
            *(
                b"\r",
                b"\n",
                b"\r\n",
                b"\b",
                b"\t",
                b"\x0c",
                b"\x1b",
                b"\x1b[",
                b"\x1b]0;",
                b"\x07",
                b"\x1b\\",
                b"\x1bP",
            ),
            *(
                b"\x1b[K",
                b"\x1b[1K",
                b"\x1b[2J",
                b"\x1b[4G",
                b"\x1b[999C",
                b"\x1b[3D",
                b"\x1b[2P",
                b"\x1b[9@",
                b"\x1b[X",
            ),
            *(
                b"\x1b[s",
                b"\x1b[u",
                b"\x1b7",
                b"\x1b8",
                b"\x1b[A",
                b"\x1b[2;5H",
                b"\x1b[?1049h",
                b"\x1b[?25l",
                b"\x1b[r",
            ),
            *(
                b"\x1b[31m",
                b"\x1b[38;5;9m",
                b"\x1b[1;4:3m",
                b"\x1b[0m",
                b"\x1b[;48;2;1;2;3m",
                b"\x1b[22;39m",
                b"\x1b[38m",
            ),
            *map(str.encode, ("é", "日", "\u0301", "\u200d", "\x9b", "\x85", "⠙", "👍")),
        ]
    ),
    st.binary(max_size=6),
    st.text("abc 12;[m", max_size=6).map(str.encode),
    st.just(b"7" * 300),
)


@given(st.lists(_PIECES, max_size=30), st.integers(1, 9))
def test_any_chunks_give_the_same_lines(pieces: list[bytes], size: int) -> None:
    written = b"".join(pieces)
    chunks = [written[at : at + size] for at in range(0, len(written), size)]
    assert lines_of(*chunks) == lines_of(*pieces) == lines_of(written)


@given(st.lists(_PIECES, max_size=30))
def test_lines_are_clean_and_bounded(pieces: list[bytes]) -> None:
    """A move adds no more than the terminal's width, and an attribute is told once."""
    lines = lines_of(*pieces)
    size = len(b"".join(pieces))
    for line in lines:
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", without_colours(line))
    assert sum(len(without_colours(line)) for line in lines) <= size + 80 * len(lines)
    assert sum(map(len, lines)) <= 100 * size + 80 * len(lines)


_DRAWN = st.one_of(
    st.text("abc 12", min_size=1, max_size=6),
    st.sampled_from(
        ["\r", "\b", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[J", "\x1b[G", "\x1b[4G", "\x1b[C", "\x1b[2C"]
    ),
    st.sampled_from(
        ["\x1b[D", "\x1b[3D", "\x1b[2P", "\x1b[X", "\x1b[3X", "\x1b[2@", "\x1b7", "\x1b[31m", "\x1b[0m"]
    ),
    st.sampled_from(["\x1b[?25l", "\x1b[1;7m", "\x1b[27m", "\x1b(B", "\x07"]),
)


@given(st.lists(_DRAWN, max_size=25))
def test_a_row_is_what_a_terminal_shows(pieces: list[str]) -> None:
    """The oracle is pyte, whose screen is as wide as everything that may be written."""
    written = "".join(pieces)
    screen = pyte.Screen(400, 1)
    pyte.Stream(screen).feed(written)
    splitter = LineSplitter()
    splitter.resize(400)
    (line,) = splitter.feed(written.encode() + b"\n")
    assert without_colours(line).rstrip() == screen.display[0].rstrip()


@given(st.lists(st.sampled_from(["a", "é", "日", "本", "e\u0301", " "]), max_size=20))
def test_wide_characters_take_two_columns(characters: list[str]) -> None:
    screen = pyte.Screen(80, 1)
    pyte.Stream(screen).feed("".join(characters) + "!")
    splitter = LineSplitter()
    (line,) = splitter.feed("".join((*characters, f"\x1b[{screen.cursor.x}G", "?\n")).encode())
    assert line == "".join((*characters, "?"))


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_the_lines_do_not_depend_on_how_the_bytes_were_cut(chunks: list[bytes]) -> None:
    assert lines_of(*chunks) == lines_of(b"".join(chunks))


@given(st.text(alphabet=st.one_of(st.sampled_from("\x1b[]()0123456789;?mHJ\r\x07\\\x9bP"), st.characters())))
def test_nothing_that_is_left_controls_a_terminal(line: str) -> None:
    left = clean(line.replace("\n", ""))
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", without_colours(left))


@example([b" ", b"\r\xc2"])
@given(
    st.lists(st.binary(max_size=30).map(lambda each: each.translate(None, b"\x0b\x0c\x1b\xc2")), max_size=8)
)
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


def test_what_is_drawn_over_is_not_kept() -> None:
    """A progress bar may be drawn for hours, and is still shown then."""
    splitter = LineSplitter()
    for number in range(2000):
        assert splitter.feed(b"\r\x1b[K\x1b[3%dm%d of 2000\x1b[m" % (number % 8, number)) == []
    assert without_colours(splitter.partial()) == "1999 of 2000"
    assert splitter.feed(b"\r\x1b[K") == []
    assert splitter.partial() == ""


def test_the_end_of_a_line_by_a_move_is_told_at_once() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"ready\x1b[B") == ["ready"]
    assert splitter.close() == []


def test_a_very_long_line_stays_whole() -> None:
    chunks = [b"x" * 65536] * 160
    (line,) = lines_of(*chunks, b"\n")
    assert len(line) == 65536 * 160


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_line_without_end_becomes_several(size: int) -> None:
    written = b"x" * 50_000 + b"\x1b[31m\ry\n"
    splitter = LineSplitter(longest=20_000)
    chunks = (written[at : at + size] for at in range(0, len(written), size))
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    assert [len(without_colours(line)) for line in lines] == [24_576, 25_424]
    assert "".join(map(without_colours, lines)).count("x") == 49_999
