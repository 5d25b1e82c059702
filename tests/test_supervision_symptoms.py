"""What servers write when they reload, and programs when they are broken: their real words."""

from __future__ import annotations

import pytest

from orchestra.supervision.symptoms import Symptoms, Traceback

RELOADS = {
    "uvicorn, StatReload": "WARNING:  StatReload detected changes in 'app.py'. Reloading...",
    "uvicorn, WatchFiles": "WARNING:  WatchFiles detected changes in 'app.py', 'b.py'. Reloading...",
    "uvicorn-hmr": "Watchfiles detected changes in 'app.py'. Reloading...",
    "Werkzeug": " * Detected change in '/x/app.py', reloading",
    "Django": "/x/views.py changed, reloading.",
    "gunicorn": "[2026-11-21 16:44:52 +0000] [4711] [INFO] Worker reloading: /x/app.py modified",
}


@pytest.mark.parametrize("line", RELOADS.values(), ids=RELOADS)
def test_a_server_that_reloads_says_so(line: str) -> None:
    assert Symptoms("serve").see(line, 0.0)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INFO:     Started reloader process [4711] using StatReload",
        "INFO:     Will watch for changes in these directories: ['/x']",
        " * Restarting with stat",
        " * Debugger is active!",
        "Watching for file changes with StatReloader",
        "[2026-11-21 16:44:52 +0000] [4711] [INFO] Booting worker with pid: 4712",
        'INFO:     127.0.0.1:1234 - "GET /api/reload?changed=1 HTTP/1.1" 200 OK',
        "prices changed, reloading. Done in 3 s",
        "[vite] page reload src/main.js",
        "[vite] (client) hmr update /src/App.vue",
        "configuration detected, Reloading...",
        "Worker reloading: nothing",
    ],
)
def test_other_words_are_not_taken_for_a_reload(line: str) -> None:
    assert not Symptoms("serve").see(line, 0.0)


def after(line: str) -> Symptoms:
    symptoms = Symptoms("serve")
    symptoms.see(line, 0.0)
    return symptoms


def test_a_new_server_introduces_itself() -> None:
    assert after("INFO:     Started server process [4711]").new_server_seen
    for line in (
        "INFO:     Started reloader process [4711] using StatReload",
        "Started",
        "Started server",
        "",
    ):
        assert not after(line).new_server_seen
    assert not after("INFO:     Finished server process [4711]").new_server_seen


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
    "in a thread": (IN_A_THREAD, "SyntaxError: invalid syntax"),
}


def seen(text: str) -> Traceback:
    traceback = Traceback()
    for line in text.splitlines():
        traceback.see(line)
    return traceback


@pytest.mark.parametrize(("text", "error"), TROUBLE.values(), ids=TROUBLE)
def test_a_traceback_that_comes_last_is_traceback(text: str, error: str) -> None:
    assert seen(text).error == error
    assert seen("INFO:     Waiting for application startup.\n" + text + "\n\n").error == error
    assert repr(seen(text)) == f"<Traceback: {error}>"


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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("INFO:     Will watch for changes in these directories: ['/x']", True),
        (" * Restarting with stat", True),
        (" * Restarting with watchdog (inotify)", True),
        ("Watching for file changes with StatReloader", True),
        ("INFO:     Started server process [12]", False),
        ("Restarting the universe", False),
    ],
)
def test_a_server_that_watches_its_files_is_told_apart(line: str, *, expected: bool) -> None:
    assert after(line).watches is expected


def test_the_reloader_is_read_from_its_line() -> None:
    assert after("INFO:     Started reloader process [4711] using WatchFiles").reloader == 4711
    assert after("INFO:     Started server process [4711]").reloader is None


def test_the_last_exception_is_kept_whatever_is_said_after_it() -> None:
    traceback = Traceback()
    for line in ("Traceback (most recent call last):", "socket.gaierror: [Errno -2] no such name", "bye"):
        traceback.see(line)
    assert (traceback.error, traceback.last) == ("", "socket.gaierror: [Errno -2] no such name")
