"""Settings: what is accepted, and what is said about everything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, strategies as st

from orchestra.config import settings
from orchestra.config.plan import ProxyPlan, Restart
from orchestra.config.readiness import FORMS
from orchestra.config.settings import ProcessSettings, ProxySettings, RunSettings, Settings
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = Path("orchestra.toml")

FULL = """
[run]
output = "plain"
exit_on = "failure"
base_port = 7000
env_files = ["a.env"]
install = false
color = "never"
timestamps = true

[proxy]
enabled = true
listen = "127.0.0.1:9000"
backend = "api"
frontend = false
api_prefix = "/rest"
backend_prefixes = ["/live"]
frontend_paths = ["/x/"]
fallback_methods = ["GET"]
replay_bytes = 0
memo = false
hold_bytes = 1
frontend_websockets = ["/live"]
hold = 3
hold_requests = 0
upgrade_timeout = 1.5
allowed_hosts = ["dev.example", "[::1]"]
allowed_origins = ["http://dev.example:3000"]
max_head = 4096
header_timeout = 1
idle_timeout = 2
max_connections = 1
pool = 0

[reload]
pages = "all"
overlay = false
console = true
editor = "vim"

[process.web]
command = "run"
app = "notes.app:app"
cwd = "sub"
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
watch = false
ignore = ["*.txt"]
before_restart = [{ command = "make", inputs = ["*.proto"] }]
on_ready = "true"
stop_signal = "INT"
stop_timeout = 0.5
pty = false
log_file = "logs/web.log"
log_bytes = 1000
log_backups = 0
"""


def accepted(text: str) -> Settings:
    loaded = settings.parse(text, PATH)
    assert loaded is not None
    return loaded.settings


def test_every_key_is_read() -> None:
    found = accepted(FULL)
    assert found.run.base_port == 7000
    assert found.proxy.frontend is False
    assert found.process["web"].restart is Restart.ALWAYS
    assert found.process["web"].env == {"A": "1"}
    for table in (found.run, found.proxy, found.reload, found.process["web"]):
        assert all(f"{key} =" in FULL for key in table.__struct_fields__)


def test_defaults_are_those_of_the_plan() -> None:
    found = accepted("")
    assert found == Settings()
    plan = {name: field.default for name, field in ProxyPlan.__dataclass_fields__.items()}
    for key in ("api_prefix", "hold", "hold_requests", "upgrade_timeout", "max_head", "header_timeout"):
        assert getattr(found.proxy, key) == plan[key]
    for key in ("idle_timeout", "max_connections", "pool"):
        assert getattr(found.proxy, key) == plan[key]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[run]\nouput = "x"', "2: run.ouput: no such setting", "Did you mean output?"),
        ("[rum]\n", "1: rum: no such setting", "Did you mean run?"),
        ("[process.web]\nprot = 1", "2: process.web.prot: no such setting", "Did you mean port?"),
        (
            "[proxy]\nzzz = 1",
            "2: proxy.zzz: no such setting",
            f"Known are: {', '.join(ProxySettings.__struct_fields__)}.",
        ),
        (
            "[tool.orchestra.run]\n",
            " tool: no such setting",
            "In orchestra.toml, tables have no tool.orchestra before them: [run], [proxy], [process.NAME].",
        ),
        (
            '[run]\noutput = "x"',
            '2: run.output: expected "auto", "dashboard", "plain" or "json", got "x"',
            "Correct it, or delete it: then the default holds.",
        ),
        ("run = 3", "1: run: expected a table, got 3", "Write a table: [run]."),
        ("process = 3", "1: process: expected a table, got 3", "Write a table: [process.NAME]."),
        (
            "[process]\nweb = true",
            "2: process.web: expected a table, got true",
            "Write a table: [process.web].",
        ),
        (
            "[process.web]\nenv = { A = 1 }",
            "2: process.web.env.A: expected a string, got 1",
            "Quote it.",
        ),
        (
            "[run]\nbase_port = \n",
            "2: no TOML: Invalid value (column 13)",
            "Correct it: https://toml.io says how.",
        ),
        ("[run", None, "Correct it: https://toml.io says how."),
    ],
)
def test_an_error_has_file_line_key_path_cause_and_fix(text: str, message: str | None, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        accepted(text)
    if message is not None:
        assert str(caught.value) == f"orchestra.toml:{message}"
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("table", "line", "expected"),
    [
        (
            "process.web",
            'depends_on = ["db:done"]',
            'a list of processes such as ["db", "redis:started", "migrate:completed"]',
        ),
        ("process.web", "ready = 1", f"{FORMS}, or a list of these"),
        ("run", "base_port = 0", "a port from 1 to 65535"),
        ("run", "base_port = 65536", "a port from 1 to 65535"),
        ("run", "install = 1", "true or false"),
        ("run", 'env_files = ".env"', "a list of file names"),
        ("proxy", "hold = -1", "a number of seconds, 0 or more"),
        ("proxy", "hold = nan", "a number of seconds, 0 or more"),
        ("proxy", "hold = inf", "a number of seconds, 0 or more"),
        ("proxy", f"hold = {'9' * 400}", "a number of seconds, 0 or more"),
        ("proxy", "idle_timeout = 0", "a number of seconds, more than 0"),
        ("proxy", "hold_requests = -1", "a whole number, 0 or more"),
        ("proxy", "hold_requests = 1.5", "a whole number, 0 or more"),
        ("proxy", "hold_requests = true", "a whole number, 0 or more"),
        ("proxy", "max_connections = 0", "a whole number, 1 or more"),
        ("proxy", "max_head = 100", "a number of bytes, 1024 or more"),
        ("proxy", "backend = 5", 'the name of a process, a URL such as "http://127.0.0.1:5173", or false'),
        ("proxy", 'api_prefix = "api"', 'a path that begins with "/"'),
        ("proxy", 'frontend_paths = ["x"]', 'a list of paths that begin with "/"'),
        (
            "proxy",
            'allowed_hosts = ["http://x"]',
            'a list of host names without port, such as ["dev.example"]',
        ),
        ("proxy", 'allowed_origins = ["x"]', 'a list of origins such as ["http://dev.example:3000"]'),
        ("process.web", "port = 70000", "a port from 1 to 65535, or 0 for any"),
        ("process.web", "port = -1", "a port from 1 to 65535, or 0 for any"),
        ("process.web", 'restart = "maybe"', '"on-failure", "never" or "always"'),
        ("process.web", "stop_timeout = -0.1", "a number of seconds, 0 or more"),
        ("process.web", "ready_timeout = -1", "a number of seconds, 0 or more"),
        ("process.web", "success_exit_codes = [0, 256]", "a list of exit codes from 0 to 255"),
        ("process.web", "command = 1", "a string"),
    ],
)
def test_a_value_out_of_its_type_or_range_is_told_what_was_expected(
    table: str, line: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        accepted(f"[{table}]\n{line}\n")
    key = line.partition(" ")[0]
    assert str(caught.value).startswith(f"orchestra.toml:2: {table}.{key}: expected {expected}, got ")


@pytest.mark.parametrize("struct", [RunSettings, ProxySettings, ProcessSettings])
def test_every_key_says_what_it_expects(struct: Any) -> None:
    for key in struct.__struct_fields__:
        assert settings._expected(struct, key)


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
@example({"proxy": {"pool": 16**9999}})
def test_any_table_gives_settings_or_our_error(table: dict[str, Any]) -> None:
    found = attempt(lambda: settings.from_table(table, PATH))
    if isinstance(found, ConfigError):
        assert found.hint
        assert "expected" in str(found) or "no such setting" in str(found)


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
    found = attempt(lambda: settings.parse(text, PATH))
    if isinstance(found, ConfigError):
        assert str(found).startswith("orchestra.toml:")


def test_a_line_is_named_only_where_it_is_certain() -> None:
    twice = '[proxy]\nhold = 1\napi_prefix = """\n[proxy]\nhold = 2"""\n'
    loaded = settings.Loaded(settings=Settings(), path=PATH, text=twice)
    assert loaded.line("proxy", "hold") is None
    loaded = settings.Loaded(
        settings=Settings(), path=PATH, text='[ proxy ] # x\n[process."web"]\n"port" = 1\n'
    )
    assert loaded.line("proxy") == 1
    assert loaded.line("process", "web", "port") == 3
    assert loaded.line("process", "api", "port") is None


def test_settings_come_from_one_of_two_files(tmp_path: Path) -> None:
    assert settings.find(tmp_path) == settings.Loaded(settings=Settings())
    shared = tmp_path / "pyproject.toml"
    shared.write_text("[tool.other]\nx = 1\n")
    assert settings.find(tmp_path).path is None
    shared.write_text("[tool.orchestra.run]\nbase_port = 7000\n")
    found = settings.find(tmp_path)
    assert (found.path, found.settings.run.base_port) == (shared, 7000)
    (tmp_path / "orchestra.toml").touch()
    with pytest.raises(ConfigError) as caught:
        settings.find(tmp_path)
    assert "orchestra.toml: settings are in orchestra.toml and in [tool.orchestra] of pyproject.toml" in str(
        caught.value
    )


def test_an_error_in_pyproject_has_the_whole_key_path(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n\n[tool.orchestra.proxy]\nhodl = 1\n")
    with pytest.raises(ConfigError) as caught:
        settings.find(tmp_path)
    assert re.search(r"pyproject\.toml:4: tool\.orchestra\.proxy\.hodl: no such setting", str(caught.value))
    assert caught.value.hint == "Did you mean hold?"
    (tmp_path / "pyproject.toml").write_text("[tool]\norchestra = 3\n")
    with pytest.raises(ConfigError) as caught:
        settings.find(tmp_path)
    assert caught.value.hint == "Write a table: [tool.orchestra]."


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert settings.nearest("WEB", ["web", "api"]) == "web"
    assert settings.nearest("wbe", ["web", "api"]) == "web"
    assert settings.nearest("xyz", ["web", "api"]) is None
