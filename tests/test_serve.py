"""`orchestra serve`: an application and its built frontend in production."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.asgi_kit import served
from tests.kit import COMMAND, PATIENCE, free_port, get, orchestra
from tests.process_kit import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOP = """
import os, sys, time
import anyio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route


async def modules(request):
    return JSONResponse([os.getpid(), *sys.modules])


async def slow(request):
    print("asked", flush=True)
    await anyio.sleep(1)
    return PlainTextResponse("done")


async def endless(request):
    async def pieces():
        while True:
            yield "more\\n"
            await anyio.sleep(0.05)

    return StreamingResponse(pieces())


routes = {"modules": modules, "slow": slow, "endless": endless}
app = Starlette(routes=[Route(f"/api/{name}", each) for name, each in routes.items()])


def plain(environ, start_response):
    time.sleep(0.01)
    status = "404 Not Found" if environ["PATH_INFO"] == "/" else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read()]
"""
# What belongs to development.
DEVELOPMENT = {"trio", "rich", "watchfiles", "psutil", "pathspec", "dotenv"}
PARTS = {f"orchestra.{name}" for name in ("supervision", "watch", "proxy", "dashboard", "config", "control")}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "dist" / "assets").mkdir(parents=True)
    (tmp_path / "dist" / "index.html").write_text("the page")
    (tmp_path / "dist" / "assets" / "a.js").write_text("the script")
    return tmp_path


def serve(*arguments: str, port: int) -> list[str]:
    return [*COMMAND, "serve", *arguments, "--listen", f"127.0.0.1:{port}"]


BUILT = ("--static", "dist/assets", "--spa", "dist/index.html")


@pytest.mark.real
def test_it_serves_both_and_imports_nothing_for_development(shop: Path) -> None:
    port = free_port()
    with served(serve("shop:app", *BUILT, port=port), port, cwd=shop) as process:
        url = f"http://127.0.0.1:{port}"
        assert get(f"{url}/assets/a.js").text == "the script"
        assert get(f"{url}/users/42").text == "the page"
        assert get(f"{url}/api/none").status == 404
        assert get(f"{url}/%0Abegins%1B[m").status == 200
        imported = set(json.loads(get(f"{url}/api/modules").body)[1:])
        assert not imported & (DEVELOPMENT | PARTS)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stdout is not None
        logged = process.stdout.read()
        assert "GET /users/42" in logged
        assert "GET /%0Abegins%1B%5Bm" in logged


@pytest.mark.real
def test_several_workers_are_replaced_and_end_when_all_is_answered(shop: Path) -> None:
    port = free_port()
    command = serve("shop:app", "--workers", "2", "--no-access-log", port=port)
    with served(command, port, cwd=shop) as process:
        url = f"http://127.0.0.1:{port}"
        pids: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(pids) < 2 and time.monotonic() < deadline:
            pids.add(json.loads(get(f"{url}/api/modules").body)[0])
        assert len(pids) == 2
        assert process.pid not in pids
        os.kill(pids.pop(), signal.SIGKILL)  # as the system does when memory is short
        while len(pids) < 2 and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                pids.add(json.loads(get(f"{url}/api/modules").body)[0])
        assert len(pids) == 2
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(get(f"{url}/api/slow").text))
        asking.start()
        output = process.stdout
        assert output is not None
        until(lambda: "asked" in output.read(), lambda: "it is not asked")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        asking.join(PATIENCE)
        assert answers == ["done"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("options", "number"),
    [
        ("--worker-class asyncio", signal.SIGTERM),
        ("--worker-class trio", signal.SIGINT),
        ("--workers 2", signal.SIGTERM),
        ("--workers 2", signal.SIGINT),
    ],
)
def test_an_answer_without_an_end_is_cut_off(options: str, number: signal.Signals, shop: Path) -> None:
    """Both signals have one handler, whatever a worker runs on; that of several workers is another one."""
    port = free_port()
    command = serve("shop:app", "--grace", "0.2", *options.split(), "--no-access-log", port=port)
    with served(command, port, cwd=shop) as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/api/endless")
        answer = connection.getresponse()
        assert answer.readline() == b"more\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            answer.read()
        connection.close()
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


@pytest.mark.real
@pytest.mark.parametrize("worker", ["asyncio", "trio"])
def test_a_wsgi_application_has_its_files_too(worker: str, shop: Path) -> None:
    port = free_port()
    command = serve("shop:plain", *BUILT, "--worker-class", worker, port=port)
    with served(command, port, cwd=shop):
        assert get(f"http://127.0.0.1:{port}/").text == "the page"
        assert get(f"http://127.0.0.1:{port}/echo", body=b"x" * 100_000).text == "x" * 100_000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("shop:nothing",), 2, 'there is no nothing in shop.py: did you mean "shop:app"?'),
        (("none:app",), 2, "none:app: there is no module none in"),
        (("broken:app",), 1, 'broken.py", line 1, in <module>\n    1 / 0\n'),
        (("shop:app", "--static", "none"), 2, "there is no folder none"),
        (("shop:app", "--spa", "none.html"), 2, "there is no file none.html"),
        (("shop:app", "--listen", "127.0.0.1:99999"), 2, "127.0.0.1:99999: bind(): port must be 0-65535."),
        (("shop:app", "--listen", "nonsense"), 2, "nonsense: "),
        (("shop:app", "--listen", "unix:shop.py"), 2, "unix:shop.py: Address already in use"),
        (("shop:app", "--listen", "unix:"), 2, "'unix:' has no path"),
        (("shop:app", "--grace", "nan"), 2, "nan is not a number"),
        (("shop:app()",), 2, 'shop:app (Starlette) does not make an application: write "shop:app"'),
    ],
)
@pytest.mark.real
def test_what_is_wrong_is_said(arguments: tuple[str, ...], code: int, said: str, shop: Path) -> None:
    (shop / "broken.py").write_text("1 / 0\n")
    listen = () if "--listen" in arguments else ("--listen", f"127.0.0.1:{free_port()}")
    got, _, error = orchestra("serve", *arguments, *listen, cwd=shop)
    assert got == code, error
    assert said in error.replace(f"{shop}/", "")
    assert ("Traceback" in error) == (code == 1)


@pytest.mark.real
def test_a_worker_that_cannot_start_ends_all(shop: Path) -> None:
    command = ("serve", "shop:nothing", "--workers", "2", "--listen", f"127.0.0.1:{free_port()}")
    got, _, error = orchestra(*command, cwd=shop)
    assert got == 2
    assert "there is no nothing in" in error
    assert error.count("so all do") == 1
    assert "Traceback" not in error


@pytest.mark.real
def test_a_port_that_is_taken_is_said(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        got, _, error = orchestra("serve", "shop:app", "--listen", f"127.0.0.1:{port}", cwd=shop)
    assert got == 2
    assert f"port {port} is taken" in error


@contextlib.contextmanager
def killed_at_the_end(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            yield process
        finally:
            process.kill()


def ask_at(path: Path) -> bytes:
    """Ask a server at a unix socket, as soon as it answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(path))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return sock.recv(65536).partition(b"\r\n")[0]
            except OSError:
                assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.real
def test_a_unix_socket_is_replaced_if_it_is_left_over_and_removed_at_the_end(shop: Path) -> None:
    """The workers of one that was killed end, too."""
    path = shop / "shop.sock"
    command = [*COMMAND, "serve", "shop:plain", "--no-access-log", "--listen", "unix:shop.sock"]
    with killed_at_the_end([*command, "--workers", "2"], shop) as first:
        assert ask_at(path).startswith(b"HTTP/1.1 404")
        code, _, error = orchestra(*command[len(COMMAND) :], cwd=shop)
        assert (code, "unix:shop.sock: Address already in use" in error) == (2, True)
        workers = psutil.Process(first.pid).children()
    assert psutil.wait_procs(workers, PATIENCE)[1] == []
    assert path.exists()
    with killed_at_the_end(command, shop) as second:
        assert ask_at(path).startswith(b"HTTP/1.1 404")
        second.terminate()
        assert second.wait(PATIENCE) == 0
    assert not path.exists()


@pytest.mark.real
def test_without_starlette_an_application_alone_is_served(shop: Path) -> None:
    """The extra is for files alone."""
    (shop / "bare.py").write_text(
        "import sys\nsys.modules['starlette'] = None\n"
        "from orchestra.serve import Served, serve\nfrom orchestra.errors import ConfigError\n"
        "try:\n    serve(Served(target='shop:plain', spa='dist/index.html'), listen='127.0.0.1:0')\n"
        "except ConfigError as exc:\n    print(exc, exc.hint)\n"
    )
    done = subprocess.run([sys.executable, "bare.py"], cwd=shop, capture_output=True, text=True, check=True)
    assert "need Starlette" in done.stdout
    assert "pip install 'orchestra-dev[asgi]'" in done.stdout
