"""A connection string without a pin: the relay is known by a certificate of a CA, and by its name or address."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay.errors import RelayIdentityError, RelayUnreachable
from hybridrelay.relay import Binding, RelayConfig, SQLiteStore, run_relay
from hybridrelay.security import Role

from ..certificates import CertificateAuthority
from .deployment import PORTS, Deployment, echo, serve_target


def _skip_without(address: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:
        pytest.skip(f"this machine has no {address}")


@pytest.mark.parametrize("mode", ["tcp", "websocket"])
@pytest.mark.parametrize(("name", "address"), [("localhost", "127.0.0.1"), ("127.0.0.1",) * 2, ("::1",) * 2])
@pytest.mark.parametrize("trusted", [True, False])
async def test_the_relay_is_verified_by_its_name_or_address(
    tmp_path: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    name: str,
    address: str,
    trusted: bool,
) -> None:
    _skip_without(address)
    authority = CertificateAuthority()
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.write(tmp_path / "ca.pem")))
    certificate = tmp_path / "relay.pem"
    certificate.write_bytes(b"".join(authority.issue(name)))
    config = RelayConfig(
        state_dir=tmp_path / "state",
        bindings={port: (Binding(address, 0),) for port in PORTS},
        tls_certificate=certificate,
    )
    info = await nursery.start(partial(run_relay, config))
    deployment = Deployment(nursery, config.state_dir, info, nursery.cancel_scope)
    published = deployment.publish()
    with SQLiteStore.open(config.state_dir) as registry:
        registry.delete("db")
        registry.create("db", [name], published.rules)
    target = await serve_target(nursery, echo)
    # The connector has the pin, the client has not: one relay serves both.
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target, host=name))
    string = deployment.string(published, Role.APPLICATION, host=name, relay_pins=())
    async with deployment.client(string, mode=mode) as client:
        if trusted:
            stream = await client.open_stream()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        else:
            with pytest.raises((RelayIdentityError, RelayUnreachable), match="certificate"):
                await client.open_stream()
    nursery.cancel_scope.cancel()
