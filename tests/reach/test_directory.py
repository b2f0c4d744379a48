"""LDAP over TCP and UDP (CLDAP) with a domain controller of Samba, and Samba's programs as clients.

Before it connects, a member of a domain sends a datagram to each domain controller, which says what it serves
([MS-ADTS] 6.3.3). The port is always 389.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest

from hybridrelay._own_address import own_addresses

from ..deployments import Program, skip_unless_ci
from ..servers.conftest import Site, find, private_directory, run
from ..waiting import wait_until

PORT = 389
REALM = "CORP.EXAMPLE"


@pytest.fixture(scope="module")
def controller() -> Iterator[str]:
    """The address of a domain controller. It serves nothing but LDAP."""
    if os.geteuid() != 0:
        skip_unless_ci("the port of LDAP is for root")
    tool, server = find("samba-tool"), find("samba")
    # Random, because the port is fixed: another run of the tests may use it at another address.
    numbers = random.SystemRandom()
    address = f"127.{numbers.randrange(1, 64)}.{numbers.randrange(256)}.{numbers.randrange(1, 255)}"
    with private_directory() as directory:
        run([
            tool, "domain", "provision", f"--realm={REALM}", "--domain=CORP", "--server-role=dc",
            "--dns-backend=NONE", "--host-name=dc1", "--option=vfs objects =", f"--targetdir={directory}",
        ])  # fmt: skip
        options = {
            "server services": "ldap, cldap",
            "interfaces": f"{address}/8",
            "bind interfaces only": "yes",
            "log file": f"{directory}/log",
            **{
                name: f"{directory}/{name.replace(' ', '-')}"
                for name in ("pid directory", "lock directory", "ncalrpc dir")
            },
        }
        for name in ("pid-directory", "lock-directory"):
            (directory / name).mkdir()
        command = [
            server, "--interactive", "--model=single", f"--configfile={directory}/etc/smb.conf",
            *(f"--option={name} = {value}" for name, value in options.items()),
        ]  # fmt: skip
        with Program(command, name="samba") as program:

            def serves() -> bool:
                assert program.process.poll() is None, program.err
                with socket.socket() as sock:
                    return sock.connect_ex((address, PORT)) == 0

            wait_until(serves, seconds=60, what="samba serves LDAP")
            yield address


@pytest.fixture(scope="module")
def reached(site: Site, controller: str) -> Iterator[str]:
    """The address on this machine at which the domain controller is reached."""
    name = f"dc{random.SystemRandom().randrange(10**6)}.corp.example"
    target = f"{controller}:{PORT}/tcp+udp"
    published = site.deployment.create("directory", target, local_name=f"{name}:{PORT}")
    with (
        site.deployment.start_connector(published, arguments=site.deployment.datagrams_allowed()),
        site.deployment.start(
            "forward", "--connection-string-file", published.application, "--listen", "own/tcp+udp"
        ),
    ):
        yield own_addresses([name])[name]


def test_a_member_of_the_domain_finds_its_controller(reached: str) -> None:
    """The question and the answer are datagrams."""
    settings = ["--configfile=/dev/null", f"--option=realm = {REALM}", "--option=workgroup = CORP"]
    output = run([find("net"), "ads", "lookup", "-S", reached, *settings, "--option=interfaces = 127.0.0.1/8"])
    assert "Domain Controller: dc1.corp.example" in output
    assert "Is an LDAP server:                          yes" in output


def test_ldapsearch_reaches_the_directory_over_tcp(reached: str) -> None:
    root = ["-b", "", "-s", "base", "dnsHostName"]
    output = run([find("ldapsearch"), "-x", "-LLL", "-H", f"ldap://{reached}", *root])
    assert "dnsHostName: dc1.corp.example" in output
