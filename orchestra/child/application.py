"""Serves ``module:attribute``, an ASGI or WSGI application, by Hypercorn, in the project's interpreter.

Run as a script: ``python3 application.py PLACE --bind ADDRESS APPLICATION``. Variables in ADDRESS are
expanded when it starts to serve. The application is imported from the current folder, then from its ``src``;
``module:create()`` calls a factory without arguments. A wrong setting is reported in one line that begins
with PLACE, the setting's position. For errors of the project Python prints its traceback, without our own
frames.

It has a socket to orchestra, whose descriptor is in ``ORCHESTRA_CONTROL``: orchestra may spawn it before it
has to serve, as a spare for the next restart. Each message is one line of JSON:

1. from orchestra: names of modules. Those of installed packages are imported, the project's never: they would
   be out of date when they are needed. If an import fails, it is left to the project.
2. to orchestra: how many KiB of memory these imports took, if there were any.
3. from orchestra: environment variables; from now on it serves. Until then it waits, and exits when orchestra
   does. If what it has imported has changed on disk meanwhile, it starts over, with nothing imported.
4. from orchestra, repeatedly: any line; to orchestra: the installed modules that it has imported so far.

Standard library only, and nothing of ours: the interpreter may be older than orchestra's.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import json
import os
import socket
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, Literal

VARIABLE = "ORCHESTRA_CONTROL"
# Seconds for orchestra to take an answer: a server must not wait for one that is no longer wanted.
ANSWER_TIMEOUT = 1.0
# Seconds for requests in flight at the end: the proxy has given them their time.
GRACE = 1.0
# Where pip and the system's package manager put packages.
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
STANDARD_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - as everything here, for a quick start


class WrongSetting(Exception):  # noqa: N818 - it is the setting that is wrong
    """There is no such application; with the reason and the next step."""


def main() -> None:
    """Serve until a signal ends it."""
    # Imports allocate much and free nothing: garbage collection meanwhile takes a tenth of the time.
    gc.disable()
    place, _, bind, target = sys.argv[1:]
    with suppress(ValueError):
        sys.path.remove(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    control = None
    if VARIABLE in os.environ:
        control = stand_by(os.environ.pop(VARIABLE))
    try:
        if importlib.util.find_spec("hypercorn") is None:
            raise WrongSetting(f"Hypercorn is not installed for {sys.executable}: run `{install()}`")  # noqa: TRY301
        application = find(target)
    except WrongSetting as exc:
        sys.exit(f"{place}: {exc}")
    except Exception as exc:  # noqa: BLE001 - it is shown, as Python would
        show(exc)
        sys.exit(1)
    serve(application, bind, control)


def install() -> str:
    """Give the command that installs Hypercorn; environments that uv has made have no pip."""
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {sys.executable} hypercorn"
    return f"{sys.executable} -m pip install hypercorn"


# --- Finding the application ---


def is_target(text: str) -> bool:
    """Whether a text may name an application: ``module:attribute``."""
    module, _, attribute = text.partition(":")
    return "/" not in module and all([*module.split("."), *attribute.removesuffix("()").split(".")])


def find(target: str) -> Any:
    """Import the module of ``module:attribute``, and give the application, or `WrongSetting`."""
    name, _, attribute = target.partition(":")
    here = os.getcwd()  # noqa: PTH109
    source = os.path.join(here, "src")  # noqa: PTH118
    sys.path[:0] = [here, source] if os.path.isdir(source) else [here]  # noqa: PTH112
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise  # the module is there, and lacks another one
        where = " or ".join(sys.path[: 2 if os.path.isdir(source) else 1])  # noqa: PTH112
        is_file = name.endswith(".py")
        hint = f'write "{name[:-3]}:{attribute}"' if is_file else "correct it, or start elsewhere"
        raise WrongSetting(f"there is no module {exc.name} in {where}: {hint}") from exc
    found: Any = module
    for part in attribute.rstrip("()").split("."):
        if not hasattr(found, part):
            near = next((each for each, value in vars(module).items() if is_application(value)), None)
            hint = f'did you mean "{name}:{near}"?' if near and found is module else "correct it"
            raise WrongSetting(f"there is no {part} in {module.__file__ or name}: {hint}")
        found = getattr(found, part)
    if attribute.endswith("()"):
        found = made_by(found, target.removesuffix("()"))
    if kind_of(found) is None:
        is_factory = "()" not in attribute and inspect.isroutine(found)
        hint = f'write "{target}()"' if is_factory else "name the application itself"
        what = f"{target} ({type(found).__name__}) is neither an ASGI nor a WSGI application"
        raise WrongSetting(f"{what}: {hint}")
    return found


def made_by(factory: Any, name: str) -> Any:
    """Call a factory, or `WrongSetting` if it cannot be called without arguments."""
    if not callable(factory) or not takes(factory, 0):
        hint = f'write "{name}"' if is_application(factory) else "name a function without arguments"
        raise WrongSetting(f"{name} ({type(factory).__name__}) does not make an application: {hint}")
    return factory()


def kind_of(application: Any) -> Literal["asgi", "wsgi"] | None:
    """Tell ASGI from WSGI by the arguments that it can be called with: three or two."""
    if not callable(application) or isinstance(application, type):
        return None
    call = application if inspect.isroutine(application) else application.__call__
    is_async = inspect.iscoroutinefunction(call)
    if not is_async and takes(application, 2):
        return "wsgi"
    return "asgi" if takes(application, 3) else None


def takes(call: Callable[..., object], count: int) -> bool:
    """Whether it can be called with so many arguments; yes if that cannot be known."""
    try:
        inspect.signature(call).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def is_application(value: object) -> bool:
    """Whether it is an object that can be served; a function of a module may be anything."""
    return kind_of(value) is not None and not inspect.isroutine(value)


def show(exc: Exception) -> None:
    """Show an exception as Python does, without the frames of this file and of the import system."""
    traceback = exc.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith((__file__, "<frozen importlib", importlib.__file__)):
            break
        traceback = traceback.tb_next
    else:
        # An error of syntax is in no frame at all, and then Python leaves this line out.
        sys.stderr.write("Traceback (most recent call last):\n")
    sys.excepthook(type(exc), exc.with_traceback(traceback), traceback)


# --- Serving it ---


def serve(application: Any, bind: str, control: socket.socket | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    import asyncio  # noqa: PLC0415 - the project is imported first: a broken one is told the sooner

    from hypercorn.asyncio import serve as hypercorn  # noqa: PLC0415

    config = set_up([os.path.expandvars(bind)], GRACE)
    kind = kind_of(application)
    gc.freeze()
    gc.enable()

    async def run() -> None:
        if control is not None:
            asyncio.get_running_loop().add_reader(control, answer, control)
        await hypercorn(never_empty(application) if kind == "wsgi" else application, config, mode=kind)

    asyncio.run(run())
    # At exit, the garbage of a large program is collected several times: up to 0.3 s.
    gc.freeze()


def set_up(bind: list[str], grace: float) -> Any:
    """Make Hypercorn's settings, and let it end in time: requests in flight have `grace` seconds then."""
    import asyncio  # noqa: PLC0415 - as above
    from urllib.parse import quote  # noqa: PLC0415

    from hypercorn.config import Config  # noqa: PLC0415
    from hypercorn.logging import Logger  # noqa: PLC0415

    class Log(Logger):
        """Logs paths as they are sent: a client could end the line with a decoded one, and begin another."""

        def atoms(self, request: Any, response: Any, request_time: float) -> Any:
            shown: Any = {**request, "path": quote(request["path"], safe="/:@!$&'()*+,;=~")}
            return super().atoms(shown, response, request_time)

    async def wait_closed(server: asyncio.Server, wait: Any = asyncio.Server.wait_closed) -> None:
        if server.is_serving():
            await wait(server)

    # Hypercorn waits for a closed server before the grace period begins: from Python 3.12.1 on, until the
    # last answer ends (its issue 308).
    asyncio.Server.wait_closed = wait_closed  # type: ignore[method-assign, assignment]
    config = Config()
    config.bind, config.graceful_timeout, config.accesslog = bind, grace, "-"
    config.logger_class, config.include_server_header = Log, False
    return config


def never_empty(application: Any) -> Callable[..., Iterator[bytes]]:
    """Have a WSGI application answer with one chunk at least: Hypercorn forgets the head of an empty body."""

    def call(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterator[bytes]:
        body: Iterable[bytes] = application(environ, start_response)
        is_empty = True
        try:
            for chunk in body:
                is_empty = False
                yield chunk
        finally:
            if hasattr(body, "close"):
                body.close()
        if is_empty:
            yield b""

    return call


# --- The spare ---


class Installed:
    """Finds modules of the standard library and of installed packages, and refuses all others.

    It comes before all other finders while packages are imported beforehand: a package may import modules of
    the project (Django its settings), by a path of ``PYTHONPATH`` or of an editable installation.

    Attributes:
        times: The modification time of each file that was found, read before the import.
    """

    def __init__(self) -> None:
        self.times: dict[str, int] = {}

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module as the other finders do; `ImportError` if it is the project's."""
        for finder in sys.meta_path:
            look = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = look(name, path, target) if look is not None else None
            if spec is not None:
                places = [spec.origin] if spec.has_location else spec.submodule_search_locations or ()
                if not all(map(is_installed, places)):
                    raise ModuleNotFoundError(f"{name} is the project's", name=name)
                self.times.update(times_of(filter(None, places)))
                return spec
        return None


def is_installed(path: str | None) -> bool:
    """Whether a file is one of the standard library, or of a package that was installed."""
    return path is not None and (is_of_package(path) or path.startswith(STANDARD_LIBRARY))


def is_of_package(path: str) -> bool:
    """Whether a file is one of a package that was installed."""
    return not set(PACKAGE_FOLDERS).isdisjoint(path.split(os.sep))  # noqa: PTH206


def stand_by(number: str) -> socket.socket:
    """Import packages, and wait until it is time to serve.

    `number` is the descriptor of the socket; with ``!`` behind it, it serves at once.
    """
    control = socket.socket(fileno=int(number.rstrip("!")))
    control.set_inheritable(False)
    if number.endswith("!"):
        return control
    names = json.loads(receive(control))
    seen = stamps()
    seen = {**preload(names), **seen}
    before = {path: seen.get(path, time) for path, time in stamps().items()}
    if names:
        send(control, memory())
    os.environ.update(json.loads(receive(control)))
    if stamps() != before:
        control.set_inheritable(True)
        os.environ[VARIABLE] = f"{control.fileno()}!"
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606
    return control


def preload(names: Iterable[str]) -> dict[str, int]:
    """Import installed modules as far as possible; return the modification times of their files."""
    finder = Installed()
    sys.meta_path.insert(0, finder)
    for name in names:
        with suppress(Exception, SystemExit):  # A package may do anything when it is imported too early.
            importlib.import_module(name)
    sys.meta_path.remove(finder)
    return finder.times


def packages() -> dict[str, str]:
    """Give the modules of installed packages that have been imported, in that order, and their files."""
    found = {}
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.name == name and spec.has_location and is_of_package(spec.origin):
            found[name] = spec.origin
    return found


def stamps() -> dict[str, int]:
    """Give the modification times of all files and folders that a spare depends on."""
    folders = [each for each in sys.path if os.path.basename(each) in PACKAGE_FOLDERS]  # noqa: PTH119
    return times_of((sys.executable, *folders, *packages().values()))


def times_of(paths: Iterable[str]) -> dict[str, int]:
    """Give the modification times of files and folders; a missing one has no time."""
    times = {}
    for path in paths:
        with suppress(OSError):
            times[path] = os.stat(path).st_mtime_ns  # noqa: PTH116
    return times


def memory() -> int:
    """Give the largest size that this process has had in memory, in KiB."""
    import resource  # noqa: PLC0415 - only a spare tells it

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size // 1024 if sys.platform == "darwin" else size


def answer(control: socket.socket) -> None:
    """Send the installed modules that were imported, when orchestra asks; it does not once it has ended."""
    control.settimeout(ANSWER_TIMEOUT)
    with suppress(OSError):
        if control.recv(64):
            send(control, list(packages()))
            return
    import asyncio  # noqa: PLC0415 - it runs

    asyncio.get_running_loop().remove_reader(control)


def receive(control: socket.socket) -> bytes:
    """Receive a line; end if orchestra has ended."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = control.recv(65536, socket.MSG_PEEK)
        if not chunk:
            sys.exit(0)
        line += control.recv(chunk.find(b"\n") + 1 or len(chunk))
    return line


def send(control: socket.socket, message: object) -> None:
    """Send a line."""
    control.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
