"""Real servers, each a process of its own on a free port, and one deployment that publishes all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

from ..deployments import Deployment, EndedEarly, Program, Published, free_port, wait_for_port
from ..waiting import patience
from .nginx_files import nginx_command

MODES = ("tcp", "websocket")
#: A port that was free a moment ago may be taken now.
ATTEMPTS = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("servers")


def find(name: str, *directories: Path) -> str:
    """Where a program is. Without it the test is skipped, except in CI, which has to install it."""
    path = os.pathsep.join([*map(str, directories), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        missing(name, ".ci/run")
    return found


def missing(what: str, installed_by: str) -> NoReturn:
    """Skip a test for which something is not installed. Fail it in CI, which has to install it."""
    if os.environ.get("CI", "").lower() in {"true", "1"}:
        pytest.fail(f"{what} is not installed, and CI has to install it ({installed_by})")
    pytest.skip(f"{what} is not installed")


def as_user(user: str) -> list[str]:
    """What to put before a command that refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return [find("setpriv"), f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", "--"]


@contextmanager
def private_directory(user: str | None = None) -> Iterator[Path]:
    """A directory that another user can reach too: pytest's are closed to them, and so may be $TMPDIR."""
    directory = Path(tempfile.mkdtemp(prefix="hybridrelay-", dir="/tmp"))
    try:
        if user is not None and os.geteuid() == 0:
            shutil.chown(directory, user, user)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def serving(command: Callable[[int], Sequence[str | Path]], name: str) -> Iterator[int]:
    """Start a server on a free port, and wait until it accepts connections. Gives the port."""
    for attempt in range(1, ATTEMPTS + 1):
        port = free_port()
        with ExitStack() as stack:
            program = stack.enter_context(Program(command(port), name=name))
            try:
                wait_for_port(port, program)
            except EndedEarly:
                if attempt == ATTEMPTS:
                    raise
                continue
            yield port
            return


def run(command: Sequence[str | Path], *, text_in: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Run a client to its end. Returns its standard output.

    Args:
        command: a program and its arguments.
        text_in: its standard input.
        environment: variables that are added to those of this process.
    """
    done = subprocess.run(
        [str(part) for part in command],
        check=False, input=text_in, env={**os.environ, **(environment or {})},
        capture_output=True, text=True, timeout=patience(100),
    )  # fmt: skip
    assert done.returncode == 0, f"{command[0]} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def postgresql() -> Iterator[int]:
    """The port of a PostgreSQL server; the user `postgres` needs no password."""
    directories = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb = find("initdb", *directories)
    server = str(Path(initdb).with_name("postgres"))
    user = as_user("postgres")
    with private_directory("postgres") as directory:
        data = directory / "data"
        run([*user, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
        settings = [
            "-c",
            f"unix_socket_directories={directory}",
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
        ]
        with serving(lambda port: [*user, server, "-D", data, "-p", str(port), *settings], "postgres") as port:
            yield port


@pytest.fixture(scope="session")
def mariadb() -> Iterator[int]:
    """The port of a MariaDB server; its user is `app`, the password `secret`, the database `app`."""
    install, server = find("mariadb-install-db"), find("mariadbd")
    user = ["--user=mysql"] if os.geteuid() == 0 else []
    with private_directory("mysql") as directory:
        data = directory / "data"
        common = ["--no-defaults", f"--datadir={data}", f"--tmpdir={directory}", *user]
        run([install, *common, "--auth-root-authentication-method=normal"])
        grants = directory / "init.sql"
        grants.write_text(
            "CREATE DATABASE app;\nCREATE USER app@'%' IDENTIFIED BY 'secret';\nGRANT ALL ON app.* TO app@'%';\n"
        )
        grants.chmod(0o644)

        def command(port: int) -> list[str]:
            return [
                server, *common, f"--port={port}", "--bind-address=127.0.0.1",
                f"--socket={directory}/socket", f"--pid-file={directory}/pid", f"--init-file={grants}",
                "--skip-name-resolve", "--max-allowed-packet=64M",
            ]  # fmt: skip

        with serving(command, "mariadbd") as port:
            yield port


@pytest.fixture(scope="session")
def redis() -> Iterator[int]:
    """The port of a Redis server."""
    server = find("redis-server")
    with private_directory() as directory:

        def command(port: int) -> list[str | Path]:
            return [
                server, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory,
                "--save", "", "--appendonly", "no",
            ]  # fmt: skip

        with serving(command, "redis-server") as port:
            yield port


@attrs.frozen
class WebServer:
    """nginx: files of `root` below ``/``, WebDAV's PUT into it, and ``/echo`` which answers a POST with its body."""

    port: int
    root: Path


_NGINX = """
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 100m;
    root {directory}/root;
    location / {{ dav_methods PUT; }}
    location = /length {{
      proxy_pass http://127.0.0.1:{port}/nothing;
      proxy_intercept_errors on;
      error_page 404 405 = @length;
    }}
    location = /nothing {{ return 404; }}
    location @length {{ return 200 $content_length; }}
  }}
"""


@pytest.fixture(scope="session")
def nginx() -> Iterator[WebServer]:
    """An nginx."""
    server = find("nginx")
    with private_directory() as directory:
        (directory / "root").mkdir()

        def command(port: int) -> list[str | Path]:
            return nginx_command(server, directory, _NGINX.format(directory=directory, port=port))

        with serving(command, "nginx") as port:
            yield WebServer(port, directory / "root")


@attrs.frozen
class Site:
    """The deployment: relay, one connector that publishes what has been asked for, one forward for each mode."""

    deployment: Deployment

    @contextmanager
    def forward(self, name: str, port: int, mode: str) -> Iterator[int]:
        """A local port that leads to `port`, through a relay, a connector and a forward."""
        published = self.deployment.create(f"{name}-{mode}", ("127.0.0.1", port))
        with self.deployment.start_connector(published), self._forward(published, mode) as local:
            yield local

    @contextmanager
    def _forward(self, published: Published, mode: str) -> Iterator[int]:
        forward = self.deployment.start_forward(published, mode=mode)
        with forward.program:
            yield forward.port


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A relay that runs, and what starts the rest."""
    if sys.platform == "win32":
        pytest.skip("the servers are those of Linux distributions")
    with private_directory() as directory, Deployment(directory) as deployment:
        deployment.start_relay()
        yield Site(deployment)


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Every transport."""
    mode: str = request.param
    return mode
