"""Programs that `run` starts as an ordinary user reach real servers under the names and ports of the premises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import attrs
import pytest

from ..applications import NETWORKS, Runner, require_network, runner_for, skip_unless_linux
from .conftest import Site, WebServer, find

skip_unless_linux()


@attrs.frozen
class Runners:
    """One for each server, and a configuration file with both."""

    postgresql: Runner
    web: Runner


@pytest.fixture(scope="module")
def runners(site: Site, postgresql: int, nginx: WebServer) -> Iterator[Runners]:
    (nginx.root / "index.html").write_text("the intranet\n")
    names = {"run-postgresql": ("sql01.corp.example:5432", postgresql), "run-web": ("intranet:80", nginx.port)}
    with ExitStack() as stack:
        found = []
        every = []
        for name, (local_name, port) in names.items():
            published = site.deployment.create(name, ("127.0.0.1", port))
            every.append(published)
            update = ("--update", published.application)
            done = site.deployment.run("connections", "set-local-name", name, "--local-name", local_name, *update)
            assert done.returncode == 0, done.stderr
            found.append(stack.enter_context(runner_for(published)))
        stack.enter_context(site.deployment.start_connector(*every))
        yield Runners(*found)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return require_network(request.param)


def test_psql_reaches_the_server_under_its_name(runners: Runners, network: str) -> None:
    """Also several in a script, and the exit code of the script."""
    psql = f"{find('psql')} -h sql01.corp.example -p 5432 -U postgres -d postgres -X -A -t"
    script = f"{psql} -c 'SELECT 6 * 7' && {psql} -c \"SELECT length(repeat('x', 1000000))\" && exit 7"
    done = runners.postgresql.run("--network", network, "--", "bash", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (7, "42\n1000000\n", "")


def test_curl_reaches_a_name_without_a_domain_at_a_port_of_root(runners: Runners, network: str) -> None:
    """A name without a domain, and a port that only root may open."""
    done = runners.web.run("--network", network, "--", find("curl"), "-sS", "http://intranet/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the intranet\n", "")


def test_blocking_and_asyncio_sockets_reach_the_web_server(runners: Runners, network: str) -> None:
    """Blocking sockets, and the non-blocking ones of asyncio, several at the same time."""
    script = """
import asyncio, urllib.request

async def fetch():
    reader, writer = await asyncio.open_connection("INTRANET", 80)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    return answer.endswith(b"the intranet\\n")

async def main():
    print(all(await asyncio.gather(*(fetch() for _ in range(20)))))

print(urllib.request.urlopen("http://intranet/").read().decode(), end="")
asyncio.run(main())
"""
    done = runners.web.run("--network", network, "--", "python3", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the intranet\nTrue\n", "")


def test_two_hybrid_connections_at_once(runners: Runners) -> None:
    runner = runners.postgresql
    other = runner.directory / "web"
    other.write_text(runners.web.file.read_text())
    other.chmod(0o644)
    script = (
        f"{find('curl')} -sS http://intranet/ && {find('psql')} -h sql01.corp.example -U postgres -XAtc 'SELECT 1'"
    )
    done = runner.run("--connection-string-file", other, "--log-level", "error", "--", "bash", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the intranet\n1\n", "")
