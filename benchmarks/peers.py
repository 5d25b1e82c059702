"""What orchestra is compared with: how each peer is found or installed, configured and started.

Packages of Python and Node are installed once, into folders of the user's cache. Programs of the system are
only looked for. What is missing is named and left out.

A site is what stands behind the peers: a backend that is asked first, and a frontend that gets what the
backend answered 404 to. Orchestra starts a backend and a frontend of its own with the same commands, since
that is how it is used; all other peers share one of each.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.harness import CACHE, HERE, Failed, Running, answers, checked, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.harness import Options

__all__ = [
    "ORCHESTRA_ENVIRONMENT",
    "PEERS",
    "PROGRAMS",
    "Served",
    "Site",
    "installed",
    "installed_npm",
    "installed_pip",
    "mixed_site",
    "nginx_site",
    "orchestra_command",
    "own_origin",
    "program",
    "serving",
    "versions",
    "vite_command",
]

PROGRAMS = HERE / "programs"
PIP = ("aiohttp", "fastware[dev]", "honcho", "httpx", "hypercorn", "trio", "uvloop", "websockets")
NPM = ("concurrently", "http-proxy-3", "mprocs", "vite")

Command: TypeAlias = "Sequence[str]"


# --- packages ---


def installed(kind: str, packages: Sequence[str], install: Callable[[Path], object]) -> Path:
    """Return the folder of these packages; it is made whole or not at all."""
    mark = hashlib.sha256(f"{packages} {sys.version}".encode()).hexdigest()[:12]
    folder = CACHE / f"{kind}-{mark}"
    if not (folder / "whole").exists():
        print(f"installing {', '.join(packages[:9])} into {folder} (once) ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        (folder / "whole").touch()
    return folder


@cache
def installed_pip() -> Path:
    """Return the folder with the programs of the Python packages.

    Raises:
        Failed: pip cannot install them.
    """

    def install(folder: Path) -> None:
        checked([sys.executable, "-m", "venv", str(folder)])
        checked([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *PIP])

    return installed("pip", PIP, install) / "bin"


@cache
def installed_npm() -> Path:
    """Return the folder whose `node_modules` has the packages of Node.

    Raises:
        Failed: There is no npm, or it cannot install them.
    """

    def install(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        checked(["npm", "install", "--no-audit", "--no-fund", "--silent", *NPM], cwd=folder)

    return installed("npm", NPM, install)


def program(name: str) -> str:
    """Return the path of a program of the system.

    Raises:
        Failed: It is not there.
    """
    found = shutil.which(name)
    if found is None:
        raise Failed(f"{name} is not installed")
    return found


def versions() -> str:
    """Return the versions of all peers that are there."""
    found = {}
    for name, option in (
        ("nginx", "-v"),
        ("caddy", "version"),
        ("wrk", "-v"),
        ("node", "-v"),
        ("foreman", "-v"),
    ):
        if shutil.which(name):
            done = subprocess.run([name, option], capture_output=True, text=True, check=False)
            found[name] = (re.findall(r"\d+\.[\d.]+", done.stdout + done.stderr) or ["?"])[0]
    with contextlib.suppress(Failed):
        for name in NPM:
            package = json.loads((installed_npm() / "node_modules" / name / "package.json").read_text())
            found[name] = package["version"]
    with contextlib.suppress(Failed):
        command = [str(installed_pip() / "python"), "-m", "pip", "list", "--format=json"]
        wanted = {re.split(r"\W", name)[0] for name in PIP}
        found |= {
            each["name"]: each["version"]
            for each in json.loads(checked(command))
            if each["name"].lower() in wanted
        }
    return ", ".join(f"{name} {version}" for name, version in found.items())


# --- sites ---


@dataclass(frozen=True, slots=True)
class Site:
    """What stands behind the peers.

    Attributes:
        backend: Returns the command that serves it, for a port and a folder of its own.
        frontend: Likewise; ``None``: the backend is its own frontend.
        settings: Further lines of orchestra's ``[proxy]``.
        path: What is asked to see that a peer is up.
    """

    backend: Callable[[int, Path], Command]
    frontend: Callable[[int, Path], Command] | None = None
    settings: str = ""
    path: str = "/api/item"


def own_origin(port: int, folder: Path) -> Command:
    """Return the command of `programs/origin.py`."""
    del folder
    return [sys.executable, str(PROGRAMS / "origin.py"), str(port)]


_NGINX = """
daemon off; {user} pid {folder}/pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600; client_max_body_size 0;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {http}
}}
"""
# As large as a small module is after Vite has transformed it.
_MODULE = "export const value = 1; " * 80


def _nginx(folder: Path, http: str) -> Command:
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, http=http, user=user))
    return [program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _nginx_backend(port: int, folder: Path) -> Command:
    answer = '\'{"id": 1, "name": "first"}\''
    server = f"location / {{ return 404 nothing; }} location /api/ {{ return 200 {answer}; }}"
    return _nginx(folder, f"default_type application/json; server {{ listen 127.0.0.1:{port}; {server} }}")


def _nginx_frontend(port: int, folder: Path) -> Command:
    headers = "add_header Cache-Control no-cache; add_header Vary Origin;"
    server = f"location / {{ {headers} return 200 '{_MODULE}'; }}"
    return _nginx(folder, f"default_type text/javascript; server {{ listen 127.0.0.1:{port}; {server} }}")


def nginx_site() -> Site:
    """Return the fastest site there is: the proxy is what limits, nothing else.

    Without nginx it is our own origin, which several peers outrun.
    """
    if shutil.which("nginx") is None:
        print("nginx is not installed: the origin is slower than several peers", flush=True)
        return Site(own_origin, settings="memo = false\n")
    return Site(_nginx_backend, _nginx_frontend, settings="memo = false\n")


def mixed_site() -> Site:
    """Return a site with everything that our origin can do, and with assets if nginx is there."""
    return Site(own_origin, _nginx_frontend if shutil.which("nginx") else None, settings="memo = false\n")


# --- peers ---


@dataclass(frozen=True, slots=True)
class Place:
    """What a peer is started with: its port, those behind it, a folder of its own."""

    port: int
    backend: int
    frontend: int
    folder: Path
    site: Site


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to get at a site.

    Attributes:
        start: Returns the command and the environment it needs.
        can: What it is able to do: the parts of the benchmark that it takes part in, and ``asset`` if it asks
            the frontend after a 404.
    """

    start: Callable[[Place], tuple[Command, Mapping[str, str]]]
    can: frozenset[str]


def _vite(place: Place) -> tuple[Command, Mapping[str, str]]:
    proxy = {
        path: {"target": f"http://127.0.0.1:{place.backend}", "ws": path == "/ws"}
        for path in ("/api", "/give", "/swallow", "/events", "/ws")
    }
    config = {"server": {"proxy": proxy, "host": "127.0.0.1"}, "logLevel": "error"}
    (place.folder / "vite.config.mjs").write_text(f"export default {json.dumps(config)}")
    (place.folder / "index.html").write_text("<!doctype html><title>empty</title>")
    return vite_command(place.port), {}


def vite_command(port: int) -> Command:
    """Return the command of a Vite that serves the folder it is started in."""
    vite = str(installed_npm() / "node_modules/vite/bin/vite.js")
    return [program("node"), vite, "--port", str(port), "--strictPort", "--host", "127.0.0.1"]


def _fastware(place: Place) -> tuple[Command, Mapping[str, str]]:
    command = [str(installed_pip() / "granian"), "--interface", "asgi", "--host", "127.0.0.1", "--no-ws"]
    command += ["--port", str(place.port), "--log-level", "error", "fastware_app:app"]
    return command, {"FRONTEND": str(place.frontend), "PYTHONPATH": str(PROGRAMS)}


def _asgi(place: Place) -> tuple[Command, Mapping[str, str]]:
    command = [
        str(installed_pip() / "hypercorn"),
        "--worker-class",
        "trio",
        "--bind",
        f"127.0.0.1:{place.port}",
    ]
    ports = {"BACKEND": str(place.backend), "FRONTEND": str(place.frontend)}
    return [*command, "asgi_httpx:app"], {**ports, "PYTHONPATH": str(PROGRAMS)}


def _aiohttp(place: Place) -> tuple[Command, Mapping[str, str]]:
    ports = [str(port) for port in (place.port, place.backend, place.frontend)]
    return [str(installed_pip() / "python"), str(PROGRAMS / "aiohttp_proxy.py"), *ports], {}


def _node(place: Place) -> tuple[Command, Mapping[str, str]]:
    # An import of Node is looked for beside the file, not where we are.
    copy = installed_npm() / "proxy.mjs"
    shutil.copy(PROGRAMS / "proxy.mjs", copy)
    ports = [str(port) for port in (place.port, place.backend, place.frontend)]
    return [program("node"), str(copy), *ports], {}


_CADDYFILE = """
{{
    admin off
    auto_https off
    log {{
        level ERROR
    }}
}}
http://127.0.0.1:{place.port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{place.backend} {{
        @missing status 404
        handle_response @missing {{
            reverse_proxy 127.0.0.1:{place.frontend}
        }}
    }}
}}
"""


def _caddy(place: Place) -> tuple[Command, Mapping[str, str]]:
    file = place.folder / "Caddyfile"
    file.write_text(_CADDYFILE.format(place=place))
    homes = {
        "HOME": str(place.folder),
        "XDG_DATA_HOME": str(place.folder),
        "XDG_CONFIG_HOME": str(place.folder),
    }
    return [program("caddy"), "run", "--config", str(file), "--adapter", "caddyfile"], homes


_NGINX_PROXY = """
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream backend {{ server 127.0.0.1:{place.backend}; keepalive 64; }}
    upstream frontend {{ server 127.0.0.1:{place.frontend}; keepalive 64; }}
    proxy_http_version 1.1; proxy_set_header Connection $connection_upgrade; proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 3600; proxy_request_buffering off;
    proxy_max_temp_file_size 0; proxy_buffers 8 256k; proxy_buffer_size 64k; proxy_busy_buffers_size 512k;
    server {{
        listen 127.0.0.1:{place.port} backlog=1024;
        location / {{ proxy_pass http://backend; proxy_intercept_errors on; error_page 404 = @frontend; }}
        location @frontend {{ proxy_pass http://frontend; }}
        location /events {{ proxy_pass http://backend; proxy_buffering off; }}
    }}
"""


def _nginx_proxy(place: Place) -> tuple[Command, Mapping[str, str]]:
    return _nginx(place.folder, _NGINX_PROXY.format(place=place)), {}


def _splice(place: Place) -> tuple[Command, Mapping[str, str]]:
    return [sys.executable, str(PROGRAMS / "splice.py"), str(place.port), str(place.backend)], {}


def _orchestra(place: Place) -> tuple[Command, Mapping[str, str]]:
    """Write a project with a backend and a frontend of its own, and return the command that runs it."""
    ports = {"api": free_port(), "web": free_port()}
    commands = {"api": place.site.backend, "web": place.site.frontend}
    procfile, processes = "", ""
    for name, command in commands.items():
        if command is not None:
            folder = place.folder / name
            folder.mkdir()
            procfile += f"{name}: cd {folder} && exec {shlex.join(command(ports[name], folder))}\n"
            processes += f"[process.{name}]\nport = {ports[name]}\n"
    frontend = "web" if place.site.frontend else f"http://127.0.0.1:{ports['api']}"
    proxy = f'[proxy]\nbackend = "api"\nfrontend = "{frontend}"\n{place.site.settings}'
    (place.folder / "Procfile").write_text(procfile)
    (place.folder / "orchestra.toml").write_text(f"[run]\ninstall = false\n{proxy}{processes}")
    return orchestra_command(
        "--output", "plain", "--listen", f"127.0.0.1:{place.port}"
    ), ORCHESTRA_ENVIRONMENT


# The checkout that is measured, wherever the folder of the Procfile is.
ORCHESTRA_ENVIRONMENT = {"PYTHONPATH": str(HERE.parent)}


def orchestra_command(*options: str) -> Command:
    """Return the command that runs the Procfile of the folder that it is started in."""
    return [sys.executable, "-m", "orchestra", "run", "Procfile", *options]


_ALL = frozenset({"api", "asset", "bodies", "websocket", "events", "page"})
PEERS: Mapping[str, Peer] = {
    "orchestra": Peer(_orchestra, _ALL),
    "raw splice": Peer(_splice, _ALL - {"asset", "page"}),
    "nginx": Peer(_nginx_proxy, _ALL),
    "Caddy": Peer(_caddy, _ALL - {"page"}),
    "node": Peer(_node, _ALL),
    "aiohttp": Peer(_aiohttp, _ALL - {"page"}),
    "Vite": Peer(_vite, _ALL - {"asset", "page"}),
    "fastware": Peer(_fastware, frozenset({"api", "asset"})),
    "ASGI + httpx": Peer(_asgi, frozenset({"api", "asset", "bodies", "events"})),
}


# --- all together ---


@dataclass(frozen=True, slots=True)
class Served:
    """A way to get at a site, while it is up.

    Attributes:
        port: Where the backend can be got at.
        frontend: Where the frontend can be: another port only without a proxy.
        running: The proxy; ``None`` if there is none.
    """

    port: int
    frontend: int
    running: Running | None

    def cpu(self) -> float:
        """Return the seconds of CPU that the proxy has used so far."""
        return self.running.cpu() if self.running else 0.0


@contextlib.contextmanager
def serving(
    site: Site, ability: str, options: Options, *, only: Sequence[str] = ()
) -> Iterator[dict[str, Served]]:
    """Have a site served, directly and through every peer that can be had.

    Args:
        site: What stands behind them.
        ability: Only peers that can do this.
        options: Which peers were asked for.
        only: If given, only these, and ``direct``; a single one has to be there.

    Raises:
        Failed: The site itself, or the single peer, does not answer.
    """
    wanted = [
        name
        for name, peer in PEERS.items()
        if ability in peer.can and (not only or name in only) and (not options.peers or name in options.peers)
    ]
    is_needed = len(only) == 1
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestra-benchmark-")))
        backend = _origin(stack, site.backend, place / "backend")
        frontend = _origin(stack, site.frontend, place / "frontend") if site.frontend else backend
        served = {"direct": Served(backend, frontend, None)}
        for name in only if is_needed else wanted:
            folder = place / name.replace(" ", "-")
            folder.mkdir()
            port = free_port()
            try:
                running = _started(name, Place(port, backend, frontend, folder, site))
                stack.enter_context(running)
                running.wait_for(answers(port, site.path), f"{name} does not answer")
            except Failed as exc:
                if is_needed:
                    raise
                print(f"{name} is left out: {exc}", flush=True)
                continue
            served[name] = Served(port, port, running)
        yield served


def _origin(stack: contextlib.ExitStack, command: Callable[[int, Path], Command], folder: Path) -> int:
    """Start a server of a site; return its port."""
    folder.mkdir()
    port = free_port()
    running = stack.enter_context(Running(command(port, folder), cwd=folder))
    running.wait_for(lambda: _is_up(port), f"the {folder.name} does not answer")
    return port


def _started(name: str, place: Place) -> Running:
    command, environment = PEERS[name].start(place)
    is_ours = name == "orchestra"
    return Running(
        command,
        cwd=place.folder,
        env=environment,
        output=subprocess.DEVNULL if is_ours else None,
        is_alone=is_ours,
    )


def _is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
