"""A fixture for test suites that need the whole stack: `orchestra_stack`, one for the session.

Settings of pytest: ``orchestra_procfile`` (by default that of the root folder) and ``orchestra_listen`` (by
default any free port of this machine).

Never here: anything at import that a suite without this fixture would pay for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.embedding import Running


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare our settings."""
    parser.addini("orchestra_procfile", "The Procfile that orchestra_stack runs.", default="")
    parser.addini("orchestra_listen", "Where orchestra_stack listens.", default="127.0.0.1:0")


@pytest.fixture(scope="session")
def orchestra_stack(pytestconfig: pytest.Config) -> Iterator[Running]:
    """The stack of this project, ready; `orchestra_stack.url` is its address."""
    from orchestra.config.load import Overrides  # noqa: PLC0415 - see above
    from orchestra.config.procfile import find  # noqa: PLC0415
    from orchestra.embedding import running  # noqa: PLC0415

    named = str(pytestconfig.getini("orchestra_procfile"))
    procfile = pytestconfig.rootpath / named if named else find(pytestconfig.rootpath)
    overrides = Overrides(listen=str(pytestconfig.getini("orchestra_listen")))
    with running(procfile, overrides=overrides) as stack:
        yield stack
