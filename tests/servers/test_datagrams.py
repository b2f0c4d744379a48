"""Protocols over UDP with their usual programs: dig, the tools of Net-SNMP, and an LDAP server."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..deployments import Deployment, Program, free_udp_port, wait_for_port
from ..waiting import patience, wait_until
from .conftest import find, private_directory, run

#: More than 512 bytes, which DNS answers without EDNS may have.
LONG = [f"{number:02}" * 30 for number in range(20)]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("datagrams")) as deployment:
        deployment.start_relay()
        yield deployment


@contextmanager
def forwarded(deployment: Deployment, name: str, target: int, protocols: str) -> Iterator[int]:
    """The local port that leads to a port of this machine, for datagrams and perhaps streams."""
    published = deployment.create(name, f"127.0.0.1:{target}/{protocols}")
    deployment.start_connector(published, arguments=deployment.datagrams_allowed())
    forward = deployment.start(
        "forward", "--connection-string-file", published.application, "--listen", f"127.0.0.1:0/{protocols}"
    )
    found = re.search(r"127\.0\.0\.1:(\d+)/udp", forward.out)
    assert found is not None, forward.out
    yield int(found[1])


@pytest.fixture(scope="module")
def dns(deployment: Deployment) -> Iterator[int]:
    """The local port of a DNS server of the private network."""
    records = [f"--txt-record=long.corp.example,{text}" for text in LONG]
    port = free_udp_port()
    with Program(
        [
            find("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
            f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--edns-packet-max=4096",
            "--pid-file=", "--user=", "--local=/corp.example/", "--host-record=sql01.corp.example,10.20.30.40",
            *records,
        ],
        name="dnsmasq",
    ) as server:  # fmt: skip
        wait_for_port(port, server)
        with forwarded(deployment, "dns", port, "tcp+udp") as local:
            yield local


def dig(port: int, *arguments: str) -> str:
    return run([find("dig"), "@127.0.0.1", "-p", str(port), "+time=5", "+tries=5", *arguments])


def answers(output: str) -> list[str]:
    """The lines of `dig +short`, without those that say that a datagram is late, and that it asks again."""
    return [line for line in output.splitlines() if not line.startswith(";;")]


def test_dig_over_udp(dns: int) -> None:
    for _ in range(20):
        assert answers(dig(dns, "+notcp", "+short", "sql01.corp.example")) == ["10.20.30.40"]
    assert "status: NXDOMAIN" in dig(dns, "+notcp", "no-such-name.corp.example")


def test_a_long_answer_over_udp(dns: int) -> None:
    output = dig(dns, "+notcp", "+ignore", "+bufsize=4096", "long.corp.example", "TXT")
    assert "(UDP)" in output
    assert all(text in output for text in LONG)


def test_a_truncated_answer_and_then_tcp_at_the_same_port(dns: int) -> None:
    output = dig(dns, "+bufsize=512", "long.corp.example", "TXT")
    assert "Truncated, retrying in TCP mode" in output
    assert all(text in output for text in LONG)


def test_many_questions_at_once(dns: int, tmp_path: Path) -> None:
    """Two hundred, each from a port of its own, over one session."""
    questions = tmp_path / "questions"
    questions.write_text("sql01.corp.example A\n" * 50)
    command = [
        find("dig"), "@127.0.0.1", "-p", str(dns), "+time=5", "+tries=5", "+notcp", "+short", "-f", str(questions),
    ]  # fmt: skip
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for one in running:
        output, _ = one.communicate(timeout=patience(120))
        assert answers(output) == ["10.20.30.40"] * 50


def test_snmp_works_over_udp(deployment: Deployment) -> None:
    with private_directory() as directory:
        configuration = directory / "snmpd.conf"
        configuration.write_text("rocommunity public 127.0.0.1\nsysLocation the private network\n")
        port = free_udp_port()
        environment = {"SNMP_PERSISTENT_DIR": str(directory), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        command = [
            find("snmpd"), "-f", "-Lo", "-C", "-c", configuration, "-p", directory / "pid", f"udp:127.0.0.1:{port}",
        ]  # fmt: skip
        with Program(list(map(str, command)), name="snmpd", environment=environment) as server:
            server.wait_for_line("NET-SNMP version")
            with forwarded(deployment, "snmp", port, "udp") as local:
                common = ["-v2c", "-c", "public", "-m", "", "-t", "5", "-r", "5", f"127.0.0.1:{local}"]
                asked = run([find("snmpget"), "-Oqv", *common, "1.3.6.1.2.1.1.6.0"], environment=environment)
                assert asked.strip() == '"the private network"'
                walked = run([find("snmpbulkwalk"), "-Oqn", *common, "1.3.6.1.2.1.1"], environment=environment)
                assert ".1.3.6.1.2.1.1.6.0" in walked


def ber(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    assert len(content) < 128
    return bytes([tag, len(content)]) + content


def search(number: int) -> bytes:
    """An LDAP message that searches the root entry for its naming contexts (RFC 4511, 4.5.1)."""
    return ber(
        0x30,
        ber(0x02, bytes([number])),
        ber(
            0x63,
            ber(0x04),  # the root entry
            ber(0x0A, b"\0"),  # itself only
            ber(0x0A, b"\0"),
            ber(0x02, b"\0"),
            ber(0x02, b"\0"),
            ber(0x01, b"\0"),
            ber(0x87, b"objectClass"),
            ber(0x30, ber(0x04, b"namingContexts")),
        ),
    )


class ConnectionlessLdap(threading.Thread):
    """Answers LDAP over UDP (CLDAP): asks the real server over TCP, and puts its answer into one datagram.

    Debian's slapd is built without CLDAP. Servers of Active Directory have it."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))

    def run(self) -> None:
        while True:
            try:
                request, source = self.socket.recvfrom(65_536)
            except OSError:
                return
            if not request:
                return
            with socket.create_connection(("127.0.0.1", self._port), timeout=patience(30)) as server:
                server.sendall(request)
                answer = b""
                while b"\x65\x07\x0a\x01\x00" not in answer:  # the end of the results, with success
                    answer += server.recv(65_536)
            self.socket.sendto(answer, source)

    def stop(self) -> None:
        self.socket.sendto(b"", ("127.0.0.1", self._port))
        self.join(patience(30))
        self.socket.close()


def test_ldap_over_both(deployment: Deployment) -> None:
    with private_directory() as directory:
        configuration = directory / "slapd.conf"
        (directory / "data").mkdir()
        configuration.write_text(
            "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            f"pidfile {directory}/slapd.pid\ndatabase mdb\nsuffix dc=corp,dc=example\ndirectory {directory}/data\n"
        )
        port = free_udp_port()
        command = [find("slapd"), "-d", "0", "-f", str(configuration), "-h", f"ldap://127.0.0.1:{port}"]
        with Program(command, name="slapd") as server:
            wait_for_port(port, server)
            connectionless = ConnectionlessLdap(port)
            connectionless.start()
            try:
                with forwarded(deployment, "ldap", port, "tcp+udp") as local:
                    root = ["-b", "", "-s", "base", "namingContexts"]
                    found = run([find("ldapsearch"), "-x", "-LLL", "-H", f"ldap://127.0.0.1:{local}", *root])
                    assert "namingContexts: dc=corp,dc=example" in found
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                        client.connect(("127.0.0.1", local))
                        client.settimeout(2)

                        def answer() -> bytes | None:
                            client.send(search(7))
                            try:
                                return client.recv(65_536)
                            except TimeoutError:
                                return None

                        assert b"dc=corp,dc=example" in wait_until(answer, seconds=30, what="an answer")
            finally:
                connectionless.stop()
