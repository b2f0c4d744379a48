"""FTP in passive mode: a control connection on one port, and each transfer on another one that the server names."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from ..applications import NETWORKS, Runner, require_network, runner_for
from ..deployments import EndedEarly, Program, Published, free_port, wait_for_port
from .conftest import ATTEMPTS, Site, find, private_directory, run

if sys.platform != "linux":
    pytest.skip("the server is that of Linux distributions", allow_module_level=True)

NAME = "ftp.corp.example"
#: What the server tells its clients in the reply to PASV: its address in the private network, which nobody else has.
PRIVATE_ADDRESS = "10.20.30.40"
#: How many ports it has for transfers.
PASSIVE_PORTS = 20
BIG_BYTES = 20_000_000


@attrs.frozen
class Server:
    """vsftpd."""

    root: Path
    port: int
    first: int

    @property
    def ports(self) -> str:
        return f"{self.port},{self.first}-{self.first + PASSIVE_PORTS - 1}"


@contextmanager
def _vsftpd(directory: Path) -> Iterator[Server]:
    root = directory / "pub"
    root.mkdir(mode=0o755)
    os.chmod(directory, 0o755)
    for attempt in range(1, ATTEMPTS + 1):
        server = Server(root, free_port(), free_port())
        config = directory / "vsftpd.conf"
        settings = {
            "listen": "YES",
            "listen_address": "127.0.0.1",
            "listen_port": server.port,
            "background": "NO",
            "run_as_launching_user": "YES",
            "seccomp_sandbox": "NO",
            "anonymous_enable": "YES",
            "no_anon_password": "YES",
            "anon_root": root,
            "pasv_address": PRIVATE_ADDRESS,
            "pasv_min_port": server.first,
            "pasv_max_port": server.first + PASSIVE_PORTS - 1,
        }
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        if abs(server.port - server.first) <= PASSIVE_PORTS:
            continue
        with Program([find("vsftpd"), str(config)], name="vsftpd") as program:
            try:
                wait_for_port(server.port, program)
            except EndedEarly:
                if attempt == ATTEMPTS:
                    raise
                continue
            yield server
            return


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with private_directory() as directory, _vsftpd(directory) as server:
        (server.root / "small").write_text("over there\n")
        (server.root / "big").write_bytes(os.urandom(BIG_BYTES))
        yield server


@attrs.frozen
class Ftp:
    """A hybrid connection with all ports of the server, and its connector."""

    server: Server
    site: Site
    published: Published
    connector: Program

    def transfers(self) -> set[int]:
        """The ports that streams were opened to, without that of the control connection."""
        told = re.findall(r"event='open' .* target='127\.0\.0\.1:(\d+)'", self.connector.err)
        return set(map(int, told)) - {self.server.port}


@pytest.fixture(scope="module")
def ftp(site: Site, server: Server) -> Iterator[Ftp]:
    published = site.deployment.create("ftp", f"127.0.0.1:{server.ports}", local_name=f"{NAME}:{server.ports}")
    with site.deployment.start_connector(published) as connector:
        yield Ftp(server, site, published, connector)


@pytest.fixture(scope="module")
def local(ftp: Ftp) -> Iterator[str]:
    """The address at which a forward listens on all ports."""
    files = ("--connection-string-file", ftp.published.application)
    with ftp.site.deployment.start("forward", *files, "--listen", "own", "--mode", "tcp") as forward:
        found = re.search(r"ftp=([\d.]+):", forward.out)
        assert found is not None, forward.out
        yield found[1]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("command", ["--ftp-pasv", "--disable-epsv"], ids=["EPSV", "PASV"])
def test_curl_through_a_forward(ftp: Ftp, local: str, command: str, tmp_path: Path) -> None:
    """curl takes only the port from the reply to PASV, and connects to the address that it knows."""
    curl = (find("curl"), "--silent", "--show-error", "--noproxy", "*", command)
    url = f"ftp://{local}:{ftp.server.port}"
    assert {"small", "big"} <= set(run([*curl, "--list-only", f"{url}/"]).split())
    assert run([*curl, f"{url}/small"]) == "over there\n"
    run([*curl, "-o", tmp_path / "big", f"{url}/big"])
    assert digest(tmp_path / "big") == digest(ftp.server.root / "big")
    assert ftp.transfers(), "transfers have streams to ports of their own"
    assert all(ftp.server.first <= port < ftp.server.first + PASSIVE_PORTS for port in ftp.transfers())


def test_lftp_with_several_transfers_at_once(ftp: Ftp, local: str, tmp_path: Path) -> None:
    script = f"set ftp:prefer-epsv yes; open ftp://{local}:{ftp.server.port}; pget -n 4 big -o {tmp_path}/big; bye"
    run([find("lftp"), "--norc", "-c", script])
    assert digest(tmp_path / "big") == digest(ftp.server.root / "big")


@pytest.fixture(scope="module")
def runner(ftp: Ftp) -> Iterator[Runner]:
    with runner_for(ftp.published) as runner:
        yield runner


@pytest.mark.parametrize("network", NETWORKS)
def test_an_application_knows_the_server_by_its_name(ftp: Ftp, runner: Runner, network: str) -> None:
    url = f"ftp://{NAME}:{ftp.server.port}"
    done = runner.run("--network", require_network(network), "--", find("curl"), "-sS", f"{url}/small")
    assert (done.returncode, done.stdout, done.stderr) == (0, "over there\n", "")


def test_in_a_private_network_the_address_in_the_reply_to_pasv_works(ftp: Ftp, runner: Runner) -> None:
    """For clients that connect to the address that the server names, although only the private network has it."""
    options = ("-sSv", "--disable-epsv", "--no-ftp-skip-pasv-ip")
    url = f"ftp://{NAME}:{ftp.server.port}/small"
    done = runner.run("--network", require_network("private"), "--", find("curl"), *options, url)
    assert (done.returncode, done.stdout) == (0, "over there\n"), done.stderr
    assert re.search(rf"Connecting to {re.escape(PRIVATE_ADDRESS)} ", done.stderr), "that is the address it used"
