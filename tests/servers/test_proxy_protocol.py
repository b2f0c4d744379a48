"""Targets that learn from a PROXY header where a connection comes from: haproxy and nginx, and byte by byte."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybridrelay.connector.proxy_header import CONNECTION, LABEL, UNIQUE_ID
from hybridrelay.streams.proxy_protocol import ProxyHeader, parse_proxy_header_untrusted

from ..deployments import Program
from ..waiting import patience
from .conftest import Site, find, private_directory, run, serving
from .nginx_files import nginx_command

#: Clients that the relay sees come from 127.0.0.1.
CLIENT = "127.0.0.1"

_HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "from %[src] %[fc_rcvd_proxy] %[fc_pp_unique_id]"
"""
_NGINX = """
  server {{
    listen 127.0.0.1:{port} proxy_protocol;
    listen unix:{directory}/socket proxy_protocol;
    location / {{ return 200 "from $proxy_protocol_addr to $proxy_protocol_server_port"; }}
  }}
"""


@contextmanager
def haproxy() -> Iterator[int]:
    with private_directory() as directory:

        def command(port: int) -> list[str | Path]:
            file = directory / "haproxy.cfg"
            file.write_text(_HAPROXY.format(port=port))
            return [find("haproxy"), "-db", "-f", file]

        with serving(command, "haproxy") as port:
            yield port


@contextmanager
def nginx() -> Iterator[tuple[int, Path]]:
    with private_directory() as directory:

        def command(port: int) -> list[str | Path]:
            return nginx_command(find("nginx"), directory, _NGINX.format(directory=directory, port=port))

        with serving(command, "nginx") as port:
            yield port, directory / "socket"


@contextmanager
def forwarded(site: Site, name: str, target: int | str, setting: str) -> Iterator[tuple[int, Path, Program]]:
    """A local port, the connector's configuration file, and the connector."""
    published = site.deployment.create(name, target if isinstance(target, str) else ("127.0.0.1", target))
    config = site.deployment.directory / f"{name}.toml"
    config.write_text(f'[[connection]]\nfile = "{published.connector.name}"\n{setting}\n')
    connector = site.deployment.start("connector", "--config", config)
    forward = site.deployment.start_forward(published)
    with connector, forward.program:
        yield forward.port, config, connector


def get(port: int) -> str:
    return run([find("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", f"http://127.0.0.1:{port}/"])


def test_haproxy_knows_the_client(site: Site) -> None:
    with haproxy() as port, forwarded(site, "pp-haproxy", port, "proxy-protocol = true") as (local, _, connector):
        answer = get(local).split()
        assert answer[:3] == ["from", CLIENT, "1"]
        # The id leads to the connector's log.
        connector.wait_for_line(f"session.opened.*activity_id={answer[3].partition('-')[0]} ", where="err")


def test_nginx_knows_the_client(site: Site) -> None:
    with nginx() as (port, _), forwarded(site, "pp-nginx", port, "proxy-protocol = true") as (local, _, _):
        assert get(local) == f"from {CLIENT} to {port}"


def test_nginx_on_a_unix_socket_knows_the_client(site: Site) -> None:
    with nginx() as (_, path), forwarded(site, "pp-unix", f"unix:{path}", "proxy-protocol = true") as (local, _, _):
        assert get(local) == f"from {CLIENT} to "  # what nginx makes of port 0


def test_the_header_byte_by_byte_and_switched_off_without_a_restart(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(patience(30))
        port = server.getsockname()[1]
        with forwarded(site, "pp-bytes", port, "proxy-protocol = true") as (local, config, connector):

            def received() -> bytes:
                with socket.create_connection(("127.0.0.1", local)) as application:
                    application.sendall(b"hello")
                    application.shutdown(socket.SHUT_WR)
                    target, _ = server.accept()
                    with target, target.makefile("rb") as file:
                        return file.read()

            data = received()
            header = parse_proxy_header_untrusted(data)
            assert isinstance(header, ProxyHeader)
            assert header.address == CLIENT
            assert data[header.size :] == b"hello"
            fields = {}
            rest = data[16 + 12 : header.size]
            while rest:
                end = 3 + int.from_bytes(rest[1:3])
                fields[rest[0]], rest = rest[3:end], rest[end:]
            assert fields[LABEL] == b"application"
            assert fields[CONNECTION] == b"pp-bytes"
            assert fields.keys() == {LABEL, CONNECTION, UNIQUE_ID}
            config.write_text(config.read_text().replace("true", "false"))
            connector.wait_for_line("configuration.reloaded: .*changed=pp-bytes", where="err")
            assert received() == b"hello"


@pytest.mark.parametrize("setting", ["", "proxy-protocol = false"])
def test_without_it_there_is_no_header(site: Site, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(patience(30))
        name = f"pp-none-{len(setting)}"
        with forwarded(site, name, server.getsockname()[1], setting) as (local, _, _):
            with socket.create_connection(("127.0.0.1", local)) as application:
                application.sendall(b"hello")
                application.shutdown(socket.SHUT_WR)
                target, _ = server.accept()
                with target, target.makefile("rb") as file:
                    assert file.read() == b"hello"
