"""What other machines and names need: Vite told of allowed hosts, and an address that can be opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from orchestra import Plan, ProcessPlan, Supervisor
from orchestra.child import sockets
from orchestra.config.environment import VITE_HOSTS
from orchestra.config.plan import FromProcess, ProxyPlan
from orchestra.events import Notice
from tests.config_kit import Project
from tests.events_kit import Recorder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("hosts", "told", "is_noted"),
    [
        ((), None, False),
        (("abc.ngrok-free.app",), "abc.ngrok-free.app", False),
        ((".ngrok-free.app",), ".ngrok-free.app", False),
        (("a.example", "b.example"), "a.example", True),
    ],
)
def test_vite_is_told_of_an_allowed_host(
    tmp_path: Path, hosts: tuple[str, ...], told: str | None, *, is_noted: bool
) -> None:
    plan = Project(tmp_path).load(settings=f"[proxy]\nallowed_hosts = {list(hosts)}\n")
    assert [(each.env or {}).get(VITE_HOSTS) for each in plan.processes] == [told, told]
    assert any("Vite is told of a.example alone" in str(note) for note in plan.notes) is is_noted


def test_what_the_user_has_set_is_left_alone(tmp_path: Path) -> None:
    settings = f'[proxy]\nallowed_hosts = ["a.example"]\n[process.vite.env]\n{VITE_HOSTS} = "own"\n'
    plan = Project(tmp_path).load(settings=settings)
    assert (plan.processes[0].env or {})[VITE_HOSTS] == "own"


async def test_the_address_that_is_told_can_be_opened() -> None:
    proxy = ProxyPlan(host="0.0.0.0", port=0, backend=FromProcess(name="api"), frontend=None)
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="api", command="sleep 1000"),), proxy=proxy))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert supervisor.url is not None
        assert supervisor.url.startswith("http://127.0.0.1:")
        notice = await recorder.until(Notice)
        assert notice.code == "not-loopback"
        if (other := sockets.lan_address()) is not None:
            assert notice.text.endswith(f"at http://{other}:{supervisor.url.rpartition(':')[2]}")
        await supervisor.stop()
