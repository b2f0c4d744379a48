"""A connection string without a pin: the relay is known by a certificate of a CA, and by its name."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hybridrelay.errors import RelayIdentityError, RelayUnreachable
from hybridrelay.relay import Binding, Registry, RelayConfig, run_relay
from hybridrelay.security import Role

from .deployment import HOST, PORTS, Deployment, echo, serve_target

NAME = "localhost"


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey, *, ca: bool
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, Path]:
    """The CA's certificate, and the relay's with its key."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")])
    ca, relay = tmp_path / "ca.pem", tmp_path / "relay.pem"
    ca.write_bytes(_certificate("a CA", ca_key, issuer, ca_key, ca=True))
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    relay.write_bytes(_certificate(NAME, key, issuer, ca_key, ca=False) + key_pem)
    return ca, relay


@pytest.mark.parametrize("mode", ["tcp", "websocket"])
@pytest.mark.parametrize("trusted", [True, False])
async def test_the_relay_is_verified_by_its_name(
    certificates: tuple[Path, Path],
    tmp_path: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    trusted: bool,
) -> None:
    ca, relay = certificates
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    config = RelayConfig(
        state_dir=tmp_path / "state",
        bindings={name: (Binding(HOST, 0),) for name in PORTS},
        tls_certificate=relay,
    )
    info = await nursery.start(partial(run_relay, config))
    deployment = Deployment(nursery, config.state_dir, info, nursery.cancel_scope)
    published = deployment.publish()
    with Registry.open(config.state_dir) as registry:
        registry.delete("db")
        registry.create("db", [NAME], published.rules)
    target = await serve_target(nursery, echo)
    # The connector has the pin, the client has not: one relay serves both.
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target, host=NAME))
    string = deployment.string(published, Role.APPLICATION, host=NAME, relay_pins=())
    async with deployment.client(string, mode=mode) as client:
        if trusted:
            stream = await client.open_stream()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        else:
            with pytest.raises((RelayIdentityError, RelayUnreachable), match="certificate"):
                await client.open_stream()
    nursery.cancel_scope.cancel()
