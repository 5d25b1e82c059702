"""From everything that a user wrote to the plan."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from orchestra.config import Machine, Overrides, load, split_arguments
from orchestra.config.addresses import BLOCKED_PORTS, parse_listen
from orchestra.config.checks import FORMS
from orchestra.config.plan import (
    UNDECIDED,
    Address,
    FromProcess,
    Plan,
    ProcessPlan,
    ProxyPlan,
    Restart,
    Role,
)
from orchestra.errors import ConfigError, ConfigErrors
from tests.config_kit import TWO, Project

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.config.plan import Plan

pytestmark = pytest.mark.usefixtures("linux")


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ports of other systems have a test of their own."""
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def env_of(process: ProcessPlan) -> dict[str, str]:
    assert process.env is not None
    return dict(process.env)


def notes_of(plan: Plan) -> tuple[str, ...]:
    return tuple(str(each) for each in plan.notes)


def ports_of(plan: Plan) -> dict[str, int | None]:
    return {process.name: process.port for process in plan.processes}


def proxy_of(plan: Plan) -> ProxyPlan:
    assert plan.proxy is not None
    return plan.proxy


def test_the_main_job_needs_no_settings(project: Project) -> None:
    plan = project.load(TWO + "worker: work\n")
    vite, api, worker = plan.processes
    assert proxy_of(plan) == ProxyPlan(
        frontend=FromProcess(name="vite"),
        frontend_reason="`npm run dev` in ui runs vite",
        backend=FromProcess(name="api"),
        backend_reason="it is called api",
        may_move=True,
    )
    assert [each.role for each in plan.processes] == [Role.FRONTEND, Role.BACKEND, Role.OTHER]
    assert [each.ready for each in plan.processes] == ["http", "http", None]
    assert ports_of(plan) == {"vite": 5000, "api": 5100, "worker": 5200}
    assert (vite.command, vite.cwd) == ("cd ui && npm run dev", project.root)
    assert env_of(vite)["ORCHESTRA_API_URL"] == "http://127.0.0.1:5100"
    assert env_of(worker)["ORCHESTRA_API_PORT"] == "5100"
    assert not [name for name in env_of(api) if name.startswith("ORCHESTRA")]
    assert (plan.procfile, plan.output, plan.notes) == (project.root / "Procfile", "auto", ())


def test_a_plan_in_code_has_the_defaults_of_one_that_is_loaded(project: Project) -> None:
    (found,) = project.load("one: run\n", overrides=Overrides(no_proxy=True)).processes
    written = ProcessPlan(
        name="one",
        command="run",
        cwd=found.cwd,
        env=found.env,
        port=5000,
        may_move=True,
        program="bin/run",
    )
    assert found == written


def test_the_default_procfile_is_that_of_the_current_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    (project.root / "ui" / "package.json").unlink()
    with pytest.raises(ConfigError, match=r"no Procfile in .*: looked for Procfile.dev and Procfile"):
        load(None, Machine(environ=project.environ))
    (project.root / "Procfile").write_text("one: run\n")
    plan = load(None, Machine(environ=project.environ))
    assert (plan.procfile, plan.processes[0].cwd) == (project.root / "Procfile", project.root)


# --- Settings ---


def test_settings_reach_the_plan(project: Project) -> None:
    (project.root / "sub").mkdir()
    plan = project.load(
        TWO,
        """
        run.output = "json"
        [proxy]
        listen = "[::1]:9000"
        api_prefix = "/rest/"
        frontend_paths = ["/x"]
        hold = 1
        [process.api]
        cwd = "sub"
        env = { A = "settings", B = "settings" }
        restart = "never"
        stop_timeout = 1
        success_exit_codes = [3]
        stop_signal = "INT"
        pty = false
        log_file = "logs/api.log"
        log_bytes = 1000
        log_backups = 2
        [process.more]
        command = " run more "
        """,
    )
    _, api, more = plan.processes
    proxy = proxy_of(plan)
    assert plan.output == "json"
    assert (proxy.host, proxy.port, proxy.api_prefix, proxy.hold) == ("::1", 9000, "/rest", 1.0)
    assert proxy.frontend_paths == ("/x",)
    assert (api.cwd, api.restart, api.stop_timeout) == (project.root / "sub", Restart.NEVER, 1.0)
    assert api.success_exit_codes == {3}
    assert (more.name, more.command, more.port) == ("more", "run more", 5200)
    assert (api.stop_signal, api.pty) == ("INT", False)
    assert (api.log_file, api.log_bytes, api.log_backups) == (project.root / "logs" / "api.log", 1000, 2)


def test_a_log_file_belongs_to_one_process(project: Project) -> None:
    shared = '[process.vite]\nlog_file = "a.log"\n[process.api]\nlog_file = "./a.log"\n'
    message, hint = project.error(TWO, shared)
    assert message == "orchestra.toml:4: process.api.log_file: vite writes to this file, too"
    assert hint == "Give each process a file of its own."
    assert "is a folder" in project.error(TWO, '[process.api]\nlog_file = "ui"\n')[0]


def test_env_files_beat_the_system_and_settings_beat_both(project: Project) -> None:
    project.environ |= {"A": "os", "B": "os", "C": "os"}
    (project.root / ".env").write_text("A=file\nB=file\nPORT=7000\n")
    plan = project.load("one: run\n", '[process.one]\nenv = { A = "settings" }')
    env = env_of(plan.processes[0])
    assert (env["A"], env["B"], env["C"], env["PORT"]) == ("settings", "file", "os", "7000")


def test_options_beat_settings(project: Project) -> None:
    (project.root / "a.env").write_text("A=a\n")
    (project.root / "b.env").write_text("A=b\nB=b\n")
    settings = """
        run = { output = "json", base_port = 6100, env_files = ["a.env"] }
        proxy.listen = "127.0.0.1:9000"
    """
    plan = project.load(TWO, settings)
    assert env_of(plan.processes[0])["A"] == "a"
    assert (plan.output, plan.processes[0].port, proxy_of(plan).port) == ("json", 6100, 9000)
    options = Overrides(listen=":9001", base_port=7100, env_files=("b.env", "a.env"), output="plain")
    plan = project.load(TWO, settings, overrides=options)
    env = env_of(plan.processes[0])
    assert (env["A"], env["B"]) == ("a", "b")
    assert (plan.output, plan.processes[0].port, proxy_of(plan).port) == ("plain", 7100, 9001)
    assert project.load(TWO, settings, overrides=Overrides(no_proxy=True)).proxy is None
    assert project.load(TWO).reload.enabled
    assert not project.load(TWO, overrides=Overrides(no_reload=True)).reload.enabled
    assert not project.load(TWO, "reload.enabled = false").reload.enabled


# --- Which processes ---


def test_processes_are_chosen_by_name_and_keep_order_and_port(project: Project) -> None:
    text = "a: run\nb: run\nc: run\n"
    assert ports_of(project.load(text, only=["c", "a"])) == {"a": 5000, "c": 5200}
    assert ports_of(project.load(text, left_out=["a"])) == {"b": 5100, "c": 5200}
    assert project.error(text, only=["bb"]) == (
        "Procfile: there is no process bb",
        "Did you mean b? There are a, b, c.",
    )
    assert project.error(text, left_out=["zzz"]) == (
        "Procfile: there is no process zzz",
        "There are a, b, c.",
    )
    assert project.error("a: x\n", left_out=["a"])[0] == "Procfile: no process is left to run"
    assert (
        project.errors("a: x\n", only=["a"], left_out=["a"])[-1][0] == "a is named, and left out by -x, too"
    )


def waits_of(plan: Plan) -> dict[str, list[str]]:
    return {process.name: [str(each) for each in process.depends_on] for process in plan.processes}


CHAIN = "db: run\nmigrate: run\napi: run\nworker: run\nother: run\n"
CHAINED = """
[process.db]
ready = "tcp"
[process.migrate]
depends_on = ["db"]
[process.api]
depends_on = ["migrate:completed", "db:ready"]
[process.worker]
depends_on = ["api:started"]
"""


def test_processes_can_wait_for_others_which_are_then_run_too(project: Project) -> None:
    plan = project.load(CHAIN, CHAINED)
    assert waits_of(plan) == {
        "db": [],
        "migrate": ["db"],
        "api": ["migrate:completed", "db"],
        "worker": ["api:started"],
        "other": [],
    }
    assert [each.ready if each.is_awaited else None for each in plan.processes][:2] == ["tcp", None]
    assert list(waits_of(project.load(CHAIN, only=["api"]))) == ["db", "migrate", "api"]
    # One that is left out is taken to be there anyway.
    without = waits_of(project.load(CHAIN, only=["api"], left_out=["db"]))
    assert without == {"migrate": [], "api": ["migrate:completed"]}


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        (
            '[process.web]\ndepends_on = ["dv"]',
            "orchestra.toml:2: process.web.depends_on: there is no process dv",
            "Did you mean db? There are web, db.",
        ),
        (
            '[process.web]\ndepends_on = ["db"]',
            "orchestra.toml:2: process.web.depends_on: db has no readiness check",
            'Set process.db.ready, such as "tcp", or depend on "db:started".',
        ),
        (
            '[process.web]\ndepends_on = ["db:started"]\n[process.db]\ndepends_on = ["web:started"]',
            "orchestra.toml:2: process.web.depends_on: dependency cycle: web -> db -> web",
            "Take one of them out.",
        ),
        (
            '[process.web]\nready = "http:health"',
            "orchestra.toml:2: process.web.ready: 'health' is not a path that begins with /",
            f"It can be {FORMS}.",
        ),
    ],
)
def test_what_cannot_be_waited_for_is_an_error(
    project: Project, settings: str, message: str, hint: str
) -> None:
    assert project.error("web: run\ndb: run\n", settings) == (message, hint)


def test_an_app_is_served_by_hypercorn(project: Project) -> None:
    plan = project.load("vite: cd ui && npm run dev\n", '[process.api]\napp = "notes.app:app"\n')
    assert plan.processes[1].app == "notes.app:app"
    assert plan.processes[1].command.endswith("--bind '127.0.0.1:$PORT' notes.app:app")
    assert proxy_of(plan).backend == FromProcess(name="api")
    message, _ = project.error("api: run\n", '[process.api]\napp = "notes.app:app"\n')
    assert message == "orchestra.toml:2: process.api.app: api has a command in Procfile:1, too"


def test_an_app_needs_no_line_of_the_procfile(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it need a Procfile: a settings file that defines a process is enough."""
    settings = '[process.api]\napp = "notes:create()"\nport = 5500\n'
    plan = project.load("# nothing here\n", settings)
    assert [each.name for each in plan.processes] == ["api"]
    monkeypatch.chdir(project.root)
    (project.root / "Procfile").unlink()
    found = load(None, Machine(environ=project.environ))
    assert [each.app for each in found.processes] == ["notes:create()"]
    assert found.procfile == project.root / "orchestra.toml"


def test_without_a_procfile_what_init_would_write_is_planned(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    (project.root / "ui" / "index.html").touch()
    routes = '@app.get("/")\ndef root(): ...\n@app.get("/api/x")\ndef x(): ...\n'
    (project.root / "main.py").write_text(f"app = Starlette()\n{routes}")
    project.program("uvicorn")
    plan = load(None, Machine(environ=project.environ))
    assert [(each.name, each.command) for each in plan.processes] == [
        ("vite", "cd ui && npm run dev"),
        ("api", "uvicorn --port $PORT main:app"),
    ]
    assert plan.proxy is not None
    assert plan.proxy.backend_paths == ("/api",)
    assert [(str(each), each.hint) for each in plan.notes][:4] == [
        ("there is no Procfile: this is run, as `orchestra init` would write it", "Keep it: orchestra init"),
        ("vite: cd ui && npm run dev", ""),
        ("api: uvicorn --port $PORT main:app", ""),
        ('orchestra.toml: [proxy] backend_paths = ["/api"]', ""),
    ]
    names = ("Procfile.dev", "Procfile", "orchestra.toml", "pyproject.toml", ".env")
    assert {*plan.files} == {project.root / name for name in names}
    (project.root / "orchestra.toml").write_text("[proxy]\nbackend_paths = ['/rest']\n")
    again = load(None, Machine(environ=project.environ), only=["api"])
    assert again.proxy is not None
    assert again.proxy.backend_paths == ("/rest",)
    assert [each.name for each in again.processes] == ["api"]


def test_no_error_names_settings_that_are_not_written(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    target = "{ target: 'http://localhost:5001', rewrite: path => path.slice(4) }"
    (project.root / "ui" / "vite.config.js").write_text(f"export default {{ proxy: {{ '/api': {target} }} }}")
    (project.root / "main.py").write_text("app = Starlette()\n")
    project.program("uvicorn")
    with pytest.raises(ConfigErrors) as caught:
        load(None, Machine(environ=project.environ, is_free=lambda port: port != 5001))
    assert str(caught.value.errors[0]).startswith("process.api.port: port 5001 is taken")


def test_a_file_that_is_called_like_a_procfile_is_not_shadowed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    (project.root / "Procfile.test").write_text("one: run\n")
    with pytest.raises(ConfigError) as caught:
        load(None, Machine(environ=project.environ))
    assert caught.value.hint == "There is Procfile.test in that folder: name it on the command line."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[run]\n", "no Procfile in {here}: looked for Procfile.dev and Procfile"),
        ("[process\n", "orchestra.toml:1: invalid TOML: "),
    ],
)
def test_settings_without_a_process_are_no_procfile(
    project: Project, monkeypatch: pytest.MonkeyPatch, settings: str, message: str
) -> None:
    monkeypatch.chdir(project.root)
    (project.root / "ui" / "package.json").unlink()
    (project.root / "orchestra.toml").write_text(settings)
    with pytest.raises(ConfigError) as caught:
        load(None, Machine(environ=project.environ))
    assert str(caught.value).startswith(message.format(here=project.root))


def test_an_app_runs_in_the_environment_of_orchestra_if_there_is_no_other(project: Project) -> None:
    """A command finds the tools beside orchestra last, an application its Python first."""
    settings = '[process.api]\napp = "a:b"\n'
    ours = {"scripts": "/ours/bin"}

    def paths(environ: dict[str, str] | None = None) -> list[str]:
        project.environ |= environ or {}
        plan = project.load("web: run\n", settings, machine=ours)
        return [(each.env or {})["PATH"].replace(str(project.root), "") for each in plan.processes]

    assert paths() == ["/bin:/ours/bin", "/ours/bin:/bin"]
    assert paths({"VIRTUAL_ENV": "/its"}) == ["/bin:/ours/bin", "/bin:/ours/bin"]


def test_only_an_app_has_a_warm_spare(project: Project) -> None:
    assert project.error("api: run\n", "[process.api]\nwarm_spare = true\n") == (
        "orchestra.toml:2: process.api.warm_spare: api is not served by app",
        'Set process.api.app = "module:attribute" in place of its command.',
    )


def test_a_setting_that_is_a_constant_now_is_noted(project: Project) -> None:
    (note,) = project.load(TWO, "[proxy]\npool = 3\n").notes
    assert str(note).endswith("orchestra.toml:2: proxy.pool: has no effect: it is always 64")
    assert (note.level, note.hint) == ("warning", "Delete it.")


def instances_of(plan: Plan) -> dict[str, int | None]:
    return {process.name: process.port for process in plan.processes}


def test_instances_are_processes_of_their_own(project: Project) -> None:
    settings = """
    [process.web]
    instances = 2
    log_file = "logs/web.log"
    [process.worker]
    depends_on = ["web"]
    ready = "delay:1"
    """
    text = "vite: cd ui && npm run dev\nweb: run $PORT\nworker: run\nother: run\n"
    plan = project.load(text, settings, overrides=Overrides(formation="other=0,worker=1"))
    assert instances_of(plan) == {"vite": 5000, "web.1": 5100, "web.2": 5101, "worker": 5200}
    assert proxy_of(plan).backend == FromProcess(name="web", instances=("web.1", "web.2"))
    assert [each.log_file.name for each in plan.processes if each.log_file] == ["web.1.log", "web.2.log"]
    assert waits_of(plan)["worker"] == ["web.1", "web.2"]
    assert env_of(plan.processes[3])["ORCHESTRA_WEB_PORT"] == "5100"
    assert project.load(text, overrides=Overrides(exit_on="web")).exit_on == "web"
    assert project.load(text, overrides=Overrides(exit_on="web.2")).exit_on == "web.2"


def test_a_port_that_is_fixed_is_that_of_the_first_instance(project: Project) -> None:
    settings = "[process.web]\nport = 7000\ninstances = 2\n"
    assert instances_of(project.load("web: run\n", settings)) == {"web.1": 7000, "web.2": 7001}
    message, _ = project.error("web: run\nb: run\n", f"{settings}[process.b]\nport = 7001\n")
    assert message == "orchestra.toml:5: process.b.port: web.2 has port 7001, too"


def test_what_completes_or_is_ready_otherwise_is_not_the_backend(project: Project) -> None:
    procfile = "vite: cd ui && npm run dev\ndb: run\nmigrate: run\nnotes: run\n"
    settings = (
        'process.db.ready = "tcp"\nprocess.notes.depends_on = ["migrate:completed"]\n'
        'process.notes.ready = "http:/health"\n'
    )
    plan = project.load(procfile, settings)
    assert proxy_of(plan).backend == FromProcess(name="notes")
    assert proxy_of(plan).backend_reason == "its readiness is an HTTP check"
    assert [each.role for each in plan.processes] == [Role.FRONTEND, Role.OTHER, Role.OTHER, Role.BACKEND]
    plan = project.load(
        procfile, 'process.db.ready = "tcp"\nprocess.notes.depends_on = ["migrate:completed"]\n'
    )
    assert (proxy_of(plan).backend, proxy_of(plan).candidates) == (UNDECIDED, ("notes",))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), (None, ())),
        (("web",), (None, ("web",))),
        (("web", "api"), (None, ("web", "api"))),
        (("here",), ("here", ())),
        (("here", "web"), ("here", ("web",))),
        (("web", "here"), (None, ("web", "here"))),
        (("sub/x", "web"), ("sub/x", ("web",))),
        (("my.procs",), ("my.procs", ())),
        (("Procfile-nowhere", "web"), ("Procfile-nowhere", ("web",))),
    ],
)
def test_the_first_argument_may_be_the_procfile(
    args: tuple[str, ...],
    expected: tuple[str | None, tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").touch()
    monkeypatch.chdir(tmp_path)
    assert split_arguments(args) == expected


# --- Ports ---


def test_the_first_port_comes_from_the_strongest_source(
    project: Project,
) -> None:
    def first(**options: Any) -> int | None:
        return project.load("one: run\n", **options).processes[0].port

    assert first() == 5000
    project.environ["PORT"] = "6100"
    assert first() == 6100
    (project.root / ".env").write_text("PORT=6200\n")
    assert first() == 6200
    assert first(settings="run.base_port = 6300") == 6300
    assert first(overrides=Overrides(base_port=6400)) == 6400


def test_ports_that_cannot_be_used_are_left_out(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: run\nb: run\n"
    assert ports_of(project.load(text, overrides=Overrides(base_port=6665))) == {"a": 6670, "b": 6765}
    assert ports_of(project.load(text, overrides=Overrides(base_port=8000))) == {"a": 8000, "b": 8100}
    plan = project.load(TWO, overrides=Overrides(base_port=7900))
    assert ports_of(plan) == {"vite": 7900, "api": 8001}
    assert notes_of(plan) == ("api: port 8000 is orchestra's own; it gets 8001",)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ports_of(project.load(text)) == {"a": 5001, "b": 5100}
    assert project.load(text, "process.b.port = 5001").processes[0].port == 5002
    assert 5060 in BLOCKED_PORTS


def test_a_port_that_another_run_has_chosen_is_left_to_it(project: Project) -> None:
    asked: list[int] = []

    def claim(port: int) -> bool:
        asked.append(port)
        return port != 5000

    plan = project.load(
        "a: run $PORT\nb: run $PORT\nfixed: run\nleft: run\n",
        "process.fixed.port = 5001",
        machine={"claim": claim},
        left_out=["left"],
    )
    assert ports_of(plan) == {"a": 5002, "b": 5100, "fixed": 5001}
    assert "a: port 5000 is another run's; it gets 5002" in notes_of(plan)
    assert env_of(plan.processes[1])["ORCHESTRA_A_PORT"] == "5002"
    assert asked == [5000, 5002, 5100]


def test_a_port_that_is_taken_is_left_to_its_holder_and_that_is_said(project: Project) -> None:
    taken = {5100, 5101, 5200}
    plan = project.load(
        "vite: npx vite\nb: run $PORT\nc: run\n".replace("npx", "npm exec"),
        "process.c.port = 5102",
        machine={
            "is_free": lambda port: port not in taken,
            "holder": lambda port: f"pid {port} (x)" if port == 5100 else "",
        },
    )
    assert ports_of(plan) == {"vite": 5000, "b": 5103, "c": 5102}
    assert str(plan.notes[0]) == "b: port 5100 is taken by pid 5100 (x); it gets 5103"
    assert env_of(plan.processes[1])["PORT"] == "5103"
    assert env_of(plan.processes[0])["ORCHESTRA_C_PORT"] == "5102"
    quiet = project.load(TWO, "run.install = false", machine={"is_free": lambda port: port != 5000})
    assert quiet.notes == ()  # Vite does not ask for PORT
    with pytest.raises(ConfigError, match="no port is left for a: they begin at 5000"):
        project.load("a: run\n", machine={"is_free": lambda _: False})


def test_without_a_proxy_its_port_is_free_for_all(project: Project) -> None:
    alone = project.load(TWO, overrides=Overrides(base_port=8000, no_proxy=True))
    assert ports_of(alone) == {"vite": 8000, "api": 8100}
    assert ports_of(project.load("web: run\n", "[process.web]\nport = 8000\n")) == {"web": 8000}


def test_a_process_that_is_not_run_needs_no_port(project: Project) -> None:
    text = "a: run\nb: run\nc: run\n"
    plan = project.load(text, only=["a"], overrides=Overrides(base_port=65400))
    assert ports_of(plan) == {"a": 65400}
    message, _ = project.error(text, overrides=Overrides(base_port=65400))
    assert message == "no port is left for c: they begin at 65400, 100 each"


def test_no_process_is_moved_to_the_port_of_another(project: Project) -> None:
    text = "".join(f"p{i}: run\n" for i in range(3))
    plan = project.load(text, machine={"is_free": lambda port: not 5000 <= port < 5100})
    assert ports_of(plan) == {"p0": 5101, "p1": 5100, "p2": 5200}


# --- The proxy ---


@pytest.mark.parametrize(
    ("names", "backend"),
    [
        (["app", "server", "web", "api", "backend"], FromProcess(name="backend")),
        (["app", "server", "web", "api"], FromProcess(name="api")),
        (["app", "server", "web"], FromProcess(name="web")),
        (["x", "app", "server"], FromProcess(name="server")),
        (["x", "App"], FromProcess(name="App")),
        (["x", "y"], ("x", "y")),
        (["x"], ("x",)),
    ],
)
def test_the_backend_is_found_by_name_else_by_its_answer(
    project: Project, names: list[str], backend: FromProcess | tuple[str, ...]
) -> None:
    plan = project.load("f: cd ui && npm run dev\n" + "".join(f"{name}: run\n" for name in names))
    expected = (backend.name,) if isinstance(backend, FromProcess) else backend
    if isinstance(backend, FromProcess):
        assert proxy_of(plan).backend == backend
    else:
        assert (proxy_of(plan).backend, proxy_of(plan).candidates) == (UNDECIDED, backend)
    assert tuple(each.name for each in plan.processes[1:] if each.ready == "http") == expected
    roles = {each.role for each in plan.processes if each.name in expected}
    assert roles == {Role.BACKEND if isinstance(backend, FromProcess) else Role.UNDECIDED}


def test_it_is_known_where_vite_runs_and_what_reloads_itself(project: Project) -> None:
    plan = project.load("web: cd ui && npm run dev\napi: uvicorn app:app --reload\n")
    web, api = plan.processes
    assert (web.vite_folder, api.vite_folder) == (project.root / "ui", None)
    assert (web.reloader, api.reloader and api.reloader.word) == (None, "--reload")


def test_the_files_of_a_plan_are_those_that_count_if_they_are_there(project: Project) -> None:
    files = project.load().files
    assert [each.name for each in files] == ["Procfile", "orchestra.toml", "pyproject.toml", ".env"]
    (project.root / "a.env").touch()
    files = project.load(settings='[run]\nenv_files = ["a.env"]\n').files
    assert files[-1] == project.root / "a.env"


@pytest.mark.parametrize(
    ("settings", "frontend", "backend"),
    [
        ('backend = "x"', FromProcess(name="vite"), FromProcess(name="x")),
        ('frontend = "x"', FromProcess(name="x"), FromProcess(name="api")),
        ('backend = "vite"\nfrontend = "api"', FromProcess(name="api"), FromProcess(name="vite")),
        ('backend = "http://[::1]:9/"', FromProcess(name="vite"), Address(host="::1", port=9)),
        ('backend = "https://[::1]:9/"', FromProcess(name="vite"), Address("::1", 9, "https")),
        ('backend = "https://dev.example"', FromProcess(name="vite"), Address("dev.example", 443, "https")),
        ('backend = "unix:/run/app.sock"', FromProcess(name="vite"), Address("/run/app.sock", 0, "unix")),
        ('backend = "unix:///run/app.sock"', FromProcess(name="vite"), Address("/run/app.sock", 0, "unix")),
        ('frontend = "http://localhost"', Address(host="localhost", port=80), FromProcess(name="api")),
        (
            'frontend = "http://h:9"\nbackend = "http://h:9"',
            Address(host="h", port=9),
            Address(host="h", port=9),
        ),
    ],
)
def test_settings_say_what_stands_behind_the_proxy(
    project: Project, settings: str, frontend: object, backend: object
) -> None:
    plan = project.load(TWO + "x: run\n", f"[proxy]\n{settings}")
    assert (proxy_of(plan).frontend, proxy_of(plan).backend) == (frontend, backend)


@pytest.mark.parametrize(
    ("procfile", "settings", "frontend", "backend"),
    [
        ("vite: cd ui && npm run dev\n", "", "vite", None),
        ("web: serve $PORT\n", "", None, "web"),
        ("site: uvicorn app:app\n", "", None, "site"),
        (TWO, "proxy.backend = false", "vite", None),
        (TWO, "proxy.frontend = false", None, "api"),
        ("x: run\n", 'proxy.backend = "x"', None, "x"),
        ("x: run\n", 'proxy.frontend = "x"', "x", None),
        ("api: uvicorn app:app\nworker: run\n", "", UNDECIDED, "api"),
    ],
)
def test_one_upstream_has_a_proxy_too(
    project: Project, procfile: str, settings: str, frontend: object, backend: object
) -> None:
    project.program("uvicorn")
    plan = project.load(procfile, settings)
    proxy = proxy_of(plan)
    found = [each.name if isinstance(each, FromProcess) else each for each in (proxy.frontend, proxy.backend)]
    assert (found, plan.notes) == ([frontend, backend], ())


NONE = "no proxy: neither a backend nor a frontend was found"
REFUSED = f"{NONE} (proxy.backend and proxy.frontend = false)"


@pytest.mark.parametrize(
    ("procfile", "settings", "listen", "notes"),
    [
        ("x: run\n", 'process.x.ready = "log: up"', None, (NONE,)),
        (TWO, "proxy = { backend = false, frontend = false }", None, (REFUSED,)),
        (TWO, "proxy = { backend = false, frontend = false }", ":9000", (REFUSED,)),
        ("x: run\n", 'process.x.ready = "tcp"', ":9000", (NONE,)),
        (TWO, "proxy.enabled = false", None, ()),
    ],
)
def test_without_either_there_is_none_which_is_said(
    project: Project, procfile: str, settings: str, listen: str | None, notes: tuple[str, ...]
) -> None:
    plan = project.load(procfile, settings, overrides=Overrides(listen=listen))
    assert (plan.proxy, notes_of(plan)) == (None, notes)


@pytest.mark.parametrize(
    ("command", "listen", "port"),
    [
        ("run", None, 8800),  # it may take port 8000, as servers for Python do
        ("run", ":8000", 8000),
        ("run --port $PORT", None, 8000),
        ("run --port 3000", None, 8000),
        ("npm start", None, 8000),
    ],
)
def test_a_proxy_waits_for_what_turns_out(
    project: Project, command: str, listen: str | None, port: int
) -> None:
    """Nothing tells what a process is that has no name either: what it answers does."""
    plan = project.load(f"x: {command}\n", overrides=Overrides(listen=listen))
    proxy = proxy_of(plan)
    assert (proxy.frontend, proxy.backend, proxy.candidates) == (UNDECIDED, UNDECIDED, ("x",))
    assert proxy.port == port
    note = "port 8000 may be wanted by a process: the one address has port 8800"
    assert notes_of(plan) == ((note,) if port == 8800 else ())
    assert [each.is_awaited for each in plan.processes] == [False]


@pytest.mark.parametrize(
    ("procfile", "settings", "port"),
    [
        ("vite: cd ui && npm run dev\napi: make api\n", "", 8800),
        ("vite: cd ui && npm run dev\nx: make api\n", "", 8800),
        ("vite: cd ui && npm run dev\napi: make api\n", 'proxy.backend = "api"', 8000),
        ("vite: cd ui && npm run dev\napi: make api PORT=$PORT\n", "", 8000),
        ("vite: cd ui && npm run dev\napi: uvicorn app:app\njob: run\n", "", 8000),
        ("vite: cd ui && npm run dev\n", "", 8000),
    ],
)
def test_the_usual_port_is_left_to_a_backend_that_does_not_tell_its_own(
    project: Project, procfile: str, settings: str, port: int
) -> None:
    project.program("uvicorn")
    assert proxy_of(project.load(procfile, settings)).port == port


def test_a_name_alone_makes_no_process_wait_for_http(project: Project) -> None:
    """It may be that of Vite, behind a command that does not tell."""
    plan = project.load("web: run\nworker: run\n")
    assert proxy_of(plan).backend is UNDECIDED
    assert [each.is_awaited for each in plan.processes] == [False, False]
    plan = project.load("web: run $PORT\n")
    assert proxy_of(plan).backend == FromProcess(name="web")
    assert plan.processes[0].is_awaited


def taken(*ports: int) -> dict[str, Any]:
    def try_listen(host: str, port: int) -> None:
        if port in ports:
            raise ConfigError(f"port {port} is taken by pid 1 (x): cannot listen on {host}:{port}")

    return {"try_listen": try_listen}


@pytest.mark.parametrize(
    ("procfile", "machine", "port", "notes"),
    [
        ("web: serve $PORT\n", taken(), 8000, ()),
        (
            "web: serve $PORT\n",
            taken(8000, 8001),
            8002,
            ("port 8000 is taken by pid 1 (x): the one address has port 8002",),
        ),
        (
            "web: python manage.py runserver\n",
            taken(),
            8001,
            ("port 8000 is web's: the one address has port 8001",),
        ),
        (
            "web: serve $PORT\n",
            {"last_port": lambda _: 8003},
            8003,
            ("as in the last run of this project: the one address has port 8003",),
        ),
        (
            "web: serve $PORT\n",
            {**taken(8003), "last_port": lambda _: 8003},
            8000,
            ("port 8003 is taken by pid 1 (x): the one address has port 8000",),
        ),
        ("web: serve $PORT\n", {**taken(), "last_port": lambda _: 8000}, 8000, ()),
        (
            "web: serve -b 127.0.0.1:8000 app\nx: serve -p 8001\n",
            taken(),
            8002,
            ("port 8000 is web's: the one address has port 8002",),
        ),
    ],
)
def test_an_address_that_was_not_asked_for_gives_way(
    project: Project, procfile: str, machine: Any, port: int, notes: tuple[str, ...]
) -> None:
    plan = project.load(procfile, machine=machine)
    assert (proxy_of(plan).port, proxy_of(plan).may_move, notes_of(plan)) == (port, True, notes)


@pytest.mark.parametrize(
    ("procfile", "message", "hint"),
    [
        (
            "web: serve -b 127.0.0.1:9000 app\n",
            "Procfile:1: web: it listens on port 9000, which is the address of the proxy",
            "Write `web: serve -b 127.0.0.1:$PORT app`, or choose another --listen.",
        ),
        ("web: serve $PORT\n", "port 9001 is taken by pid 1 (x): cannot listen on 127.0.0.1:9001", ""),
        (
            "web: python manage.py runserver\n",
            "Procfile:1: web: it listens on port 8000, which is the address of the proxy",
            "Write `web: python manage.py runserver $PORT`, or choose another --listen.",
        ),
    ],
)
def test_one_that_was_asked_for_does_not(project: Project, procfile: str, message: str, hint: str) -> None:
    port = next(port for port in (9000, 9001, 8000) if str(port) in message)
    (found,) = project.errors(procfile, overrides=Overrides(listen=f":{port}"), machine=taken(9001))
    assert found == (message, hint)


def test_all_that_keeps_the_address_from_being_had_is_reported_at_once(project: Project) -> None:
    procfile = "web: serve -p 9000\nother: serve -p 9000\n"
    errors = project.errors(procfile, overrides=Overrides(listen=":9000"), machine=taken(9000))
    assert [message for message, _ in errors] == [
        "Procfile:1: web: it listens on port 9000, which is the address of the proxy",
        "Procfile:2: other: it listens on port 9000, which is the address of the proxy",
        "port 9000 is taken by pid 1 (x): cannot listen on 127.0.0.1:9000",
    ]


def test_a_script_that_is_missing_is_an_error_of_the_process(project: Project) -> None:
    ((message, hint),) = project.errors("web: serve $PORT\nvite: cd ui && npm run dvv\n")
    assert message == "Procfile:2: vite: npm run dvv: there is no such script in ui/package.json"
    assert hint == "There are: dev."


def test_a_port_that_a_command_takes_is_given_to_no_other_process(project: Project) -> None:
    plan = project.load("a: run $PORT\nb: serve -p 5000\n")
    assert ports_of(plan) == {"a": 5001, "b": 5100}
    assert notes_of(plan)[0] == "a: port 5000 is b's; it gets 5001"


def test_a_package_json_that_cannot_be_read_is_an_error(project: Project) -> None:
    (project.root / "ui" / "package.json").write_text('{\n  "scripts": {"dev": "vite"}\n  oops\n}\n')
    message, hint = project.error()
    assert message.startswith("ui/package.json:3: not JSON: ")
    assert "column 3" in hint


THREE = TWO + "admin: cd ui && npm run dev\n"


def test_further_frontends_have_a_prefix(project: Project) -> None:
    """None of them is the frontend or the backend, whatever its command or its name."""
    settings = '[proxy.frontends]\n"/admin/" = "vite"\n"/docs" = "http://localhost:9"\n'
    plan = project.load(THREE, settings)
    proxy = proxy_of(plan)
    elsewhere = Address(host="localhost", port=9)
    assert proxy.frontends == {"/admin/": FromProcess(name="vite"), "/docs": elsewhere}
    assert (proxy.frontend, proxy.backend) == (FromProcess(name="admin"), FromProcess(name="api"))
    assert [each.role for each in plan.processes] == [Role.FRONTEND, Role.BACKEND, Role.FRONTEND]
    left_out = project.load(THREE, settings, only=["api", "admin"])
    assert proxy_of(left_out).frontends["/admin/"] is None
    assert "no /admin/: vite is not among the processes of this run" in notes_of(left_out)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('"/admin/" = "amdin"', "there is no process amdin"),
        ('"admin" = "admin"', "'admin' is not a path below /"),
        ('"/" = "admin"', "'/' is not a path below /"),
        ('"/a?b" = "admin"', "'/a?b' is not a path below /"),
        ('"/../x" = "admin"', "'/../x' is not a path below /"),
        ('"/a//b" = "admin"', "'/a//b' is not a path below /"),
        ('"/__orchestra__/" = "admin"', "/__orchestra__/ is orchestra's own"),
        ('"/admin" = "admin"\n"/admin/" = "api"', "it is there as '/admin', too"),
        ('"/admin/" = true', "Expected `str`, got `bool`"),
        ('"/admin/" = "ftp://localhost"', "an upstream cannot be asked by ftp"),
        ('"/admin/" = "api"\n[proxy]\nbackend = "api"', "it is a frontend already"),
    ],
)
def test_what_is_no_further_frontend_is_refused(project: Project, written: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        project.load(THREE, f"[proxy.frontends]\n{written}\n")


def test_a_side_that_is_not_run_is_missed(project: Project) -> None:
    plan = project.load(TWO, 'proxy.backend = "api"', only=["vite"])
    assert (proxy_of(plan).frontend, proxy_of(plan).backend) == (FromProcess(name="vite"), None)
    assert notes_of(plan) == ("no backend: api is not among the processes of this run",)


def test_without_its_proxy_a_frontend_is_still_one(project: Project) -> None:
    plan = project.load("x: run\ny: run\n", overrides=Overrides(no_proxy=True))
    assert {each.ready for each in plan.processes} == {None}
    plan = project.load(TWO, overrides=Overrides(no_proxy=True))
    assert [each.role for each in plan.processes] == [Role.FRONTEND, Role.BACKEND]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("0.0.0.0:8000", ("0.0.0.0", 8000)),
        (":8000", ("127.0.0.1", 8000)),
        ("8000", ("127.0.0.1", 8000)),
        ("localhost:8000", ("127.0.0.1", 8000)),
        ("[::1]:8000", ("::1", 8000)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_an_address_to_listen_on_is_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot listen on '': it is not HOST:PORT"),
        ("127.0.0.1", "cannot listen on '127.0.0.1': it is not HOST:PORT"),
        ("::1:8000", "cannot listen on '::1:8000': an IPv6 address stands in brackets"),
        ("[::1]", "cannot listen on '[::1]': an IPv6 address stands in brackets"),
        ("host:8000", "cannot listen on 'host:8000': the host is not an address"),
        ("[127.0.0.1]:8000", "cannot listen on '[127.0.0.1]:8000': the host is not an address"),
        (":65536", "cannot listen on ':65536': the highest port is 65535"),
        (":6000", "cannot listen on ':6000': browsers refuse to open port 6000"),
        ("http://x:8000", "cannot listen on 'http://x:8000': it is a URL"),
        ("8000\n", "cannot listen on '8000\\n': it is not HOST:PORT"),
        ("٨٠٠٠", "cannot listen on '٨٠٠٠': it is not HOST:PORT"),
    ],
)
def test_any_other_address_is_an_error_with_the_form_that_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_listen(text)
    assert str(caught.value) == message
    assert "8000" in caught.value.hint


@given(st.text("0123456789.:[]alocht\n", max_size=20))
def test_an_address_is_read_or_refused(text: str) -> None:
    try:
        host, port = parse_listen(text)
    except ConfigError:
        return
    assert host
    assert 0 <= port <= 65535


# --- What is installed first ---


def test_processes_that_share_a_folder_share_its_installation(project: Project) -> None:
    (project.root / "ui" / "package.json").write_text(
        json.dumps({"scripts": {"dev": "vite", "css": "tailwind"}, "devDependencies": {"vite": "*"}})
    )
    text = TWO + "css: npm -C ui run css\n"
    vite, api, css = project.load(text).processes
    assert vite.install is not None
    assert vite.install == css.install
    assert (vite.install.folder, api.install) == (project.root / "ui", None)
    assert {each.install for each in project.load(text, "run.install = false").processes} == {None}


# --- What is wrong ---


def test_a_program_that_is_missing_is_named_with_the_next_step(project: Project) -> None:
    (project.root / "bin" / "npm").unlink()
    assert project.error() == (
        "Procfile:1: vite: it needs node and npm, but npm is not found on PATH",
        "Install Node.js 20.19 or newer: https://nodejs.org (npm comes with it).",
    )
    (project.root / "bin" / "node").unlink()
    assert project.error() == (
        "Procfile:1: vite: it needs node and npm, but node is not found on PATH",
        "Install Node.js 20.19 or newer: https://nodejs.org.",
    )
    assert len(project.load(only=["api"]).processes) == 1
    project.program("node")
    assert project.error("f: vite\n") == (
        "Procfile:1: f: it needs node and vite, but vite is not found on PATH",
        "Run it through its package: `npx vite`.",
    )


def test_the_manager_that_has_to_install_is_needed_too(project: Project) -> None:
    (project.root / "ui" / "package.json").write_text(
        json.dumps({"scripts": {"dev": "vite"}, "devDependencies": {"vite": "*"}})
    )
    (project.root / "ui" / "pnpm-lock.yaml").touch()
    assert project.error() == (
        "Procfile:1: vite: it needs node and npm and pnpm, but pnpm is not found on PATH",
        "Install it: `corepack enable pnpm`, or `npm install -g pnpm`.",
    )


@pytest.mark.parametrize(
    ("procfile", "settings", "message", "hint"),
    [
        (
            "web: cd nowhere && run\n",
            "",
            "Procfile:1: web: cd to nowhere: there is no such folder",
            "Create it, or correct the command.",
        ),
        (
            "web: run\n",
            '[process.web]\ncwd = "nowhere"\n',
            "orchestra.toml:2: process.web.cwd: there is no folder nowhere",
            "Create it, or correct cwd.",
        ),
        (
            "a-b: run\na_b: run\n",
            "",
            "Procfile:2: a_b and a-b (Procfile:1) would both be ORCHESTRA_A_B_PORT",
            "Give one of them another name.",
        ),
        (
            "web: run\nweb2: run\nWEB: run\n",
            "",
            "Procfile:3: WEB and web (Procfile:1) would both be ORCHESTRA_WEB_PORT",
            "Give one of them another name.",
        ),
        (
            "web: run\n",
            "[process.wbe]\nport = 1\n",
            "orchestra.toml:1: process.wbe: there is no process wbe in Procfile, and no command here",
            "Did you mean web?",
        ),
        (
            "web: run\n",
            "[process.zzz]\nport = 1\n",
            "orchestra.toml:1: process.zzz: there is no process zzz in Procfile, and no command here",
            "Add it to Procfile, or set command or app.",
        ),
        (
            "web: run\n",
            '[process."a b"]\ncommand = "x"\n',
            "orchestra.toml:1: process.'a b': not allowed as a name",
            "Names are made of letters, digits, _ and -.",
        ),
        (
            "web: run\n",
            '[process.web]\ncommand = "x"\n',
            "orchestra.toml:2: process.web.command: web has a command in Procfile:1, too",
            "Delete one of the two.",
        ),
        (
            "web: run\n",
            '[process.web.env]\nPORT = "8000"\n',
            "orchestra.toml:2: process.web.env.PORT: orchestra sets this variable",
            "Set process.web.port = 8000 instead.",
        ),
        (
            TWO,
            "[process.api]\nport = 8000\n[proxy]\nlisten = ':8000'\n",
            "orchestra.toml:2: process.api.port: port 8000 is orchestra's own",
            "Choose another one, or another --listen.",
        ),
        (
            "web: run\napi: run\n",
            "process.web.port = 9\nprocess.api.port = 9\n",
            "orchestra.toml:2: process.api.port: web has port 9, too",
            "Choose another one.",
        ),
        (
            "web: run\n",
            "[process.web]\nport = 4444\n",
            "orchestra.toml:2: process.web.port: port 4444 is taken by pid 1 (x)",
            "Stop it, or set port = 0.",
        ),
        (
            TWO,
            '[proxy]\nbackend = "apo"\n',
            "orchestra.toml:2: proxy.backend: there is no process apo",
            "Did you mean api? There are vite, api.",
        ),
        (
            TWO,
            '[proxy]\nbackend = "api"\nfrontend = "api"\n',
            "orchestra.toml:2: proxy.backend: it is a frontend already",
            "Set one of the two to another process.",
        ),
        (
            TWO,
            "[proxy]\nbackend = true\n",
            "orchestra.toml:2: proxy.backend: true is neither a process, a URL nor false",
            "Name the process.",
        ),
        (
            TWO,
            '[proxy]\nbackend = "ftp://x:1"\n',
            "orchestra.toml:2: proxy.backend: an upstream cannot be asked by ftp, only by http and https",
            "Write http://HOST:PORT, https://HOST:PORT, or unix:PATH.",
        ),
        (
            TWO,
            '[proxy]\nbackend = "http://x:1/sub"\n',
            "orchestra.toml:2: proxy.backend: 'http://x:1/sub' is more, or less, than a host and a port",
            "Write http://HOST:PORT, https://HOST:PORT, or unix:PATH.",
        ),
        (
            TWO,
            '[proxy]\nbackend = "http://x:99999"\n',
            "orchestra.toml:2: proxy.backend: 'http://x:99999' is not a URL",
            "Write http://HOST:PORT, https://HOST:PORT, or unix:PATH.",
        ),
        (
            TWO,
            '[proxy]\nlisten = "nowhere"\n',
            "orchestra.toml:2: proxy.listen: cannot listen on 'nowhere': it is not HOST:PORT",
            "Write HOST:PORT, such as 127.0.0.1:8000, [::1]:8000, or a port alone.",
        ),
        (
            "web: run\n",
            '[run]\nenv_files = ["none.env"]\n',
            "none.env: no such env file",
            "Create it, or correct its name; it is looked for in the project's folder.",
        ),
    ],
)
def test_wrong_input_is_one_line_and_a_fix(
    project: Project, procfile: str, settings: str, message: str, hint: str
) -> None:
    machine = {"is_free": lambda port: port != 4444, "holder": lambda _: "pid 1 (x)"}
    found = project.error(procfile, settings, machine=machine)
    assert found == (message, hint)


def test_a_wrong_port_in_the_environment_is_named(project: Project) -> None:
    project.environ["PORT"] = "many"
    assert project.error()[0] == "PORT is 'many' in the environment: not a port"
    (project.root / ".env").write_text("PORT=99999\n")
    assert project.error()[0] == "PORT is '99999' in the env file: not a port"
    assert project.error(overrides=Overrides(base_port=0))[0] == "--base-port 0: no such port"
    assert (
        project.error(overrides=Overrides(output="loud", base_port=1))[0] == "--output loud: no such output"
    )


LONG = "x" * 300  # a name that no file system has
LINES = [
    "web: run\n",
    "api: run $PORT\n",
    "vite: cd ui && npm run dev\n",
    "a_b: x\n",
    "a-b: x\n",
    "oops\n",
    f"web: cd {LONG} && y\n",
    f"long: npm -C {LONG} run dev\n",
]
SETTINGS = [
    "proxy.backend = 'web'\n",
    "proxy.frontend = 'vite'\n",
    "proxy.backend = false\n",
    "proxy.listen = ':5000'\n",
    "process.api.port = 0\n",
    "process.web.port = 5000\n",
    "process.web.env.PATH = ''\n",
    "process.new.command = 'npx vite'\n",
    "run.base_port = 65535\n",
    f"process.web.cwd = '{LONG}'\n",
]


def some_of(lines: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(lines), max_size=4, unique=True).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(some_of(LINES), some_of(SETTINGS), st.sampled_from([(), ("web",), ("vite", "api"), ("?",)]))
def test_whatever_is_written_gives_a_plan_or_our_error(
    project: Project, procfile: str, table: str, only: tuple[str, ...]
) -> None:
    (project.root / "orchestra.toml").write_text(table)
    try:
        plan = project.load(procfile, only=only)
    except ConfigError as exc:
        message = exc
    else:
        assert plan.processes
        ports = [process.port for process in plan.processes]
        assert len(set(ports)) == len(ports)
        return
    assert message.hint


# --- For a run that goes on ---


def test_processes_that_run_keep_their_ports(project: Project) -> None:
    """Whatever comes before them, and although they hold them themselves."""
    kept = {"api": 5000, "worker": 5101}
    running = {"kept": kept, "is_free": lambda port: port != 5100}
    plan = project.load("new: run $PORT\napi: serve $PORT\nworker: work\nlast: run\n", machine=running)
    assert ports_of(plan) == {"new": 5001, "api": 5000, "worker": 5101, "last": 5300}
    assert notes_of(plan) == ("new: port 5000 is api's; it gets 5001",)


def test_a_port_that_is_fixed_now_is_given_up_by_the_process_that_had_it(project: Project) -> None:
    kept = {"api": 5000, "worker": 5100}
    plan = project.load("api: serve\nworker: work\n", "process.api.port = 5100", machine={"kept": kept})
    assert ports_of(plan) == {"api": 5100, "worker": 5101}


def test_the_proxy_that_runs_stays_where_it_is_unless_it_is_told_where(project: Project) -> None:
    def try_listen(_host: str, port: int) -> None:
        if port == 8000:
            raise ConfigError("127.0.0.1:8000: cannot be listened on")

    running = {"listens": ("127.0.0.1", 8004), "try_listen": try_listen}
    plan = project.load(TWO, machine=running)
    assert (proxy_of(plan).port, notes_of(plan)) == (8004, ())
    plan = project.load(TWO, 'proxy.listen = "127.0.0.1:9000"', machine=running)
    assert proxy_of(plan).port == 9000


# --- The shell, and the folder that commands run in ---


def test_a_word_of_bash_is_named_unless_bash_runs_it(project: Project) -> None:
    for name in ("sh", "bash", "dash"):
        project.program(name)
    procfile = "web: source .env && run\n"
    asked = '[run]\nshell = "dash"\n'
    (note,) = [each for each in project.load(procfile, asked).notes if "source" in each.text]
    assert note.text.endswith("Procfile:1: web: `source` is bash's, and dash runs the command")
    assert note.hint == 'Write `. FILE`, or set shell = "bash" in [run] or [process.web].'
    for enough in ('[run]\nshell = "bash -e"', asked + '[process.web]\nshell = "bash"'):
        assert not any("source" in each.text for each in project.load(procfile, enough).notes)


def test_a_command_is_run_by_its_shell(project: Project) -> None:
    project.program("bash")
    (web, api) = project.load("web: a && b\napi: run\n", '[process.web]\nshell = "bash -e"').processes
    assert web.in_shell(web.command) == "exec bash -e -c 'a && b'"
    assert api.in_shell(api.command) == "run"


def test_a_shell_that_there_is_not_is_refused(project: Project) -> None:
    text, _ = project.error("web: run\n", '[process.web]\nshell = "fish"')
    assert text == "orchestra.toml:2: process.web.shell: there is no program fish"


def test_a_root_is_the_folder_that_commands_run_in(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.root / "deploy").mkdir()
    (project.root / "deploy" / "Procfile").write_text("web: run\nui: run\n")
    (project.root / "deploy" / "orchestra.toml").write_text('[run]\nroot = ".."\n[process.ui]\ncwd = "ui"\n')
    (project.root / ".env").write_text("A=1\n")
    here = Machine(environ=project.environ)
    by_setting = load(project.root / "deploy" / "Procfile", here)
    monkeypatch.chdir(project.root / "ui")
    by_option = load("../deploy/Procfile", here, overrides=Overrides(root=".."))
    for plan in (by_setting, by_option):
        web, ui = plan.processes
        assert [plan.root, web.cwd, ui.cwd] == [project.root, project.root, project.root / "ui"]
        assert web.env is not None
        assert web.env["A"] == "1"
        assert project.root / ".env" in plan.files
        assert project.root / "deploy" / "orchestra.toml" in plan.files


def test_a_procfile_is_looked_for_in_the_root(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.root / "Procfile").write_text("web: run\n")
    monkeypatch.chdir(project.root / "ui")
    plan = load(None, Machine(environ=project.environ), overrides=Overrides(root=".."))
    assert (plan.procfile, plan.root) == (project.root / "ui" / ".." / "Procfile", project.root)


def test_a_root_that_there_is_not_is_refused(project: Project) -> None:
    text, _ = project.error("web: run\n", '[run]\nroot = "nowhere"', overrides=Overrides())
    assert text == "orchestra.toml:2: run.root: there is no folder nowhere"


# --- What is not there, and what is not asked for ---


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("python app.py --port 1", "app.py"),
        ("cd ui && node --watch server.mjs", "ui/server.mjs"),
        ("bash scripts/start.sh", "scripts/start.sh"),
        ("python -m app", ""),
        ("python -c x.py", ""),
        ("true; make x.py; python x.py", ""),
        ("python $APP.py", ""),
        ("python manage.py runserver", ""),
    ],
)
def test_a_script_that_does_not_exist_is_named(project: Project, command: str, missing: str) -> None:
    project.program("bash")
    notes = [each for each in notes_of(project.load(f"web: {command}\n")) if "there is no" in each]
    assert [each.partition("there is no ")[2] for each in notes] == (
        [f"{project.root}/{missing}"] if missing else []
    )


def test_nothing_is_said_of_the_port_of_a_process_that_does_not_ask_for_one(project: Project) -> None:
    taken_ports = {"is_free": lambda port: port > 5100}
    plan = project.load("web: serve --port $PORT\nworker: work\n", machine=taken_ports)
    assert notes_of(plan)[0].endswith("it gets 5101")
    assert not any("worker" in each for each in notes_of(plan))


def test_path_without_braces_in_an_env_file_is_an_error_of_its_own(project: Project) -> None:
    """Not one more about each program that is not found then."""
    (project.root / ".env").write_text("A=1\nPATH=$PATH:./bin\n")
    text, hint = project.error("web: cd ui && npm run dev\n")
    assert (text, hint) == (".env:2: PATH: $PATH stays as it is written", "Write ${PATH}.")
    (project.root / ".env").unlink()
    text, hint = project.error("web: run\n", '[process.web.env]\nPATH = "./bin:$PATH"')
    assert text == "orchestra.toml:2: process.web.env.PATH: variables are not expanded here"
