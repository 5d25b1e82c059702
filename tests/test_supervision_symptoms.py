"""What servers write when they reload, and programs when they are broken: their real words."""

from __future__ import annotations

import pytest

from orchestra.supervision.symptoms import Symptoms, is_prompt

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
    ],
)
def test_a_server_that_watches_its_files_is_told_apart(line: str, *, expected: bool) -> None:
    assert after(line).watches is expected


def test_the_reloader_is_read_from_its_line() -> None:
    assert after("INFO:     Started reloader process [4711] using WatchFiles").reloader == 4711
    assert after("INFO:     Started server process [4711]").reloader is None


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
