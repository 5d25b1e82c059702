"""Regular expressions that are compiled at their first use."""

import re

import pytest

from orchestra.patterns import regex


def test_it_does_what_a_compiled_one_does() -> None:
    word = regex(r"(\w+)!", re.IGNORECASE)
    for _ in range(2):
        assert word.sub(r"<\1>", "a! B!") == "<a> <B>"
        assert [found[1] for found in word.finditer("a! B!")] == ["a", "B"]
    assert word.pattern == r"(\w+)!"
    assert regex(rb"\d").search(b"a1") is not None


def test_nothing_is_compiled_before_it_is_used() -> None:
    invalid = regex("(")
    with pytest.raises(re.error):
        invalid.search("")
