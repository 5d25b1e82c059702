"""Exceptions in what programs write: their real words."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from orchestra.events import Frame
from orchestra.supervision.symptoms import Symptoms
from orchestra.supervision.tracebacks import Failure, TracebackReader, own_frame

SYNTAX = """\
Process SpawnProcess-2:
Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/process.py", line 314, in _bootstrap
    self.run()
  File "/x/app.py", line 1
    def broken(:
               ^
SyntaxError: invalid syntax
"""
MISSING = """\
Traceback (most recent call last):
  File "/x/app.py", line 1, in <module>
    import nosuch
ModuleNotFoundError: No module named 'nosuch'
"""
DOTTED = """\
Traceback (most recent call last):
  File "/x/manage.py", line 22, in <module>
    main()
django.core.exceptions.ImproperlyConfigured: The SECRET_KEY setting must not be empty.
"""
WORDLESS = """\
Traceback (most recent call last):
  File "/x/app.py", line 3, in <module>
    raise Broken
app.errors.Broken
"""
CHAINED = """\
Traceback (most recent call last):
  File "/x/app.py", line 2, in <module>
    {}["a"]
    ~~^^^^^
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/app.py", line 4, in <module>
    raise ValueError("no a")
ValueError: no a
"""
CAUSED = """\
Traceback (most recent call last):
  File "/x/app.py", line 2, in <module>
    int("a")
ValueError: invalid literal for int() with base 10: 'a'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/x/app.py", line 4, in <module>
    raise RuntimeError("not configured") from exc
RuntimeError: not configured
"""
IN_A_THREAD = """\
Exception in thread django-main-thread:
Traceback (most recent call last):
  File "/usr/lib/python3.11/threading.py", line 1045, in _bootstrap_inner
    self.run()
  File "/x/site1/urls.py", line 1
    def broken(:
               ^
SyntaxError: invalid syntax
"""
IN_A_GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/x/app.py", line 7, in <module>
  |     trio.run(main)
  |   File "/x/.venv/lib/python3.11/site-packages/trio/_core/_run.py", line 1117, in __aexit__
  |     raise combined_error_from_nursery
  | ExceptionGroup: Exceptions from Trio nursery (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/x/app.py", line 3, in bad
    |     raise ValueError("no such note")
    | ValueError: no such note
    +------------------------------------
"""
BY_RICH = """\
╭───────────────────── Traceback (most recent call last) ──────────────────────╮
│ /x/app.py:5 in <module>                                                      │
│                                                                              │
│   3 def f(x):                                                                │
│   4 │   return x["a"]                                                        │
│ ❱ 5 f({})                                                                    │
│   6                                                                          │
│                                                                              │
│ /x/app.py:4 in f                                                             │
│                                                                              │
│   2 install()                                                                │
│   3 def f(x):                                                                │
│ ❱ 4 │   return x["a"]                                                        │
│   5 f({})                                                                    │
╰──────────────────────────────────────────────────────────────────────────────╯
KeyError: 'a'
"""
AT_STARTUP = """\
ERROR:    Traceback (most recent call last):
  File "/x/.venv/lib/python3.11/site-packages/starlette/routing.py", line 661, in lifespan
    async with self.lifespan_context(app) as maybe_state:
  File "/usr/lib/python3.11/contextlib.py", line 210, in __aenter__
    return await anext(self.gen)
           ^^^^^^^^^^^^^^^^^^^^^
  File "/x/life.py", line 5, in lifespan
    raise RuntimeError("no database")
RuntimeError: no database
"""
WRAPPED = """\
Traceback (most recent call last):
  File "/x/life.py", line 5, in lifespan
    raise RuntimeError("no database")
RuntimeError: no database

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/.venv/lib/python3.11/site-packages/server/lifespan.py", line 118, in asgi_send
    raise LifespanFailureError("startup")
server.utils.LifespanFailureError: Lifespan failure in startup
"""
MAIN_SCRIPT = """\
  File "/x/app.py", line 3
    def broken(:
               ^
SyntaxError: invalid syntax
"""
RECURSION = """\
Traceback (most recent call last):
  File "/x/app.py", line 2, in f
    f()
  File "/x/app.py", line 2, in f
    f()
  [Previous line repeated 996 more times]
RecursionError: maximum recursion depth exceeded
"""
TROUBLE = {
    "syntax": (SYNTAX, "SyntaxError: invalid syntax"),
    "missing": (MISSING, "ModuleNotFoundError: No module named 'nosuch'"),
    "dotted": (
        DOTTED,
        "django.core.exceptions.ImproperlyConfigured: The SECRET_KEY setting must not be empty.",
    ),
    "wordless": (WORDLESS, "app.errors.Broken"),
    "chained": (CHAINED, "ValueError: no a"),
    "caused": (CAUSED, "RuntimeError: not configured"),
    "in a group": (IN_A_GROUP, "ValueError: no such note"),
    "by rich": (BY_RICH, "KeyError: 'a'"),
    "at startup": (AT_STARTUP, "RuntimeError: no database"),
    "wrapped": (WRAPPED, "server.utils.LifespanFailureError: Lifespan failure in startup"),
    "recursion": (RECURSION, "RecursionError: maximum recursion depth exceeded"),
    "main script": (MAIN_SCRIPT, "SyntaxError: invalid syntax"),
    "in a thread": (IN_A_THREAD, "SyntaxError: invalid syntax"),
}


def seen(text: str) -> TracebackReader:
    traceback = TracebackReader()
    for line in text.splitlines():
        traceback.see(line)
    return traceback


def failure_of(text: str) -> Failure:
    """The last exception in a text."""
    return [each for each in map(TracebackReader().see, text.splitlines()) if each is not None][-1]


@pytest.mark.parametrize(("text", "error"), TROUBLE.values(), ids=TROUBLE)
def test_a_traceback_that_comes_last_is_traceback(text: str, error: str) -> None:
    assert seen(text).error == error
    assert seen("INFO:     Waiting for application startup.\n" + text + "\n\n").error == error
    assert repr(seen(text)) == f"<TracebackReader: {error}>"


@pytest.mark.parametrize(("text", "error"), TROUBLE.values(), ids=TROUBLE)
def test_a_traceback_after_which_life_goes_on_is_no_traceback(text: str, error: str) -> None:
    assert seen(text + "INFO:     Application startup complete.\n").error == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\n",
        "SyntaxError: invalid syntax\n",
        "Traceback (most recent call last):\n",
        'Traceback (most recent call last):\n  File "/x/app.py", line 1, in <module>\n    ValueError: x\n',
    ],
)
def test_an_exception_needs_both_its_head_and_its_end(text: str) -> None:
    assert seen(text).error == ""


def test_of_two_exceptions_the_last_one_counts() -> None:
    assert seen(SYNTAX + MISSING).error == "ModuleNotFoundError: No module named 'nosuch'"


def test_a_group_is_none_but_what_is_in_it() -> None:
    """Else it is shown for a moment, and names no place."""
    traceback = TracebackReader()
    found = [traceback.see(line) for line in IN_A_GROUP.splitlines()]
    assert [each.line for each in found if each is not None] == ["ValueError: no such note"]


def test_what_python_says_of_its_own_tidying_is_no_exception() -> None:
    tidying = """\
Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/resource_tracker.py", line 239, in main
    cache[rtype].remove(name)
KeyError: '/mp-xoc1cxtr'
"""
    assert failure_of(SYNTAX + tidying).error_type == "SyntaxError"


def test_the_last_exception_is_kept_whatever_is_said_after_it() -> None:
    symptoms = Symptoms("")
    for line in ("Traceback (most recent call last):", "socket.gaierror: [Errno -2] no such name", "bye"):
        symptoms.see("stderr", line, 0.0)
    assert symptoms.error == ""
    assert symptoms.failure == Failure("socket.gaierror: [Errno -2] no such name")


PLACES = {
    "syntax": (SYNTAX, Frame("/x/app.py", 1, "", "def broken(:")),
    "missing": (MISSING, Frame("/x/app.py", 1, "<module>", "import nosuch")),
    "chained": (CHAINED, Frame("/x/app.py", 4, "<module>", 'raise ValueError("no a")')),
    "in a thread": (IN_A_THREAD, Frame("/x/site1/urls.py", 1, "", "def broken(:")),
    "in a group": (IN_A_GROUP, Frame("/x/app.py", 3, "bad", 'raise ValueError("no such note")')),
    "by rich": (BY_RICH, Frame("/x/app.py", 4, "f", 'return x["a"]')),
    "at startup": (AT_STARTUP, Frame("/x/life.py", 5, "lifespan", 'raise RuntimeError("no database")')),
    "wrapped": (WRAPPED, Frame("/x/life.py", 5, "lifespan", 'raise RuntimeError("no database")')),
    "main script": (MAIN_SCRIPT, Frame("/x/app.py", 3, "", "def broken(:")),
    "recursion": (RECURSION, Frame("/x/app.py", 2, "f", "f()")),
}


@pytest.mark.parametrize(("text", "place"), PLACES.values(), ids=PLACES)
def test_the_place_is_the_last_one_in_a_file_of_the_project(text: str, place: Frame) -> None:
    assert own_frame(failure_of(text).frames, ["/x"]) == place


def test_a_relative_file_is_one_of_the_first_folder() -> None:
    assert own_frame([Frame("app.py", 3)], ["/x/api", "/x"]) == Frame("/x/api/app.py", 3)


@pytest.mark.parametrize("file", ["<string>", "/usr/lib/python3.11/re.py", "/y/app.py", "../../y/app.py"])
def test_what_is_not_in_the_project_is_no_place_of_it(file: str) -> None:
    assert own_frame([Frame(file, 3)], ["/x/api", "/x"]) is None


def test_the_type_and_the_message_are_told_apart() -> None:
    failure = failure_of(DOTTED)
    assert failure.error_type == "django.core.exceptions.ImproperlyConfigured"
    assert failure.message == "The SECRET_KEY setting must not be empty."


PIECES = st.sampled_from([*{line for text, _ in TROUBLE.values() for line in text.splitlines()}])


@given(st.lists(PIECES | st.text(max_size=80), max_size=300))
def test_whatever_is_written_little_is_kept(lines: list[str]) -> None:
    reader = TracebackReader()
    found = filter(None, map(reader.see, lines))
    assert all(len(failure.frames) <= 50 for failure in found)
