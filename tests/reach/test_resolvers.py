"""systemd-resolved asks the name server of `forward`, so that every program of a machine finds the published names.

systemd-resolved runs without systemd here: it needs only its runtime directory and its user. So what systemd adds is
not tested: resolvectl, which uses D-Bus, and the stub file /run/systemd/resolve/stub-resolv.conf as /etc/resolv.conf.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from hybridrelay._own_address import own_addresses

from ..deployments import Program, free_port, skip_unless_ci
from ..servers.conftest import Site, WebServer, find, missing, private_directory, run
from ..waiting import wait_until

#: Where distributions have it, and where `nox -s reach` puts it.
PROGRAM = "lib/systemd/systemd-resolved"
#: Runs systemd-resolved with private versions of what systemd would give it: its directory, configuration and user.
PREPARE = r"""
set -e
mount -t tmpfs tmpfs /run
if ! id systemd-resolve >/dev/null 2>&1; then
    for file in passwd group; do cp /etc/$file /run/$file; done
    echo 'systemd-resolve:x:65533:65533::/:/usr/sbin/nologin' >>/run/passwd
    echo 'systemd-resolve:x:65533:' >>/run/group
    for file in passwd group; do mount --bind /run/$file /etc/$file; done
fi
mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
chown systemd-resolve:systemd-resolve /run/systemd/resolve
cp "$1"/*.conf /run/systemd/resolved.conf.d
exec "$2"
"""
#: Runs a program that asks only one name server.
WITH_RESOLVER = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


@attrs.frozen
class Machine:
    """A machine whose name server is systemd-resolved."""

    #: The address of systemd-resolved.
    resolver: str
    #: What is published: a web server, by its name, and its port.
    name: str
    port: int
    #: Its address on this machine.
    address: str


@pytest.fixture(scope="module")
def machine(installed: Path, site: Site, nginx: WebServer) -> Iterator[Machine]:
    program = next((path for root in ("/", "/usr", installed) if (path := Path(root, PROGRAM)).exists()), None)
    if program is None:
        missing("systemd-resolved", "`nox -s reach`")
    if os.geteuid() != 0:
        skip_unless_ci("systemd-resolved has to be started by root")
    (nginx.root / "index.html").write_text("the intranet\n")
    # Random, because port 53 is fixed: another run of the tests may use it at another address.
    numbers = random.SystemRandom()
    name = f"intranet{numbers.randrange(10**6)}.corp.example"
    resolver = f"127.{numbers.randrange(1, 64)}.{numbers.randrange(256)}.{numbers.randrange(1, 255)}"
    published = site.deployment.create("resolved", ("127.0.0.1", nginx.port), local_name=f"{name}:{nginx.port}")
    names = f"127.0.0.1:{free_port()}"
    with (
        private_directory() as directory,
        site.deployment.start_connector(published),
        site.deployment.start(
            "forward", "--connection-string-file", published.application, "--listen", "own", "--dns", names
        ),
    ):
        # As docs/names.md says.
        (directory / "hybridrelay.conf").write_text(f"[Resolve]\nDNS={names}\nDomains=~{name}\n")
        # Only for this test: another address, and nothing that other tests could notice.
        (directory / "test.conf").write_text(
            f"[Resolve]\nDNSStubListener=no\nDNSStubListenerExtra={resolver}\nLLMNR=no\nMulticastDNS=no\n"
            "FallbackDNS=\n"
        )
        command = [find("unshare"), "--mount", "sh", "-c", PREPARE, "sh", str(directory), str(program)]
        with Program(command, name="systemd-resolved") as server:

            def listens() -> bool:
                assert server.process.poll() is None, server.err
                with socket.socket() as sock:
                    return sock.connect_ex((resolver, 53)) == 0

            wait_until(listens, seconds=30, what="systemd-resolved listens")
            yield Machine(resolver, name, nginx.port, own_addresses([name])[name])


def dig(machine: Machine, *question: str) -> str:
    return run([find("dig"), f"@{machine.resolver}", "+time=5", "+tries=5", *question])


def test_published_names_are_found(machine: Machine) -> None:
    assert dig(machine, "+short", machine.name).strip() == machine.address
    assert dig(machine, "+short", "+tcp", machine.name).strip() == machine.address
    assert "status: NOERROR" in dig(machine, machine.name, "AAAA")
    assert "status: NXDOMAIN" in dig(machine, f"below.{machine.name}")


def test_other_names_are_not_asked_for_here(machine: Machine) -> None:
    """There is no other name server in this test, so they are not found."""
    assert "status: NOERROR" not in dig(machine, "other.corp.example")


def test_a_program_reaches_the_target(machine: Machine, tmp_path: Path) -> None:
    configuration = tmp_path / "resolv.conf"
    configuration.write_text(f"nameserver {machine.resolver}\n")
    url = f"http://{machine.name}:{machine.port}/"
    command = ["sh", "-c", WITH_RESOLVER, "sh", str(configuration), find("curl"), "--silent", "--show-error", url]
    assert run([find("unshare"), "--mount", *command]) == "the intranet\n"
