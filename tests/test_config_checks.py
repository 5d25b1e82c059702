"""The words of `ready`."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from orchestra.config.checks import DelayCheck, ExecCheck, HttpCheck, LogCheck, TcpCheck, parse_checks
from orchestra.config.plan import Address


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("tcp", TcpCheck()),
        ("http", HttpCheck("/", None, below=600)),
        ("http:/", HttpCheck("/", None, below=500)),
        ("http:/health?deep=1", HttpCheck("/health?deep=1", None, below=500)),
        ("http:/health=204", HttpCheck("/health", 204, below=500)),
        ("tcp:5432", TcpCheck(Address("localhost", 5432, "tcp"))),
        ("tcp:db.local:5432", TcpCheck(Address("db.local", 5432, "tcp"))),
        ("tcp:[::1]:5432", TcpCheck(Address("::1", 5432, "tcp"))),
        ("http://localhost:9200", HttpCheck("/", None, 500, Address("localhost", 9200))),
        ("http://h/health?deep=1=204", HttpCheck("/health?deep=1", 204, 500, Address("h", 80))),
        ("https://[::1]:8443/a=200", HttpCheck("/a", 200, 500, Address("::1", 8443, "https"))),
        ("exec: pg_isready -q ", ExecCheck("pg_isready -q")),
        ("delay:2", DelayCheck(2.0)),
        ("delay:0.5", DelayCheck(0.5)),
    ],
)
def test_each_kind_has_its_form(text: str, check: object) -> None:
    assert parse_checks(text) == (check,)


def test_a_pattern_is_looked_for_as_it_is_written() -> None:
    (check,) = parse_checks("log:ready: [0-9]+ms$")
    assert isinstance(check, LogCheck)
    assert check.pattern.search("now ready: 12ms")


def test_a_list_means_all() -> None:
    assert parse_checks(("tcp", "delay:1")) == (TcpCheck(), DelayCheck(1.0))
    assert parse_checks(None) == ()


@pytest.mark.parametrize(
    ("check", "status", "is_accepted"),
    [
        (HttpCheck(), 500, True),
        (HttpCheck("/", None, below=500), 499, True),
        (HttpCheck("/", None, below=500), 500, False),
        (HttpCheck("/", 204), 204, True),
        (HttpCheck("/", 204), 200, False),
    ],
)
def test_which_status_will_do(check: HttpCheck, status: int, *, is_accepted: bool) -> None:
    assert check.accepts(status) is is_accepted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("udp", "'udp' is not a valid check"),
        ("", "'' is not a valid check"),
        ("tcp:", "nothing after the colon"),
        ("tcp:0", "'0' is not a port, nor HOST:PORT"),
        ("tcp:65536", "'65536' is not a port"),
        ("tcp:db", "'db' is not a port, nor HOST:PORT"),
        ("tcp:::1:80", "'::1:80' is not a port, nor HOST:PORT"),
        ("http://", "'http://' is not a URL with a host"),
        ("http://h:99999/", "'http://h:99999/' is not a URL"),
        ("ftp://h/", "'ftp://h/' is not a valid check"),
        ("http:", "nothing after the colon"),
        ("http:health", "'health' is not a path that begins with /"),
        ("http:/a b", "'/a b' is not a path"),
        ("log:(", "is not a regular expression: "),
        ("exec:  ", "nothing after the colon"),
        ("delay:soon", "'soon' is not a number of seconds"),
        ("delay:-1", "'-1' is not a number of seconds"),
        ("delay:nan", "'nan' is not a number of seconds"),
    ],
)
def test_everything_else_is_an_error_that_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_checks(text)


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    for kind in ("", "http:", "tcp:", "http://", "log:", "delay:", "exec:"):
        with suppress(ValueError):
            parse_checks(kind + text)
