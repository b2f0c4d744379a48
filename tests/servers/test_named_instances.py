"""Programs that know SQL Server by host and instance (``sql01\\SQLEXPRESS``), as on premises: they ask the SQL Server
Browser service of the host for the port of the instance, and connect to it. Both are published.

SQL Server itself cannot be had here. The clients are real ones: python-tds and FreeTDS.
"""

from __future__ import annotations

import importlib.util
import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from hybridrelay._own_address import own_addresses

from ..certificates import CertificateAuthority
from ..deployments import Deployment
from ..waiting import patience
from .conftest import find, missing, run
from .tds import tds_responder

#: The port of the service, which is always the same.
BROWSER = 1434
QUERY = "SELECT TOP 3 number FROM numbers"
PYTDS = f"""
import sys, pytds
with pytds.connect(dsn=sys.argv[1], user="app", password="secret", cafile=sys.argv[2], validate_host=False,
                   autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute("{QUERY}")
    print(cursor.fetchall())
"""


@attrs.define
class Browser:
    """The SQL Server Browser service of a host, with one instance. It answers as [MC-SQLR] says."""

    host: str
    port: int
    asked: list[bytes] = attrs.field(factory=list)

    def _serve(self, sock: socket.socket) -> None:
        text = f"ServerName;SQL01;InstanceName;SQLEXPRESS;IsClustered;No;Version;15.0.2000.5;tcp;{self.port};;"
        while True:
            request, peer = sock.recvfrom(64)
            if not request:
                return
            self.asked.append(request)
            # For all instances (2, 3), or for one by its name (4).
            if request[0] in (2, 3) or request.upper() == b"\x04SQLEXPRESS\0":
                sock.sendto(b"\x05" + len(text).to_bytes(2, "little") + text.encode(), peer)

    @contextmanager
    def serving(self) -> Iterator[None]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((self.host, BROWSER))
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            thread.start()
            yield
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", (self.host, BROWSER))
            thread.join(patience(30))


@attrs.frozen
class Instance:
    """A published instance."""

    #: The loopback address of its host on the application's machine.
    address: str
    browser: Browser
    #: A file with the certificate authority of the instance.
    authority: Path


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    # Random, because the port of the service is fixed: another run of the tests may use it at another address.
    numbers = random.SystemRandom()
    host = f"127.{numbers.randrange(1, 64)}.{numbers.randrange(256)}.{numbers.randrange(1, 255)}"
    name = f"sql{numbers.randrange(10**6)}.corp.example"
    directory = tmp_path_factory.mktemp("instance")
    authority = CertificateAuthority()
    certificate = directory / "certificate.pem"
    certificate.write_bytes(b"".join(authority.issue(name, common_name=name)))
    authority.write(directory / "ca.pem")
    with Deployment(directory) as deployment, tds_responder(certificate, "app", "secret", host) as port:
        deployment.start_relay()
        browser = Browser(host, port)
        with browser.serving():
            asking = deployment.create("browser", f"{host}:{BROWSER}/udp", local_name=f"{name}:{BROWSER}")
            sql = deployment.create("sql", f"{host}:{port}", local_name=f"{name}:{port}")
            deployment.start_connector(asking, sql, arguments=deployment.datagrams_allowed())
            deployment.start(
                "forward", "--connection-string-file", asking.application, sql.application,
                "--listen", "own/udp", "--listen", "own",
            )  # fmt: skip
            yield Instance(own_addresses([name])[name], browser, directory / "ca.pem")


def test_python_tds_finds_the_instance_under_its_local_name(instance: Instance) -> None:
    for module in ("pytds", "OpenSSL"):
        if importlib.util.find_spec(module) is None:
            missing(f"the Python package {module}", "the dependency group `recipes`")
    instance.browser.asked.clear()
    output = run([sys.executable, "-c", PYTDS, rf"{instance.address}\SQLEXPRESS", instance.authority])
    assert output == "[(1,), (2,), (3,)]\n"
    assert instance.browser.asked


def test_freetds_finds_the_instance_under_its_local_name(instance: Instance, tmp_path: Path) -> None:
    instance.browser.asked.clear()
    settings = tmp_path / "freetds.conf"
    settings.write_text("[global]\ntds version = 7.4\n")
    output = run(
        [find("tsql"), "-S", rf"{instance.address}\SQLEXPRESS", "-U", "app", "-P", "secret", "-o", "fhq"],
        text_in=f"{QUERY}\ngo\nexit\n",
        environment={"FREETDSCONF": str(settings)},
    )
    assert output.split() == ["1", "2", "3"]
    assert {one.upper() for one in instance.browser.asked} == {b"\x04SQLEXPRESS\0"}
