"""Real processes on the loopback interface; the test itself plays application and target."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..deployments import Deployment, starting_with

MODES = ("tcp", "websocket")
#: For people, at the end of the run; nothing is asserted about it.
_REMARKS: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _REMARKS:
        terminalreporter.section("measured, for information")
        for line in _REMARKS:
            terminalreporter.write_line(line)


@pytest.fixture
def remark() -> Callable[[str], None]:
    """Says something in the summary of the run."""
    return _REMARKS.append


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A relay that runs."""
    if sys.platform == "win32":
        pytest.skip("the relay runs on Linux")
    with Deployment(tmp_path) as deployment:
        deployment.start_relay()
        yield deployment


@pytest.fixture
def returning_soon(tmp_path: Path) -> tuple[str, ...]:
    """Starts a client that replaces its lost control channel after five seconds, and not after a random time of up to
    half a minute more."""
    code = "import hybridrelay.client.control_channel_keeper as keeper\nkeeper.SPREAD_SECONDS = 0.0\n"
    return starting_with(code, tmp_path / "returning-soon")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Every transport."""
    mode: str = request.param
    return mode
