"""Settings: what is accepted, and what is said about everything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, strategies as st

from orchestra.config import toml
from orchestra.config.files import Problems
from orchestra.config.keys import ACTIONS
from orchestra.config.schema import ProcessSettings, ProxySettings, Restart, RunSettings, Settings, documented
from orchestra.config.toml import SettingsFile
from orchestra.errors import ConfigError
from tests.config_kit import completed

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = Path("orchestra.toml")

FULL = """
[run]
output = "plain"
root = ".."
shell = "bash"
exit_on = "failure"
base_port = 7000
env_files = ["a.env"]
install = false
color = "never"
timestamps = true
keep_log = false
requests = true
names = false

[proxy]
enabled = true
listen = "127.0.0.1:9000"
backend = "api"
frontend = false
frontends = { "/admin/" = "admin" }
api_prefix = "/rest"
backend_paths = ["/media"]
backend_prefixes = ["/live"]
frontend_paths = ["/x/"]
fallback_methods = ["GET"]
replay_bytes = 0
memo = false
frontend_websockets = ["/live"]
hold = 3
upgrade_timeout = 1.5
allowed_hosts = ["dev.example", "[::1]"]
allowed_origins = ["http://dev.example:3000"]

[reload]
enabled = true
pages = "all"
overlay = false
console = true
editor = "code -g {file}:{line}"

[process.web]
command = "run"
app = "notes.app:app"
cwd = "sub"
shell = "bash"
env = { A = "1" }
port = 0
instances = 2
restart = "always"
max_quick_failures = 0
success_exit_codes = [0, 130]
depends_on = ["db", "migrate:completed"]
ready = ["tcp", "log:up"]
ready_timeout = 0
liveness = true
restart_unhealthy = true
restart_mode = "overlap"
on_ready = "true"
stop_signal = "INT"
stop_timeout = 0.5
pty = false
log_file = "logs/web.log"
log_bytes = 1000
log_backups = 0
watch = ["**/*.py"]
ignore = ["generated/**"]
before_restart = [{ command = "make", inputs = ["*.scss"] }]
warm_spare = true
autostart = false
quiet = true
"""


def accepted(text: str) -> Settings:
    file = completed(lambda problems: toml.parse(text, PATH, problems))
    assert file is not None
    return file.settings


def refused(text: str) -> list[tuple[str, str]]:
    problems = Problems()
    with problems.caught():
        toml.parse(text, PATH, problems)
    return [(str(each), each.hint) for each in problems.errors]


def test_every_key_is_read() -> None:
    found = accepted(FULL)
    assert found.run.base_port == 7000
    assert found.proxy.frontend is False
    assert found.reload.pages == "all"
    assert found.process["web"].restart is Restart.ALWAYS
    assert found.process["web"].env == {"A": "1"}
    for table in (found.run, found.proxy, found.reload, found.process["web"]):
        assert all(f"{key} =" in FULL for key in table.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[run]\nouput = "x"', "2: run.ouput: no such setting", "Did you mean output?"),
        ("[rum]\n", "1: rum: no such setting", "Did you mean run?"),
        (
            "[zzz]\npages = 'all'\n",
            "1: zzz: no such setting",
            "Known are: run, proxy, reload, dashboard, process.",
        ),
        ("[process.web]\nprot = 1", "2: process.web.prot: no such setting", "Did you mean port?"),
        (
            "[proxy]\nzzz = 1",
            "2: proxy.zzz: no such setting",
            f"Known are: {', '.join(ProxySettings.__struct_fields__)}.",
        ),
        (
            '[run]\ncolor = "x"',
            "2: run.color: Invalid enum value 'x'",
            'color: colours: "auto" (on a terminal), "always" or "never" (default: "auto").',
        ),
        ("run = 3", "1: run: Expected `object`, got `int`", "Write a table: [run]."),
        ("process = 3", "1: process: Expected `object`, got `int`", "Write a table: [process.NAME]."),
        (
            "[process]\nweb = true",
            "2: process.web: Expected `object`, got `bool`",
            "Write a table: [process.web].",
        ),
        (
            "[process.web]\nenv = { A = 1 }",
            "2: process.web.env: Expected `str`, got `int`",
            'env: variables of its own, such as { DEBUG = "1" } (default: {}).',
        ),
        (
            "[process.web]\nsuccess_exit_codes = [0, 256]",
            "2: process.web.success_exit_codes[1]: Expected `int` <= 255",
            "success_exit_codes: exit statuses from 0 to 255 that count as completed (default: [0]).",
        ),
        (
            '[process.web]\nbefore_restart = [{ comand = "make" }]',
            "2: process.web.before_restart[0].comand: no such setting",
            f"before_restart: {documented(ProcessSettings)['before_restart'].text} (default: []).",
        ),
        ("[proccess.web]\nport = 1", "1: proccess: no such setting", "Did you mean process?"),
        (
            "[process]\nweb.port = 70000",
            "2: process.web.port: Expected `int` <= 65535",
            "port: its PORT, 0 for any that is free (default: by position).",
        ),
        ("[process]\nweb = { prot = 1 }", "2: process.web.prot: no such setting", "Did you mean port?"),
        (
            '[dashboard]\nkeys = { restrt = "x" }',
            "2: dashboard.keys.restrt: 'restrt' is not an action",
            f"Did you mean restart? There are {', '.join(ACTIONS)}.",
        ),
        (
            '[dashboard.keys]\nstop = "x"\nkill = "x"',
            "3: dashboard.keys.kill: 'x' is given to both 'stop' and 'kill'",
            'keys: keys by action: { restart = "f5", quit = "Q ctrl-q" } (default: {}).',
        ),
        (
            '[process.web]\napp = "main"',
            "2: process.web.app: 'main' does not fit",
            'app: "module:attribute" or "module:create()", for Hypercorn to serve (default: none).',
        ),
        (
            '[process.web]\ndepends_on = ["db", "api:completd"]',
            "2: process.web.depends_on[1]: 'api:completd' does not fit",
            'depends_on: what it waits for: ["db", "redis:started", "migrate:completed"] (default: []).',
        ),
        (
            "[run]\nbase_port = \n",
            "2: invalid TOML: Invalid value (column 13)",
            "Correct it: https://toml.io says how.",
        ),
        (
            "[run",
            "1: invalid TOML: Expected ']' at the end of a table declaration (at the end of the file)",
            "Correct it: https://toml.io says how.",
        ),
    ],
)
def test_an_error_has_file_line_key_path_cause_and_fix(text: str, message: str, hint: str) -> None:
    assert refused(text) == [(f"orchestra.toml:{message}", hint)]


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("process.web", 'depends_on = ["db:done"]'),
        ("process.web", "ready = 1"),
        ("run", "base_port = 0"),
        ("run", "base_port = 65536"),
        ("run", "install = 1"),
        ("run", 'env_files = ".env"'),
        ("proxy", "hold = -1"),
        ("proxy", "hold = nan"),
        ("proxy", "hold = inf"),
        ("proxy", f"hold = {'9' * 400}"),
        ("proxy", "upgrade_timeout = 0"),
        ("proxy", "replay_bytes = -1"),
        ("proxy", "replay_bytes = 1.5"),
        ("proxy", "replay_bytes = true"),
        ("proxy", "backend = 5"),
        ("proxy", 'api_prefix = "api"'),
        ("proxy", 'frontend_paths = ["x"]'),
        ("proxy", 'allowed_hosts = ["http://x"]'),
        ("proxy", 'allowed_origins = ["x"]'),
        ("process.web", "port = 70000"),
        ("process.web", "port = -1"),
        ("process.web", 'restart = "maybe"'),
        ("process.web", "stop_timeout = -0.1"),
        ("process.web", "ready_timeout = -1"),
        ("process.web", "command = 1"),
        ("process.web", 'command = "a\\u0000b"'),
        ("process.web", "log_file = 1"),
        ("process.web", "log_bytes = 0"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_meaning(table: str, line: str) -> None:
    ((message, hint),) = refused(f"[{table}]\n{line}\n")
    key = line.partition(" ")[0]
    assert message.startswith(f"orchestra.toml:2: {table}.{key}")
    assert hint.startswith(f"{key}: ")


def test_everything_that_does_not_fit_is_told_and_the_rest_is_read() -> None:
    problems = Problems()
    text = "[run]\noutptu = 1\nbase_port = 7000\n[proxy]\nhold = -1\n[process.web]\nport = 'x'\n"
    text += "before_restart = [{ comand = 'x' }]\nprot = 1\n[dashboard.keys]\nfly = 'x'\nquit = 'f99'\n"
    file = toml.parse(text, PATH, problems)
    assert [each.line for each in problems.errors] == [2, 5, 7, 8, 9, 11, 12]
    assert file is not None
    assert file.settings.run.base_port == 7000


def test_a_former_setting_is_a_note_that_names_the_constant() -> None:
    file = completed(lambda problems: toml.parse("[proxy]\nmax_head = 4096\nhold = 1\n", PATH, problems))
    assert file is not None
    (note,) = file.notes
    assert note.text == "orchestra.toml:2: proxy.max_head: has no effect: it is always 64 KiB"
    assert file.settings.proxy.hold == 1


def attempt(step: Callable[[], object]) -> object:
    try:
        return step()
    except ConfigError as exc:
        return exc


keys = st.one_of(
    st.sampled_from([*RunSettings.__struct_fields__, *ProxySettings.__struct_fields__]),
    st.sampled_from([*ProcessSettings.__struct_fields__]),
    st.text(),
)
leaves = st.one_of(
    st.text(), st.booleans(), st.integers(), st.floats(), st.dates(), st.sampled_from([10**400, 2**70, -1])
)
values = st.one_of(leaves, st.lists(leaves, max_size=3), st.dictionaries(st.text(), leaves, max_size=2))
tables = st.one_of(st.dictionaries(keys, values, max_size=3), leaves)


@given(
    st.one_of(
        st.fixed_dictionaries(
            {}, optional={"run": tables, "proxy": tables, "process": st.dictionaries(st.text(), tables)}
        ),
        st.dictionaries(st.text(), tables),
    )
)
@example({"process": {"web": {"command": {}}}})
@example({"proxy": {"hold": 16**9999}})
def test_any_table_gives_settings_or_our_error(table: dict[str, Any]) -> None:
    found = attempt(
        lambda: completed(lambda problems: toml.decode(table, SettingsFile(path=PATH, problems=problems)))
    )
    if isinstance(found, ConfigError):
        assert found.hint


pieces = st.sampled_from(
    [
        "[",
        "]",
        "run",
        "proxy",
        "process",
        ".web",
        "=",
        "1",
        '"x"',
        "\n",
        "hold",
        "pool",
        '"""',
        "{",
        "}",
        ",",
        "\\",
    ]
)


@given(st.one_of(st.text(), st.lists(pieces).map("".join)))
@example("x = " + "[" * 10_000)
@example("x = " + "1" * 5000)
@example("x = 2020-99-99")
def test_any_text_gives_settings_or_our_error(text: str) -> None:
    found = attempt(lambda: accepted(text))
    if isinstance(found, ConfigError):
        assert str(found).startswith("orchestra.toml:")


def test_a_line_is_named_only_where_it_is_certain() -> None:
    twice = '[proxy]\nhold = 1\napi_prefix = """\n[proxy]\nhold = 2"""\n'
    loaded = SettingsFile(settings=Settings(), path=PATH, text=twice)
    assert loaded.line("proxy", "hold") is None
    loaded = SettingsFile(settings=Settings(), path=PATH, text='[ proxy ] # x\n[process."web"]\n"port" = 1\n')
    assert loaded.line("proxy") == 1
    assert loaded.line("process", "web", "port") == 3
    assert loaded.line("process", "api", "port") is None


def find(root: Path) -> SettingsFile:
    return completed(lambda problems: toml.find(root, problems))


def test_settings_come_from_one_of_two_files(tmp_path: Path) -> None:
    assert find(tmp_path) == SettingsFile(settings=Settings())
    shared = tmp_path / "pyproject.toml"
    shared.write_text("[tool.other]\nx = 1\n")
    assert find(tmp_path).path is None
    shared.write_text("[tool.orchestra.run]\nbase_port = 7000\n")
    found = find(tmp_path)
    assert (found.path, found.settings.run.base_port) == (shared, 7000)
    (tmp_path / "orchestra.toml").touch()
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert "orchestra.toml: settings are in orchestra.toml and in [tool.orchestra] of pyproject.toml" in str(
        caught.value
    )


def test_an_error_in_pyproject_has_the_whole_key_path(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n\n[tool.orchestra.proxy]\nhodl = 1\n")
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert re.search(r"pyproject\.toml:4: tool\.orchestra\.proxy\.hodl: no such setting", str(caught.value))
    assert caught.value.hint == "Did you mean hold?"
    (tmp_path / "pyproject.toml").write_text("[tool]\norchestra = 3\n")
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert (caught.value.line, caught.value.hint) == (2, "Write a table: [tool.orchestra].")


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert toml.nearest("WEB", ["web", "api"]) == "web"
    assert toml.nearest("wbe", ["web", "api"]) == "web"
    assert toml.nearest("xyz", ["web", "api"]) is None
