"""What servers write when they reload, and programs when they are broken: their real words."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from orchestra.supervision.symptoms import Symptoms, explain, is_prompt, port_clash

RELOADS = {
    "uvicorn, StatReload": "WARNING:  StatReload detected changes in 'app.py'. Reloading...",
    "uvicorn, WatchFiles": "WARNING:  WatchFiles detected changes in 'app.py', 'b.py'. Reloading...",
    "uvicorn-hmr": "Watchfiles detected changes in 'app.py'. Reloading...",
    "Werkzeug": " * Detected change in '/x/app.py', reloading",
    "Django": "/x/views.py changed, reloading.",
    "gunicorn": "[2026-11-21 16:44:52 +0000] [4711] [INFO] Worker reloading: /x/app.py modified",
}

# What tells something, alone or with what comes before it.
TELLING = (
    *RELOADS.values(),
    "INFO:     Started server process [4711]",
    " * Restarting with stat",
    "INFO:     Will watch for changes in these directories: ['/x']",
    "Traceback (most recent call last):",
    '  File "/x/app.py", line 3, in f',
    '  File "/x/app.py", line 1',
    "    def broken(:",
    "SyntaxError: invalid syntax",
    "During handling of the above exception, another exception occurred:",
    "",
    "it goes on",
)


@pytest.mark.parametrize("line", RELOADS.values(), ids=RELOADS)
def test_a_server_that_reloads_says_so(line: str) -> None:
    assert Symptoms("serve").see("stdout", line, 0.0)


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
    assert not Symptoms("serve").see("stdout", line, 0.0)


@given(st.lists(st.sampled_from(TELLING) | st.text(max_size=30), max_size=60), st.integers(1, 60))
def test_lines_tell_the_same_at_once_as_one_by_one(lines: list[str], at_once: int) -> None:
    single, several = Symptoms("serve"), Symptoms("serve")
    found = [told for line in lines if (told := single.see("stderr", line, 0.0))]
    starts = range(0, len(lines), at_once)
    assert found == [told for at in starts for told in several.read("stderr", lines[at : at + at_once], 0.0)]
    for name in ("error", "failure", "watches", "new_server_seen"):
        assert getattr(single, name) == getattr(several, name)


def after(line: str) -> Symptoms:
    symptoms = Symptoms("serve")
    symptoms.see("stdout", line, 0.0)
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("INFO:     Will watch for changes in these directories: ['/x']", True),
        (" * Restarting with stat", True),
        (" * Restarting with watchdog (inotify)", True),
        ("Watching for file changes with StatReloader", True),
        ("INFO:     Started server process [12]", False),
        ("Restarting the universe", False),
        ("Found 0 errors. Watching for file changes.", False),
    ],
)
def test_a_server_that_watches_its_files_is_told_apart(line: str, *, expected: bool) -> None:
    assert after(line).watches is expected


def test_a_traceback_is_read_on_its_stream_whatever_comes_over_the_other() -> None:
    """Two pipes are read in any order: what Django wrote before it may come afterwards, or in its middle."""
    symptoms = Symptoms("serve")
    symptoms.see("stderr", "Traceback (most recent call last):", 0.0)
    symptoms.see("stdout", "Performing system checks...", 0.0)
    symptoms.see("stderr", "SyntaxError: invalid syntax", 0.0)
    symptoms.see("stdout", "", 0.0)
    symptoms.see("stdout", "Performing system checks...", 0.0)
    assert symptoms.error == "SyntaxError: invalid syntax"
    symptoms.see("stderr", "it goes on", 0.0)
    assert symptoms.error == ""
    assert symptoms.failure is not None
    assert symptoms.failure.line == "SyntaxError: invalid syntax"


ENDS = {
    "make": (
        ("error when starting dev server:", "Error: Found another Vite (PID 7).", "Pass --bypass-lock.",
         "    at scan (file:///x/vite.js:741:9)", "}", "make: *** [Makefile:2: dev] Error 1"),
        "Error: Found another Vite (PID 7). Pass --bypass-lock.",
    ),
    "Node": (
        ("node:internal/modules/cjs/loader:1215", "  throw err;", "  ^", "",
         "Error: Cannot find module './x.js'", "    at Module._load (node:internal:1:2)",
         "  code: 'MODULE_NOT_FOUND',", "}", "", "Node.js v22.1.0"),
        "Error: Cannot find module './x.js'",
    ),
    "Node, a syntax error": (
        ("/x/app.js:3", "foo bar", "    ^^^", "", "SyntaxError: Unexpected identifier 'bar'",
         "    at wrapSafe (node:internal:1:2)", "", "Node.js v22.1.0"),
        "SyntaxError: Unexpected identifier 'bar' (/x/app.js:3)",
    ),
    "click": (
        ("Usage: flask run [OPTIONS]", "Try '--help'.", "", "Error: No such option: --foo"),
        "Error: No such option: --foo",
    ),
    "Go": (
        ("panic: no config", "", "goroutine 1 [running]:", "\t/x/main.go:5 +0x1", "exit status 2"),
        "panic: no config",
    ),
    "Go, compiling": (("# app", "./main.go:5:2: undefined: x"), "./main.go:5:2: undefined: x"),
    "Rust": (
        ("thread 'main' panicked at src/main.rs:2:5:", "boom", "note: run with `RUST_BACKTRACE=1`"),
        "thread 'main' panicked at src/main.rs:2:5: boom",
    ),
    "PostgreSQL": (
        ('FATAL:  data directory "/d" has wrong ownership', "HINT:  Its owner must start it."),
        'FATAL:  data directory "/d" has wrong ownership HINT:  Its owner must start it.',
    ),
    "npm, a script": (
        ("", "> dev", "> node x.js", "", "x.js: config missing", "npm error Lifecycle script `dev` failed:"),
        "x.js: config missing",
    ),
    "npm itself": (
        ('npm error Missing script: "dev"', "npm error", "npm error A complete log of this run is in /x"),
        'npm error Missing script: "dev"',
    ),
    "pnpm": (("Bad key", "\u2009ELIFECYCLE\u2009 Command failed with exit code 1."), "Bad key"),
    "just": (
        ("redis: not configured", "error: Recipe `dev` failed on line 2 with exit code 1"),
        "redis: not configured",
    ),
    "its only words": (("no more",), "no more"),
    "nothing": ((), ""),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "why"), ENDS.values(), ids=ENDS)
def test_the_line_that_says_why_it_ended_is_found(lines: tuple[str, ...], why: str) -> None:
    """Not that of what has run it, nor a frame of its stack."""
    assert explain(lines) == why


OWN, OTHER = "it wants port 8000, which is orchestra's own", "it wants a port that it cannot have: "
GUESSED = "it wants a port that is taken, most probably 8000, which is orchestra's"
CLASHES = {
    "uvicorn": ("error while attempting to bind on address ('127.0.0.1', 8000): address already in use", OWN),
    "Node": ("Error: listen EADDRINUSE: address already in use 127.0.0.1:8000", OWN),
    "Go": ("listen tcp :8000: bind: address already in use", OWN),
    "gunicorn": ("[ERROR] Connection in use: ('127.0.0.1', 8000)", OWN),
    "PHP": ("Failed to listen on localhost:8000 (reason: Address already in use)", OWN),
    "Rails": ('Address already in use - bind(2) for "127.0.0.1" port 8000 (Errno::EADDRINUSE)', OWN),
    "Django": ("Starting server at http://127.0.0.1:8000/\nError: That port is already in use.", OWN),
    "Hypercorn": ("OSError: [Errno 98] Address already in use", GUESSED),
    "a sibling's": ("Error: Port 3000 is already in use", f"{OTHER}port 3000 is taken by web"),
    "its own PORT": ("Port 5100 is in use by another program.", None),
    "free again": ("listen tcp :3100: bind: address already in use", None),
    "something else": ("ValueError: 8000", None),
}  # fmt: skip


@pytest.mark.parametrize(("words", "text"), CLASHES.values(), ids=CLASHES)
def test_a_port_that_is_taken_is_named_with_what_has_it(words: str, text: str | None) -> None:
    found = port_clash(words.split("\n"), own=8000, planned=5100, holders={8000: "us", 3000: "web"})
    assert (found or (None,))[0] == text
    assert found is None or ("another address: --listen" in found[1]) == (text in (OWN, GUESSED))


def test_a_port_that_is_not_named_is_not_guessed_where_the_address_is_another_one() -> None:
    words = ["OSError: [Errno 98] Address already in use"]
    assert port_clash(words, own=8001, planned=5100, holders={}) is None


@pytest.mark.parametrize(
    "line",
    [
        "Port 5173 is in use, trying another one...",
        " ⚠ Port 3000 is in use by process 812, using available port 3001 instead.",
    ],
)
def test_a_server_that_takes_the_next_port_has_lost_none(line: str) -> None:
    symptoms = Symptoms("python dev.py")
    [*symptoms.read("stdout", [line, "ValueError: 7"], 0.0)]
    assert not symptoms.port_is_taken
    assert symptoms.explanation() == "ValueError: 7"


def test_an_exception_is_named_with_its_place_in_the_project() -> None:
    symptoms = Symptoms("serve", ("/p/backend", "/p"))
    for line in (
        "Traceback (most recent call last):",
        '  File "/p/backend/app.py", line 3, in <module>',
        '  File "/p/.venv/lib/python3.11/site-packages/x.py", line 9, in load',
        "KeyError: 'DATABASE_URL'",
    ):
        symptoms.see("stderr", line, 0.0)
    assert symptoms.explanation() == "KeyError: 'DATABASE_URL' (app.py:3)"


@pytest.mark.parametrize(
    "text",
    ["(Pdb) ", "ipdb> ", ">>> ", "Password: ", "Ok to proceed? (y) ", "Overwrite [y/N]? ", "Continue?", "$ "],
)
def test_a_prompt_is_recognised(text: str) -> None:
    assert is_prompt(text)


@pytest.mark.parametrize(
    "text", ["", "Loading", "10% [##   ] ", "(3/5) 60 % > ", "(Pdb) n", "done.", "Loading:"]
)
def test_what_only_pauses_is_no_prompt(text: str) -> None:
    assert not is_prompt(text)
