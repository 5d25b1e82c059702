"""Which processes are run, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from orchestra.config.plan import Source
from orchestra.config.processes import Written, formation
from orchestra.config.settings import ProcessSettings
from orchestra.errors import ConfigError


def written(**instances: int) -> list[Written]:
    return [
        Written(
            name=name,
            command="run",
            source=Source(path=Path("Procfile"), line=1),
            settings=ProcessSettings(instances=count),
            cwd=Path(),
        )
        for name, count in instances.items()
    ]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (None, {"web": 1, "worker": 2}),
        ("web=2", {"web": 2, "worker": 2}),
        ("web=2,worker=0", {"web": 2, "worker": 0}),
        ("all=1", {"web": 1, "worker": 1}),
        ("web = 3 , all=0", {"web": 3, "worker": 0}),
        ("web=100", {"web": 100, "worker": 2}),
        ("web=2,", {"web": 2, "worker": 2}),
    ],
)
def test_the_command_line_beats_the_settings(text: str | None, counts: dict[str, int]) -> None:
    assert formation(text, written(web=1, worker=2)) == counts


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "--formation : nothing is no NAME=NUMBER", "Write it as web=2,worker=0 or all=1."),
        ("web", "--formation web: web is no NAME=NUMBER", "Write it as web=2,worker=0 or all=1."),
        ("web=", "--formation web=: web= is no NAME=NUMBER", "Write it as web=2,worker=0 or all=1."),
        ("web=-1", "--formation web=-1: web=-1 is no NAME=NUMBER", "Write it as web=2,worker=0 or all=1."),
        ("web=٣", "--formation web=٣: web=٣ is no NAME=NUMBER", "Write it as web=2,worker=0 or all=1."),
        (
            "wbe=1",
            "--formation wbe=1: there is no process wbe",
            "Did you mean web? There are web, worker, all.",
        ),
        ("web=1,web=2", "--formation web=1,web=2: web is in it twice", "Say it once."),
        (
            "web=101",
            "--formation web=101: 101 instances of web are too many",
            "There can be 100 at most.",
        ),
    ],
)
def test_anything_else_is_an_error_with_the_form_that_is_allowed(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        formation(text, written(web=1, worker=1))
    assert (str(caught.value), caught.value.hint) == (message, hint)


@given(st.text(alphabet="abweorkl=,0123456789 \n٣"))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        counts = formation(text, written(web=1, worker=1))
    except ConfigError:
        return
    assert set(counts) == {"web", "worker"}
