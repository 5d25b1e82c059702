"""``orchestra dev myapp:app``: an application and its frontend, without a Procfile.

An application that is given by name is a process of an ordinary run: Hypercorn serves it, it is restarted
when a file is saved, and it shares the one address with Vite. An application that is given as an object
cannot be restarted: Hypercorn and `ViteDevProxy` serve it in this process, and only Vite is a process of a
run.

Not here: the processes of such a run (`config/written`), what a run is (`supervisor`).
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.config import Overrides
from orchestra.config.addresses import DEFAULT_LISTEN, parse_listen
from orchestra.config.plan import Address
from orchestra.config.written import Target
from orchestra.errors import ConfigError, OrchestraError, show_error
from orchestra.events import OutputLine
from orchestra.folders import is_running
from orchestra.planning import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestra.control.doors import App
    from orchestra.events import Event

__all__ = ["dev", "run_target"]

_NPM = "npm run dev"


def dev(
    target: str | App,
    *,
    vite_command: str = _NPM,
    vite_port: int = 5173,
    host: str | None = None,
    port: int | None = None,
    pid_path: str | os.PathLike[str] | None = None,
    name: str = "ORCHESTRA",
    pre_serve: Callable[[], object] | None = None,
    backend_prefixes: Sequence[str] | None = None,
) -> int:
    """Run an application and its frontend until Ctrl-C; return the exit status.

    Args:
        target: ``module:attribute``, ``module:create()``, or an ASGI application, which is not restarted when
            a file is saved.
        vite_command: The command that starts Vite. The default is found below the current folder if that has
            no `package.json`.
        vite_port: Not needed: Vite is found wherever it listens.
        host: The host to listen on; by default ``NAME_HOST``, then 127.0.0.1.
        port: The port; by default ``NAME_PORT``, then 8000 or, if that is taken, the next free one.
        pid_path: A file for our pid while this runs.
        name: The prefix of these variables.
        pre_serve: Called before anything is started.
        backend_prefixes: Paths whose WebSockets and 404s are the application's.

    Errors of the target, the address, the settings or this machine are printed on standard error, and end the
    program (`SystemExit`) with 2, as they end the command.
    """
    del vite_port
    host = os.environ.get(f"{name.upper()}_HOST") if host is None else host
    asked = os.environ.get(f"{name.upper()}_PORT") if port is None else str(port)
    listen = None
    if host or asked:
        usual_host, usual_port = DEFAULT_LISTEN
        host = f"[{host}]" if host and ":" in host else host or usual_host
        listen = f"{host}:{asked or usual_port}"
    vite = None if vite_command == _NPM and not Path("package.json").is_file() else vite_command
    prefixes = None if backend_prefixes is None else tuple(backend_prefixes)
    try:
        with _pid_file(pid_path, name):
            if pre_serve is not None:
                pre_serve()
            if isinstance(target, str):
                wanted = Target(app=target, vite=vite, backend_prefixes=prefixes)
                return run_target(Overrides(listen=listen, target=wanted))
            return _serve_here(target, Target(app=None, vite=vite), listen, backend_prefixes)
    except OrchestraError as exc:
        sys.exit(show_error(exc))


def run_target(overrides: Overrides) -> int:
    """Run the target of the command's options in this terminal; return the exit status."""
    from orchestra import foreground  # noqa: PLC0415 - an application here needs none of it
    from orchestra.child.application import is_target  # noqa: PLC0415 - likewise

    target = overrides.target
    if target is not None and target.app is not None and not is_target(target.app):
        raise ConfigError(f"{target.app!r} is not an application", hint='Name one as "module:attribute".')
    plan = partial(load, overrides=overrides, has_memory=True, claims=True)
    return foreground.run(plan(), replan=lambda running: plan(running=running))


def _serve_here(app: App, target: Target, listen: str | None, prefixes: Sequence[str] | None) -> int:
    from orchestra.asgi import ViteDevProxy  # noqa: PLC0415 - needs the extra
    from orchestra.child.application import kind_of  # noqa: PLC0415 - as above
    from orchestra.embedding import running  # noqa: PLC0415
    from orchestra.serve import as_asgi, bound, serve_on  # noqa: PLC0415

    if kind_of(app) is None:
        hint = 'Give an ASGI application, or name it: "module:attribute".'
        raise ConfigError(f"{type(app).__name__} is not an application", hint=hint)
    plan = load(overrides=Overrides(no_proxy=True, target=target), claims=True)
    if not plan.processes:
        raise ConfigError("no frontend was found", hint="Say what starts it: vite_command=...")
    host, port = parse_listen(listen) if listen is not None else DEFAULT_LISTEN
    sockets = bound(str(Address(host, port)))
    with running(plan) as run:
        name = plan.processes[0].name
        for line in run.tail(name):
            _print(name, line)
        run.subscribe(_print_event, OutputLine)
        url = run.snapshot()[name].url
        vite = Address.of_url(url or "")
        proxy = ViteDevProxy(as_asgi(app), vite.port, vite.host, backend_prefixes=prefixes)
        serve_on(sockets, proxy)
    return 0


def _print_event(event: Event) -> None:
    if isinstance(event, OutputLine):
        _print(event.process, event.text)


def _print(process: str, line: str) -> None:
    sys.stdout.write(f"{process} | {line}\n")
    sys.stdout.flush()


@contextmanager
def _pid_file(path: str | os.PathLike[str] | None, name: str) -> Iterator[None]:
    if path is None:
        yield
        return
    file = Path(path)
    try:
        other = int(file.read_text("ascii"))
    except (OSError, ValueError):
        other = None
    if other is not None and is_running(other):
        raise ConfigError(f"{name} is running already (pid {other})", path=file, hint="Stop it first.")
    try:
        file.write_text(str(os.getpid()), "ascii")
    except OSError as exc:
        hint = "Name another file: pid_path=..."
        raise ConfigError(f"cannot be written: {exc.strerror}", path=file, hint=hint) from exc
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
