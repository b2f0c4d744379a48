"""A relay behind a real nginx that serves it below a path, and demands a header field."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from ..certificates import CertificateAuthority
from ..deployments import Deployment, Program, Published, free_port, wait_for_port
from .conftest import find, private_directory
from .nginx_files import nginx_command
from .test_haproxy import echo

SECRET = "s3cret-access-token"
PREFIX = "/edge/relay"
OPTIONS = ("--mode", "websocket", "--websocket-path-prefix", PREFIX)

_NGINX = """
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/certificate.pem;
    ssl_certificate_key {directory}/key.pem;
    location {prefix}/ {{
      if ($http_x_access_token != "{secret}") {{ return 403; }}
      proxy_pass http://127.0.0.1:{relay}{to};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_buffering off;
    }}
  }}
"""


@attrs.frozen
class Site:
    """A relay behind nginx, and a hybrid connection that leads to an echo server."""

    deployment: Deployment
    relay: Program
    published: Published
    #: With the header field that nginx demands.
    headers: Path
    #: Lets programs trust nginx's certificate.
    trusting: dict[str, str]

    def start(self, command: str, *arguments: str | Path) -> Program:
        options: list[str | Path] = [*OPTIONS, "--websocket-headers-file", self.headers, "--log-level", "debug"]
        return self.deployment.start(command, *arguments, *options, environment=self.trusting)


@contextmanager
def site(*, strips: bool) -> Iterator[Site]:
    """`strips`: whether nginx removes the prefix."""
    server, port, authority = find("nginx"), free_port(), CertificateAuthority()
    options = () if strips else ("--websocket-path-prefix", PREFIX)
    with private_directory() as directory, Deployment(directory) as deployment, echo() as target:
        relay = deployment.start_relay(
            "--public-ports", f"http=off,https={port},probe=off,control=off,data=off", *options
        )
        certificate, key = authority.issue("127.0.0.1")
        (directory / "certificate.pem").write_bytes(certificate)
        (directory / "key.pem").write_bytes(key)
        authority.write(directory / "ca.pem")
        (directory / "headers").write_text(f"# for nginx\n\nX-Access-Token:  {SECRET}\n")
        (directory / "headers").chmod(0o600)
        block = _NGINX.format(
            directory=directory, port=port, prefix=PREFIX, secret=SECRET, relay=deployment.ports["http"],
            to="/" if strips else "",
        )  # fmt: skip
        with Program(nginx_command(server, directory, block, access_log="access.log"), name="nginx") as nginx:
            wait_for_port(port, nginx)
            published = deployment.create("orders", ("127.0.0.1", target))
            trusting = {"SSL_CERT_FILE": str(directory / "ca.pem")}
            yield Site(deployment, relay, published, directory / "headers", trusting)


@pytest.mark.parametrize("strips", [True, False])
def test_bytes_arrive_through_a_proxy_that_requires_a_header_field(strips: bool) -> None:
    with site(strips=strips) as found:
        string = "--connection-string-file"
        connector = found.start("connector", string, found.published.connector)
        forward = found.start("forward", string, found.published.application, "--listen", "127.0.0.1:0")
        port = int(forward.wait_for_line(r"127\.0\.0\.1:(\d+)")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(b"through nginx")
            assert sock.recv(100) == b"through nginx"
        for program in (connector, forward, found.relay):
            assert SECRET not in program.out + program.err
            assert SECRET not in Path(f"/proc/{program.pid}/cmdline").read_text()
        # Before nginx has ended, so that they need not wait for answers of the relay.
        forward.terminate()
        connector.terminate()


def test_changed_header_fields_are_used_without_a_restart() -> None:
    with site(strips=True) as found:
        right = found.headers.read_text()
        found.headers.write_text("X-Access-Token: expired\n")
        arguments = ("--connection-string-file", found.published.connector, "--websocket-headers-file", found.headers)
        command = found.deployment.command("connector", *arguments, *OPTIONS)
        with Program(command, environment=found.trusting) as connector:
            connector.wait_for_line("403", where="err")
            found.headers.write_text(right)
            connector.wait_for_line(r"dial-options\.reloaded", where="err")
            connector.wait_for_line("^ready connector")


def _probe(found: Site, *arguments: str | Path, trusts: bool = True) -> tuple[int, str]:
    environment = found.trusting if trusts else {}
    command = found.deployment.command(
        "probe", "--json", "--connection-string-file", found.published.application, *OPTIONS, *arguments
    )
    with Program(command, environment=environment) as program:
        code = program.wait(60)
        assert SECRET not in program.out + program.err
        json.loads(program.out)
        return code, program.out


def test_what_is_missing_is_said() -> None:
    with site(strips=True) as found:
        code, report = _probe(found, "--websocket-headers-file", found.headers)
        assert code == 0, report
        code, report = _probe(found)
        assert (code, "403" in report, "--websocket-headers-file" in report) == (1, True, True), report
        found.headers.write_text("X-Access-Token: wrong\n")
        code, report = _probe(found, "--websocket-headers-file", found.headers)
        assert (code, "403" in report) == (1, True), report


def test_header_fields_are_not_sent_to_a_server_whose_certificate_is_not_valid() -> None:
    with site(strips=True) as found:
        log = found.headers.with_name("access.log")
        before = log.read_text()
        code, report = _probe(found, "--websocket-headers-file", found.headers, trusts=False)
        assert (code, "were not sent" in report) == (1, True), report
        assert log.read_text() == before
