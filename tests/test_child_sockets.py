from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from orchestra.child import sockets
from orchestra.child.sockets import SocketScanner
from orchestra.config.plan import Address
from orchestra.errors import ConfigError

pytestmark = pytest.mark.real

SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 0), family=family)
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1")]
)
def test_the_sockets_of_a_process_tree_are_found_in_both_families(address: str, host: str) -> None:
    shell = f"{sys.executable} -c '{SERVER}' {address}; true"
    with subprocess.Popen(
        ["/bin/sh", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        port = int(leader.stdout.readline())
        assert sockets.scan([leader.pid]) == {leader.pid: frozenset({Address(host, port)})}
        leader.communicate()


def test_a_grandchild_in_a_session_of_its_own_is_found_too() -> None:
    shell = f"setsid -w {sys.executable} -c '{SERVER}' 127.0.0.1; true"
    with subprocess.Popen(
        ["/bin/sh", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        port = int(leader.stdout.readline())
        assert sockets.scan([leader.pid])[leader.pid] == {Address("127.0.0.1", port)}
        leader.communicate()


async def test_what_listens_at_the_expected_port_need_not_be_the_server() -> None:
    """Another program that has the port is no reason to wait, and none to believe that it is the server."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [sys.executable, "-c", SERVER, "127.0.0.1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as leader,
    ):
        newest = SocketScanner().looking_at(leader.pid, other.getsockname()[1])
        assert leader.stdout is not None
        port = int(leader.stdout.readline())
        for _ in range(3):
            assert await newest() == {Address("127.0.0.1", port)}
        leader.communicate()


def test_a_process_s_own_port_comes_first_and_a_debugger_s_never() -> None:
    given = {Address("::1", 5173), Address("127.0.0.1", 5173), Address("127.0.0.1", 3000)}
    found = sockets.in_order_of_preference({*given, Address("127.0.0.1", 9229)}, 5173)
    assert found == [Address("127.0.0.1", 5173), Address("::1", 5173), Address("127.0.0.1", 3000)]


OWN, HMR, DEBUG = (Address("127.0.0.1", port) for port in (5000, 24678, 9090))


@pytest.mark.parametrize(
    ("found", "unfit", "asked"),
    [
        ({OWN, HMR, DEBUG}, (), [OWN]),
        ({HMR, DEBUG}, (), [DEBUG, HMR]),
        ({HMR, DEBUG}, (HMR,), [DEBUG]),
        ({OWN, DEBUG}, (OWN,), [DEBUG]),
        ({HMR}, (HMR,), [HMR]),
    ],
)
def test_a_socket_at_its_own_port_is_asked_alone(
    found: set[Address], unfit: tuple[Address, ...], asked: list[Address]
) -> None:
    """However slow it is: another one that is faster is not what was meant."""
    assert sockets.likeliest(found, 5000, besides=unfit) == asked


def test_a_url_has_the_family_that_was_found() -> None:
    assert Address("127.0.0.1", 80).url == "http://127.0.0.1:80"
    assert Address("127.0.0.1", 6379, "tcp").url == "tcp://127.0.0.1:6379"
    assert Address("::1", 80).url == "http://[::1]:80"


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not sockets.is_free(taken.getsockname()[1])
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        assert not sockets.is_free(port)
    assert sockets.is_free(port)


def test_the_one_address_is_on_both_loopback_addresses() -> None:
    listeners = sockets.bind("127.0.0.1", 0)
    try:
        names = [listener.getsockname()[:2] for listener in listeners]
        assert [host for host, _port in names] == ["127.0.0.1", "::1"]
        assert len({port for _host, port in names}) == 1
    finally:
        for listener in listeners:
            listener.close()


def test_a_taken_port_error_names_its_holder_and_a_free_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            sockets.bind("127.0.0.1", port)
    assert f"port {port} is taken by pid {os.getpid()} (" in str(caught.value)
    assert "--listen 127.0.0.1:" in caught.value.hint


def test_a_holder_s_command_is_one_line_without_control_characters() -> None:
    script = f"{SERVER}\n# \x1b[31mred\x1b[0m"
    with subprocess.Popen(
        [sys.executable, "-c", script, "127.0.0.1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = sockets.holder(int(process.stdout.readline()))
        process.communicate()
    assert said.startswith(f"pid {process.pid} (")
    assert said.isprintable()


def test_half_an_address_is_not_kept() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            sockets.bind("127.0.0.1", port)
        assert f"cannot listen on [::1]:{port}" in str(caught.value)
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not an address of this machine"):
        sockets.bind("203.0.113.7", 8000)
