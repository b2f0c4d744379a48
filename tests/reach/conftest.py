"""Programs in other languages, with connection strings that have the names and ports of the private network.

`nox -s reach` installs what the programs need, and says in HYBRIDRELAY_REACH where it is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from ..applications import NETWORKS
from ..deployments import Published, free_port
from ..servers.conftest import Site, find
from ..servers.conftest import mariadb as mariadb  # noqa: PLC0414 - a fixture
from ..servers.conftest import nginx as nginx  # noqa: PLC0414
from ..servers.conftest import postgresql as postgresql  # noqa: PLC0414
from ..servers.conftest import redis as redis  # noqa: PLC0414
from ..servers.conftest import site as site  # noqa: PLC0414
from ..waiting import patience

PROGRAMS = Path(__file__).with_name("programs")
#: The names under which the private network knows the servers.
NAMES = {
    "postgresql": "orders.corp.example",
    "mariadb": "shop.corp.example",
    "redis": "cache.corp.example",
}
WAYS = ("forward", *(f"run-{network}" for network in NETWORKS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("servers")
            if not os.environ.get("HYBRIDRELAY_REACH"):
                item.add_marker(pytest.mark.skip(reason="`nox -s reach` installs what these programs need"))


@pytest.fixture(scope="session")
def installed() -> Path:
    """The directory with ``node_modules`` and ``jars``."""
    return Path(os.environ["HYBRIDRELAY_REACH"])


@attrs.frozen
class Reached:
    """Servers that programs reach under their own names and ports, in one of two ways."""

    #: Name and port of each server.
    at: dict[str, str]
    #: What precedes the command line of a program.
    wrapper: tuple[str, ...]

    def run(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> list[str]:
        """Run a program to its end. Returns the lines of its standard output."""
        done = subprocess.run(
            [*self.wrapper, *map(str, command)],
            check=False, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=patience(120),
        )  # fmt: skip
        assert done.returncode == 0, f"{command[0]} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.splitlines()


@attrs.frozen
class Server:
    """A server of the private network, and the files of its hybrid connection."""

    #: Its name and port in the private network.
    at: str
    published: Published


@pytest.fixture(scope="module")
def servers(site: Site, postgresql: int, mariadb: int, redis: int) -> Iterator[dict[str, Server]]:
    """The servers, all published by one connector."""
    made = {}
    for server, port in {"postgresql": postgresql, "mariadb": mariadb, "redis": redis}.items():
        at = f"{NAMES[server]}:{free_port()}"
        made[server] = Server(at, site.deployment.create(server, ("127.0.0.1", port), local_name=at))
    with site.deployment.start_connector(*(one.published for one in made.values())):
        yield made


@pytest.fixture(scope="module", params=WAYS)
def reached(
    request: pytest.FixtureRequest,
    site: Site,
    servers: dict[str, Server],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Reached]:
    """The servers, through ``hybridrelay forward`` and a hosts file, and through ``hybridrelay run``."""
    at = {server: one.at for server, one in servers.items()}
    files: list[str | Path] = ["--connection-string-file", *(one.published.application for one in servers.values())]
    way, _, network = request.param.partition("-")
    if way == "run":
        yield Reached(at, (*site.deployment.command("run", "--network", network, *files), "--"))
        return
    hosts = tmp_path_factory.mktemp("forward") / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    hosts.chmod(0o644)
    applied = site.deployment.run("hosts", "apply", *files, "--hosts-file", hosts)
    assert applied.returncode == 0, applied.stderr
    own = [part for one in servers.values() for part in _own(one)]
    with site.deployment.start("forward", *own):
        yield Reached(at, _with_hosts(hosts))


def _own(server: Server) -> list[str | Path]:
    return ["--connection-string-file", server.published.application, "--listen", "own"]


def _with_hosts(hosts: Path) -> tuple[str, ...]:
    """Return a command that runs a program with another hosts file, which nobody else on the machine sees."""
    script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    unshare: Sequence[str] = [find("unshare"), "--mount"]
    if os.geteuid() != 0:
        unshare = [*unshare, "--map-root-user"]
    return (*unshare, "sh", "-c", script, "sh", str(hosts))
