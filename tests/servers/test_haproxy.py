"""A relay behind a real haproxy, which says where connections come from."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..deployments import Deployment, Program, free_port, wait_for_port
from .conftest import find, private_directory

#: The address from which haproxy connects to the relay. The programs connect from 127.0.0.1.
PROXY = "127.0.0.5"

_CONFIGURATION = """
global
  maxconn 200
defaults
  mode {mode}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"""
_LISTEN = """
listen {name}
  bind 127.0.0.1:{front}
  {options}
  server relay 127.0.0.1:{back} source {proxy} {send}
"""


@contextmanager
def haproxy(
    directory: Path, deployment: Deployment, fronts: dict[str, int], mode: str, send: str
) -> Iterator[Program]:
    """A haproxy with a port in front of each of these ports of the relay."""
    options = "option forwardfor" if mode == "http" else ""
    parts = [
        _LISTEN.format(name=name, front=front, back=deployment.ports[name], proxy=PROXY, options=options, send=send)
        for name, front in fronts.items()
    ]
    file = directory / "haproxy.cfg"
    file.write_text(_CONFIGURATION.format(mode=mode) + "".join(parts))
    with Program([find("haproxy"), "-db", "-f", file], name="haproxy") as program:
        for front in fronts.values():
            wait_for_port(front, program)
        yield program


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets on one connection at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = server.accept()
                except OSError:
                    return
                with accepted, contextlib.suppress(OSError):
                    while data := accepted.recv(4096):
                        accepted.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def check(deployment: Deployment, relay: Program, mode: str) -> None:
    """Bytes arrive, and the relay has seen the programs' address and not that of haproxy."""
    with echo() as port:
        published = deployment.create("orders", ("127.0.0.1", port))
        deployment.start_connector(published, arguments=("--mode", mode))
        forward = deployment.start_forward(published, mode=mode)
        with socket.create_connection(("127.0.0.1", forward.port), timeout=20) as sock:
            sock.sendall(b"through haproxy")
            assert sock.recv(100) == b"through haproxy"
    relay.wait_for_line(r"listener\.registered.* peer=127\.0\.0\.1 ", where="err")
    status = deployment.run("status", "--json", "--state", deployment.state)
    assert '"address": "127.0.0.1"' in status.stdout
    assert PROXY not in status.stdout + relay.err


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,ssl"])
def test_native_ports_behind_haproxy_with_the_proxy_protocol(send: str) -> None:
    fronts = {name: free_port() for name in ("probe", "control", "data")}
    public = ",".join([*(f"{name}={port}" for name, port in fronts.items()), "http=off", "https=off"])
    with private_directory() as directory, Deployment(directory) as deployment:
        relay = deployment.start_relay("--public-ports", public, "--proxy-protocol-from", PROXY)
        with haproxy(directory, deployment, fronts, "tcp", send):
            check(deployment, relay, "tcp")


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_web_ports_behind_haproxy_with_the_proxy_protocol(send: str) -> None:
    fronts = {name: free_port() for name in ("http", "https")}
    public = ",".join([*(f"{name}={port}" for name, port in fronts.items()), "probe=off", "control=off", "data=off"])
    with private_directory() as directory, Deployment(directory) as deployment:
        relay = deployment.start_relay("--public-ports", public, "--proxy-protocol-from", "10.0.0.0/8,127.0.0.5")
        with haproxy(directory, deployment, fronts, "tcp", send):
            check(deployment, relay, "websocket")


def test_web_ports_behind_haproxy_with_x_forwarded_for() -> None:
    fronts = {"http": free_port()}
    public = f"http={fronts['http']},https=off,probe=off,control=off,data=off"
    with private_directory() as directory, Deployment(directory) as deployment:
        relay = deployment.start_relay("--public-ports", public, "--trusted-proxies", PROXY)
        with haproxy(directory, deployment, fronts, "http", ""):
            check(deployment, relay, "websocket")


def test_a_haproxy_that_sends_no_header_is_refused() -> None:
    fronts = {"probe": free_port()}
    with private_directory() as directory, Deployment(directory) as deployment:
        relay = deployment.start_relay("--proxy-protocol-from", PROXY)
        with haproxy(directory, deployment, fronts, "tcp", ""):
            with socket.create_connection(("127.0.0.1", fronts["probe"]), timeout=20) as sock:
                sock.sendall(bytes(200))
                assert sock.recv(100) == b""
            relay.wait_for_line(rf"proxy-header\.refused.* peer={PROXY} port=probe ", where="err")
