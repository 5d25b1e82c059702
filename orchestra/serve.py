"""Serves an application in production, by Hypercorn: ``orchestra serve myapp:app``.

Nothing for development is imported. Several workers are processes that share the sockets; one that ends is
replaced, unless it has just been started: then something is wrong with it, and all end. A signal (SIGTERM,
SIGINT) ends a worker when its requests in flight are answered, or the grace period is over; Hypercorn alone
would wait for some of them for ever. A second signal ends it at once.

Not here: how the application is found (`child/application`), how files are served (`asgi/files`).
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from hypercorn.config import Config
from hypercorn.middleware import AsyncioWSGIMiddleware, TrioWSGIMiddleware
from hypercorn.utils import LifespanFailureError, LifespanTimeoutError

from orchestra import unix_sockets
from orchestra.child import application
from orchestra.errors import ConfigError, OrchestraError, port_taken, show_error
from orchestra.folders import current_folder

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from multiprocessing.context import SpawnProcess

    from orchestra.control.doors import App, Message, Receive, Scope, Send

__all__ = ["Served", "WorkerClass", "as_asgi", "bound", "serve", "serve_on"]

WorkerClass: TypeAlias = Literal["asyncio", "uvloop", "trio"]

# Seconds for the application's shutdown, after that of its requests.
_LAST_MOMENT = 5.0
# Seconds after which a worker that ends is replaced, whatever its exit status; and how many in a row are if
# they were killed before: the system kills processes if memory is short.
_LIVED = 10.0
_MOST_KILLED = 5
# Seconds between two checks for a signal.
_INTERVAL = 0.1


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The target of `serve`, and its options.

    Attributes:
        target: ``module:attribute`` or ``module:create()``.
        static: The folder of the built assets, if there is one.
        static_path: The URL path of the assets.
        spa: The built page, if there is one.
        api_prefix: Below this path, the application's 404 is never replaced by the page.
        worker_class: The event loop of Hypercorn.
        grace: Seconds for the requests in flight at the end.
        logs: Write a line for each request.
    """

    target: str
    static: str | None = None
    static_path: str = "/assets"
    spa: str | None = None
    api_prefix: str = "/api"
    worker_class: WorkerClass = "asyncio"
    grace: float = 10.0
    logs: bool = True


def serve(served: Served, *, listen: str, workers: int = 1) -> int:
    """Serve at ``HOST:PORT`` or ``unix:PATH`` until a signal ends it; return the exit status.

    Raises:
        ConfigError: The address is not available, or a file is missing.
        OrchestraError: The application has failed to start.
    """
    if not application.is_target(served.target):
        raise ConfigError(f"{served.target!r} is not an application", hint='Name one as "module:attribute".')
    current_folder()  # modules are looked for in it
    _with_files(_nothing, served)
    if served.worker_class == "uvloop" and find_spec("uvloop") is None:
        raise ConfigError("uvloop is not installed", hint="pip install uvloop")
    with _listening(listen, is_shared=workers > 1) as sockets:
        if workers > 1:
            return _serve_by_workers(served, sockets, workers)
        _work(served, sockets)
    return 0


@contextmanager
def _listening(address: str, *, is_shared: bool) -> Iterator[Sequence[socket.socket]]:
    """Listen at an address; a unix socket is removed at the end."""
    if not address.startswith("unix:"):
        yield bound(address, is_shared=is_shared)
        return
    if (path := address.removeprefix("unix:")) in ("", "/"):
        raise ConfigError(f"{address!r} has no path", hint="Write unix:PATH.")
    try:
        local = unix_sockets.listen(Path(path))
    except OSError as exc:
        raise ConfigError(f"{address}: {exc.strerror or exc}", hint="Give another one: --listen.") from exc
    try:
        yield [local.listener]
    finally:
        local.close()


def bound(address: str, *, is_shared: bool = False) -> list[socket.socket]:
    """Bind the sockets of ``HOST:PORT``, or `ConfigError`: later errors are the application's."""
    config = Config()
    config.bind, config.workers = [address], 2 if is_shared else 1
    try:
        return config.create_sockets().insecure_sockets
    except (OSError, ValueError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        if getattr(exc, "errno", None) == errno.EADDRINUSE:
            reason = port_taken(int(address.rpartition(":")[2]), "")
        raise ConfigError(f"{address}: {reason}", hint="Give another one: --listen HOST:PORT") from exc


# --- One worker ---


def _work(served: Served, sockets: Sequence[socket.socket]) -> None:
    app = _with_files(_load(served), served)
    serve_on(sockets, app, worker_class=served.worker_class, grace=served.grace, logs=served.logs)


def serve_on(
    sockets: Sequence[socket.socket],
    app: App,
    *,
    worker_class: WorkerClass = "asyncio",
    grace: float = 10.0,
    logs: bool = True,
) -> None:
    """Serve an application on bound sockets until a signal ends it; `OrchestraError` if it fails to start."""
    # Hypercorn closes them.
    config = application.set_up([f"fd://{os.dup(each.fileno())}" for each in sockets], grace)
    config.accesslog = "-" if logs else None
    is_ending = _end_by_signal(grace)
    try:
        _run(app, config, worker_class, is_ending)
    except* (LifespanFailureError, LifespanTimeoutError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise OrchestraError(f"the application did not start: {error}") from error


def _end_by_signal(grace: float) -> threading.Event:
    """Return an event that the first signal sets; a second one, or a timeout, ends the process at once."""
    is_ending = threading.Event()

    def give_up() -> None:
        sys.stderr.write(f"not everything has ended within {grace + _LAST_MOMENT:g} s\n")
        os._exit(1)

    def end(number: int, _frame: object) -> None:
        if is_ending.is_set():
            os._exit(128 + number)
        is_ending.set()
        timer = threading.Timer(grace + _LAST_MOMENT, give_up)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)
    return is_ending


def _run(app: App, config: Config, worker_class: WorkerClass, is_ending: threading.Event) -> None:
    parent = parent_process()

    async def ended(sleep: Callable[[float], Awaitable[object]]) -> None:
        while not is_ending.is_set():
            if parent is not None and not parent.is_alive():
                signal.raise_signal(signal.SIGTERM)  # it was killed
            await sleep(_INTERVAL)

    framework: Any = app  # Hypercorn's types of messages are narrower
    if worker_class == "trio":
        trio = import_module("trio")  # imported only where it is needed
        from hypercorn.trio import serve as serve_on_trio  # noqa: PLC0415

        trio.run(partial(serve_on_trio, framework, config, shutdown_trigger=partial(ended, trio.sleep)))
        return
    import asyncio  # noqa: PLC0415

    from hypercorn.asyncio import serve as serve_on_asyncio  # noqa: PLC0415

    factory = import_module("uvloop").new_event_loop if worker_class == "uvloop" else None

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Connections that are cut off at the end are expected.
        if not is_ending.is_set():
            loop.default_exception_handler(context)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(report)
        runner.run(serve_on_asyncio(framework, config, shutdown_trigger=partial(ended, asyncio.sleep)))


# --- Several workers ---


def _serve_by_workers(served: Served, sockets: Sequence[socket.socket], count: int) -> int:
    """Keep workers running until a signal comes, or one keeps failing; return the exit status."""
    context = get_context("spawn")
    workers: dict[SpawnProcess, float] = {}
    is_ending, code, killed = False, 0, 0

    def end(*_: object) -> None:
        nonlocal is_ending
        is_ending = True
        for each in workers:
            each.terminate()

    signal.signal(signal.SIGTERM, end)
    while workers or not is_ending:
        if len(workers) < count and not is_ending:
            worker = context.Process(target=_work_alone, args=(served, sockets))
            # A terminal's Ctrl-C is for us alone: we stop the workers.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            worker.start()
            signal.signal(signal.SIGINT, end)
            workers[worker] = time.monotonic()
            if is_ending:
                worker.terminate()
            continue
        connection.wait([each.sentinel for each in workers])
        for worker in [each for each in workers if each.exitcode is not None]:
            lived = time.monotonic() - workers.pop(worker)
            status = worker.exitcode or 1
            killed = killed + 1 if status < 0 and lived <= _LIVED else 0
            if not is_ending and lived <= _LIVED and (status > 0 or killed > _MOST_KILLED):
                code = status
                sys.stderr.write(f"a worker has ended after {lived:.1f} s ({code}), so all do\n")
                end()
    return code if code >= 0 else 128 - code


def _work_alone(served: Served, sockets: Sequence[socket.socket]) -> None:
    """Be a worker: there is no command line that would show errors."""
    try:
        _work(served, sockets)
    except OrchestraError as exc:
        sys.exit(show_error(exc))


# --- What is served ---


def _load(served: Served) -> App:
    """Find the application, or `ConfigError`; `OrchestraError` if its import fails, which was shown."""
    gc.disable()  # as in `child/application`
    try:
        found = application.find(served.target)
    except application.WrongSetting as exc:
        raise ConfigError(f"{served.target}: {exc}") from exc
    except Exception as exc:
        trace = exc.__traceback__
        application.show(exc.with_traceback(trace and trace.tb_next))
        raise OrchestraError("") from exc
    gc.freeze()
    gc.enable()
    return as_asgi(found, served.worker_class)


def _with_files(app: App, served: Served) -> App:
    """Return the application together with its files, if it has any."""
    if served.static is None and served.spa is None:
        return app
    try:
        from orchestra.asgi.files import SPA  # noqa: PLC0415 - needs what an application alone does not
    except ModuleNotFoundError as exc:
        hint = "pip install 'orchestra-dev[asgi]'"
        raise ConfigError(f"--static and --spa need Starlette: there is no {exc.name}", hint=hint) from exc
    return SPA(app, served.static, served.static_path, served.spa, served.api_prefix)


def as_asgi(app: Any, worker_class: WorkerClass = "asyncio") -> App:
    """Return an application as an ASGI one, if it is a WSGI one."""
    if application.kind_of(app) == "asgi":
        asgi: App = app
        return asgi
    make = TrioWSGIMiddleware if worker_class == "trio" else AsyncioWSGIMiddleware
    made: Any = make(application.never_empty(app), Config.wsgi_max_body_size)

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await made(scope, receive, send)
            return
        for _ in range(2):
            message: Message = await receive()
            await send({"type": f"{message['type']}.complete"})

    return call


async def _nothing(*_: object) -> None: ...
