"""A plan is written for other engines: their own tools take it, and those that can be started here run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, strategies as st

from orchestra.config import Overrides
from orchestra.config.plan import ProcessPlan
from orchestra.errors import ConfigError
from orchestra.export import ENGINES, export
from orchestra.export.services import program_of
from orchestra.export.yaml import render
from tests.kit import PATIENCE, base_port, called, get, needed, orchestra

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCFILE = """vite: cd frontend && npx vite
web: printf %s "$MODE" > mode.$PORT; exec python3 -m http.server --bind 127.0.0.1 $PORT
db: python3 -m http.server --bind 127.0.0.1 $PORT
migrate: test ${#PASSWORD} = 11 && echo "100% of $(basename "$PWD"), $PLACE %(here)s ; done" # over
worker: cd frontend && sleep 1000
mailer: sleep 1000
"""
SETTINGS = r"""
[process.web]
instances = 2
depends_on = ["db", "migrate:completed"]
ready = ["http:/", "exec:test -n \"$MODE\""]
stop_signal = "INT"
env = { MODE = "a\\b \"c\" 'd' %x $HOME ;e" }
liveness = true
restart_unhealthy = true

[process.db]
ready = "http:/frontend/"
restart = "always"

[process.migrate]
env = { PLACE = "%(here)s" }

[process.worker]
ready = "log:ready"
stop_timeout = 7.5
success_exit_codes = [0, 3]

[process.mailer]
autostart = false
log_file = "mail.log"
"""
MODE = "a\\b \"c\" 'd' %x $HOME ;e"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "Our shop"
    (folder / "frontend").mkdir(parents=True)
    (folder / "frontend" / "package.json").write_text('{"devDependencies": {"vite": "8"}}')
    (folder / "Procfile").write_text(PROCFILE)
    (folder / "orchestra.toml").write_text(SETTINGS)
    (folder / ".env").write_text("PASSWORD='open sesame'\nPORT=1\n")
    return folder


def exported(kind: str, project: Path, **options: Any) -> dict[str, str]:
    overrides = Overrides(base_port=options.pop("base_port", 5000))
    procfile = str(project / "Procfile")
    files, _ = export(
        kind,
        options.pop("folder", project / kind),
        procfile,
        environ=os.environ,
        overrides=overrides,
        **options,
    )
    return {each.name: each.read_text() for each in files}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


# --- What is written ---


@pytest.mark.parametrize("kind", ENGINES)
def test_what_env_files_say_is_not_written(kind: str, project: Path) -> None:
    texts = exported(kind, project)
    assert not [name for name, text in texts.items() if "sesame" in text]
    assert any(".env" in text for text in texts.values())
    assert {each.stat().st_mode & 0o777 for each in (project / kind).iterdir()} == {0o600}


@pytest.mark.parametrize("kind", ENGINES)
def test_what_is_for_development_only_is_not_written(kind: str, project: Path) -> None:
    assert "FASTAPI_ENV" not in "".join(exported(kind, project).values())


def test_vites_development_server_is_left_out_unless_it_is_named(project: Path) -> None:
    assert "orchestra-vite" not in exported("systemd", project, name="orchestra")["orchestra.target"]
    named = exported("systemd", project, name="orchestra", only=["vite"])
    assert set(named) == {"orchestra.target", "orchestra-vite.service"}


@pytest.mark.parametrize(("name", "called"), [("../x", "x"), ("a b/", "a-b"), ("ÄÖ", "app")])
def test_a_name_is_that_of_a_visible_file_and_an_image(project: Path, name: str, called: str) -> None:
    assert f"{called}.target" in exported("systemd", project, name=name)
    assert f"image: {called}\n" in exported("compose", project, name=name)["compose.yaml"]


def test_ours_is_replaced_and_what_is_not_ours_is_kept(project: Path) -> None:
    first = exported("systemd", project)
    (project / "systemd" / "notes.txt").write_text("mine\n")
    assert set(exported("systemd", project, left_out=["mailer"])) == {*first} - {"Our-shop-mailer.service"}
    assert {each.name for each in (project / "systemd").iterdir()} == {
        *first,
        "notes.txt",
    } - {"Our-shop-mailer.service"}
    (project / "systemd" / "Our-shop-mailer.service").write_text("mine\n")
    code, shown, errors = orchestra("export", "systemd", "systemd", cwd=project)
    assert (code, shown) == (2, "")
    assert "Our-shop-mailer.service: it is there already, and was not written by this command" in errors
    assert (project / "systemd" / "Our-shop-mailer.service").read_text() == "mine\n"


def test_the_command_says_what_it_wrote_and_what_to_know(project: Path) -> None:
    code, shown, errors = orchestra("export", "kubernetes", "k8s", "-x", "vite", cwd=project)
    assert (code, shown) == (0, "k8s/kubernetes.yaml\n")
    assert ".env:1: kubernetes reads this line in another way" in errors
    assert "worker: it is ready by a line of its output" in errors
    code, _, errors = orchestra("export", "kubernetes", "k8s", "--user", "www-data", cwd=project)
    assert (code, "--user www-data: Kubernetes takes a number" in errors) == (2, True)


def test_a_folder_that_cannot_be_written_is_named(project: Path) -> None:
    (project / "compose").write_text("a file\n")
    with pytest.raises(ConfigError, match="compose: cannot be written"):
        exported("compose", project)


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("uvicorn app:app --port $PORT", "exec uvicorn app:app --port $PORT"),
        ("cd api && A=1 uvicorn app:app", "cd api && A=1 exec uvicorn app:app"),
        ("echo 'a && b'; sleep 1", "echo 'a && b'; exec sleep 1"),
        ("test -d data || initdb; postgres", "test -d data || initdb; postgres"),
        ("serve --format '%(m)s | x'", "exec serve --format '%(m)s | x'"),
        ("exec sleep 1", "exec sleep 1"),
        ("sleep 1 & wait", "sleep 1 & wait"),
        ("while true; do sleep 1; done", "while true; do sleep 1; done"),
    ],
)
def test_the_shell_becomes_the_program_where_it_can(command: str, program: str) -> None:
    """What is told to stop is then the program, not a shell."""
    assert program_of(ProcessPlan(name="any", command=command), host="127.0.0.1") == program


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = texts.filter(lambda key: key != "#")
values = st.recursive(
    st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, values, min_size=1, max_size=3))
def test_yaml_reads_as_what_was_rendered(value: dict[str, Any]) -> None:
    assert yaml.safe_load(render({"#": ["a comment"], **value})) == value


# --- What their tools say ---


@pytest.mark.real
def test_systemd_takes_it(project: Path) -> None:
    program = needed("systemd-analyze")
    names = exported("systemd", project)
    done = called(program, "verify", *(project / "systemd" / name for name in names))
    ours = [line for line in done.stderr.splitlines() if "shop" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
    web = names["Our-shop-web.2.service"]
    assert "\nAfter=network.target Our-shop-db.service Our-shop-migrate.service\n" in web
    assert "\nWants=Our-shop-db.service\nRequires=Our-shop-migrate.service\n" in web
    assert "\nKillSignal=SIGINT\nTimeoutStopSec=5\n" in web
    assert "\nSuccessExitStatus=3\n" in names["Our-shop-worker.service"]
    assert "mailer" not in names["Our-shop.target"]


@pytest.mark.real
def test_compose_takes_it(project: Path) -> None:
    needed("podman")
    exported("compose", project)
    program = Path(sys.executable).parent / "podman-compose"
    done = called(program, "-f", "compose/compose.yaml", "config", cwd=project)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert set(found["services"]) == {"web", "db", "migrate", "worker"}  # mailer has a profile
    web = found["services"]["web"]
    assert web["environment"]["MODE"].replace("$$", "$") == MODE
    assert web["environment"]["PORT"] == "5100"
    assert web["deploy"] == {"mode": "replicated", "replicas": 2}
    assert web["depends_on"]["db"]["condition"] == "service_healthy"
    assert web["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert (web["stop_signal"], web["stop_grace_period"], web["env_file"]) == ("SIGINT", "5s", ["../.env"])
    assert "healthcheck" not in found["services"]["worker"]


@pytest.mark.real
def test_kubernetes_takes_it(project: Path) -> None:
    [text] = exported("kubernetes", project, user="1000").values()
    program = (sys.executable, "-m", "kubernetes_validate", "--strict")
    done = called(*program, "kubernetes/kubernetes.yaml", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}
    assert ("Job", "our-shop-migrate") in objects
    web = objects["Deployment", "our-shop-web"]["spec"]
    pod = web["template"]["spec"]
    [container] = pod["containers"]
    assert web["replicas"] == 2
    assert objects["Deployment", "our-shop-mailer"]["spec"]["replicas"] == 0
    assert (pod["securityContext"], pod["terminationGracePeriodSeconds"]) == ({"runAsUser": 1000}, 5)
    assert [each["name"] for each in pod["initContainers"]] == ["wait-for-db"]
    assert {"name": "MODE", "value": MODE} in container["env"]
    assert container["envFrom"] == [{"secretRef": {"name": "our-shop-env"}}]
    assert {"readinessProbe", "startupProbe", "livenessProbe", "lifecycle"} <= set(container)
    database = objects["Deployment", "our-shop-db"]["spec"]["template"]["spec"]["containers"][0]
    assert database["readinessProbe"]["httpGet"] == {"path": "/frontend/", "port": 5200}
    assert objects["Service", "our-shop-db"]["spec"]["ports"] == [{"port": 5200, "targetPort": 5200}]


# --- What they do ---


def answers(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            assert get(f"http://127.0.0.1:{port}/frontend/package.json").status == 200
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers on {port}"
            time.sleep(0.1)
        else:
            return


@pytest.mark.real
def test_supervisord_runs_it(project: Path, stack: ExitStack) -> None:
    base = base_port()
    # The path of a socket is short.
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
    exported("supervisord", project, base_port=base, folder=folder)
    programs = Path(sys.executable).parent
    log = folder / "out.log"
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            [programs / "supervisord", "-n", "-c", "supervisord.conf"], cwd=folder, stdout=out, stderr=out
        )
    control = [str(programs / "supervisorctl"), "-c", str(folder / "supervisord.conf")]

    def ask(*words: str) -> str:
        return called(*control, *words).stdout

    try:
        for port in (base + 100, base + 101, base + 200):
            answers(port)
        states = {line.split()[0]: line.split()[1] for line in ask("status").splitlines()}
        assert states.pop("Our-shop:Our-shop-migrate") == "EXITED"
        assert states.pop("Our-shop:Our-shop-mailer") == "STOPPED"
        assert len(states) == 4
        assert set(states.values()) <= {"RUNNING", "STARTING"}
        assert ask("tail", "Our-shop:Our-shop-migrate") == "100% of Our shop, %(here)s %(here)s ; done\n\n"
        assert (project / f"mode.{base + 100}").read_text() == MODE
        ask("shutdown")
        assert daemon.wait(PATIENCE) == 0
    finally:
        daemon.terminate()
        assert daemon.wait(PATIENCE) is not None, log.read_text()


# A systemd of the user's in namespaces of its own: it sees these units, these processes and this group alone.
SYSTEMD = """
mount -t tmpfs none /run && mkdir -p /run/systemd/system && mount -t cgroup2 none /sys/fs/cgroup &&
mkdir -p "/sys/fs/cgroup/$GROUP" && echo 0 > "/sys/fs/cgroup/$GROUP/cgroup.procs" || exit 77
exec unshare --cgroup sh -c '
umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit 77
echo begun; "$SYSTEMD" --user --unit=Our-shop.target --show-status=no 2>"$XDG_RUNTIME_DIR/log" &
read line; systemctl --user stop Our-shop.target "Our-shop-*"; echo stopped; read line'
"""
UNSHARE = ("unshare", "--mount", "--fork", "--kill-child", "--pid", "--mount-proc", "sh", "-c")
# What units have by default before or after them.
STUBS = ("basic", "default", "exit", "shutdown", "sysinit")


@pytest.mark.real
def test_systemd_runs_it(project: Path, stack: ExitStack) -> None:
    systemd = next(
        (each for each in map(Path, ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")) if each.exists()),
        None,
    )
    if os.getuid() != 0 or systemd is None or shutil.which("unshare") is None:
        pytest.skip("systemd is started in namespaces, which needs root, unshare and systemd")
    base = base_port()
    exported("systemd", project, base_port=base)
    for name in STUBS:
        (project / "systemd" / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    (project / "run").mkdir()
    group = f"orchestra-test-{os.getpid()}"
    env = {
        "PATH": os.environ["PATH"], "HOME": str(project), "GROUP": group, "SYSTEMD": str(systemd),
        "XDG_RUNTIME_DIR": str(project / "run"), "SYSTEMD_UNIT_PATH": str(project / "systemd"),
    }  # fmt: skip
    stack.callback(remove_group, group)
    manager = stack.enter_context(
        subprocess.Popen(
            [*UNSHARE, SYSTEMD],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    stack.callback(manager.kill)
    assert manager.stdin is not None
    assert manager.stdout is not None
    if (said := manager.stdout.readline()) != "begun\n":
        pytest.skip(f"the system does not let systemd have namespaces and a group of its own: {said}")
    for port in (base + 100, base + 101, base + 200):
        answers(port)
    assert (project / f"mode.{base + 101}").read_text() == MODE
    manager.stdin.write("\n")
    manager.stdin.flush()
    assert manager.stdout.readline() == "stopped\n"
    for port in (base + 100, base + 101, base + 200):
        with pytest.raises(OSError, match="refused"):
            get(f"http://127.0.0.1:{port}/")


def remove_group(name: str) -> None:
    """Remove the group that the manager was in; nothing is left in it."""
    deadline = time.monotonic() + PATIENCE
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        for folder, _, _ in os.walk(root / name, topdown=False):
            while Path(folder).exists():
                try:
                    Path(folder).rmdir()
                except OSError:  # what was in it is still ending
                    assert time.monotonic() < deadline, folder
                    time.sleep(0.1)
