"""Client, relay and private network, each a host of its own, and a firewall between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ..deployments import Deployment, Program, Published
from .lab import CLIENT, PRIVATE, RELAY, RELAY_HOST, Lab, missing

#: For people, at the end of the run; nothing is asserted about it.
_REMARKS: list[str] = []
_PLACES = {"relay": RELAY, "connector": PRIVATE, "forward": CLIENT, "probe": CLIENT}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.network)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _REMARKS:
        terminalreporter.section("measured in network namespaces, for information")
        for line in _REMARKS:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def remark() -> Callable[[str], None]:
    """Says something in the summary of the run."""
    return _REMARKS.append


class NetworkDeployment(Deployment):
    """A deployment whose processes run in the namespaces where they belong, the relay on its default ports."""

    def __init__(self, directory: Path, lab: Lab) -> None:
        super().__init__(directory)
        self.lab = lab

    def command(self, *arguments: str | Path) -> list[str]:
        command = super().command(*arguments)
        place = _PLACES.get(str(arguments[0]))
        return command if place is None else self.lab.command(place, *command)

    def start_relay(
        self, *arguments: str, descriptors: int | None = None, wrapper: Sequence[str | Path] = ()
    ) -> Program:
        return self.start(
            "relay", "--state", self.state, "--host", "0.0.0.0", *arguments, descriptors=descriptors, wrapper=wrapper
        )

    def create(
        self, name: str, target: tuple[str, int] | str, *, endpoint: str = RELAY_HOST, local_name: str | None = None
    ) -> Published:
        return super().create(name, target, endpoint=endpoint, local_name=local_name)


@pytest.fixture(scope="session")
def namespaces() -> Iterator[Lab]:
    """One for all tests: making it takes a second."""
    lacking = missing()
    if lacking is not None:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(lacking)
        pytest.skip(lacking)
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab(namespaces: Lab) -> Iterator[Lab]:
    """The namespaces, everything open."""
    yield namespaces
    namespaces.reset()


@pytest.fixture
def deployment(tmp_path: Path, lab: Lab) -> Iterator[NetworkDeployment]:
    """A relay that runs in its namespace."""
    assert sys.platform == "linux"
    with NetworkDeployment(tmp_path, lab) as deployment:
        deployment.start_relay()
        yield deployment
