"""Control channels verify the relay; the outer TLS verifies nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.errors import ConfigurationError, RelayIdentityError, StateError, TLSHandshakeError
from hybridrelay.security import (
    check_pin,
    check_relay_pin,
    control_client_context,
    control_server_context,
    load_or_create_relay_certificate,
    outer_server_context,
    relay_identity_error,
    relay_pin,
    spki_pin,
)
from hybridrelay.security.relay_tls import certificate_expires_at
from hybridrelay.streams import TLSStream, outer_tls

from ..certificates import CertificateAuthority, certificate_of_version_5, damaged

NOW = time.time()
WRONG_PIN = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture(scope="module")
def certificate_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load_or_create_relay_certificate(tmp_path_factory.mktemp("state"), now=NOW)


async def connect(client: ssl.SSLContext, server: ssl.SSLContext, hostname: str | None = "relay.test") -> TLSStream:
    """The client's end of a connection whose handshake was made."""
    left, right = trio.testing.memory_stream_pair()
    ours = TLSStream(left, client, server_hostname=hostname)
    theirs = TLSStream(right, server, server_side=True)

    async def serve() -> None:
        try:
            await theirs.do_handshake()
        except TLSHandshakeError:
            await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            await ours.do_handshake()
        except TLSHandshakeError as exc:
            failure: TLSHandshakeError | None = exc
        else:
            failure = None
    if failure is not None:
        raise failure
    return ours


def test_the_certificate_is_made_once_and_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = load_or_create_relay_certificate(tmp_path, now=NOW)
    content = path.read_bytes()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_relay_certificate(tmp_path, now=NOW) == path
    assert path.read_bytes() == content
    assert not caplog.records
    other = load_or_create_relay_certificate(tmp_path, now=NOW, name="outer")
    assert relay_pin(other) != relay_pin(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["outer.pem", "relay.pem"]


def test_leftovers_of_a_crash_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / f".relay.pem.{os.getpid()}").write_text("half a key", encoding="ascii")
    control_server_context(load_or_create_relay_certificate(tmp_path, now=NOW))


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_certificate_that_others_can_read_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_or_create_relay_certificate(tmp_path, now=NOW).chmod(0o644)
    with caplog.at_level(logging.WARNING):
        load_or_create_relay_certificate(tmp_path, now=NOW)
    assert "chmod 600" in caplog.text


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        load_or_create_relay_certificate(tmp_path / "none", now=NOW)
    assert caught.value.remedy


def test_pin_is_that_of_the_openssl_tool(certificate_file: Path) -> None:
    pipeline = (
        f"openssl x509 -in {certificate_file} -noout -pubkey | openssl pkey -pubin -outform der"
        " | openssl dgst -sha256 -binary | base64"
    )
    try:
        result = subprocess.run(["sh", "-c", pipeline], capture_output=True, text=True, check=True)
    except OSError:
        pytest.skip("no shell")
    if not result.stdout.strip():
        pytest.skip("no openssl")
    assert relay_pin(certificate_file) == check_pin(f"sha256:{result.stdout.strip()}")


async def test_any_pin_will_do(certificate_file: Path) -> None:
    pins = (WRONG_PIN, relay_pin(certificate_file))
    stream = await connect(control_client_context(pins), control_server_context(certificate_file), hostname=None)
    check_relay_pin(stream.ssl_object, pins)
    assert stream.version() == "TLSv1.3"


def test_there_is_one_text_for_each_pin() -> None:
    assert check_pin(WRONG_PIN) == WRONG_PIN
    with pytest.raises(ValueError, match="exactly as the relay shows it"):
        check_pin(WRONG_PIN.replace("A=", "B="))


async def test_the_error_about_a_wrong_pin_has_both_pins(certificate_file: Path) -> None:
    stream = await connect(control_client_context([WRONG_PIN]), control_server_context(certificate_file))
    with pytest.raises(RelayIdentityError) as caught:
        check_relay_pin(stream.ssl_object, [WRONG_PIN])
    assert WRONG_PIN in str(caught.value)
    assert relay_pin(certificate_file) in str(caught.value)
    assert caught.value.remedy


async def test_without_pins_the_context_must_have_verified(certificate_file: Path) -> None:
    stream = await connect(control_client_context([WRONG_PIN]), control_server_context(certificate_file))
    with pytest.raises(RelayIdentityError, match="not verified"):
        check_relay_pin(stream.ssl_object, [])


async def test_without_handshake_there_is_nothing_to_compare() -> None:
    left, _ = trio.testing.memory_stream_pair()
    with pytest.raises(RelayIdentityError, match="not usable"):
        check_relay_pin(TLSStream(left, control_client_context([WRONG_PIN])).ssl_object, [WRONG_PIN])


@pytest.mark.parametrize("name", ["relay.test", "Relay.test", "relay.test."])
async def test_a_certificate_from_the_ca_is_accepted(tmp_path: Path, name: str) -> None:
    authority = CertificateAuthority()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"".join(authority.issue("relay.test")))
    context = control_client_context(ca_file=authority.write(tmp_path / "ca.pem"))
    stream = await connect(context, control_server_context(chain), hostname=name)
    check_relay_pin(stream.ssl_object, ())


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_for_another_host_or_from_an_unknown_ca_is_refused(
    certificate_file: Path, trusted: bool, autojump_clock: trio.testing.MockClock
) -> None:
    # The certificate is of a known CA but for another host, or of an unknown CA.
    context = control_client_context(ca_file=certificate_file if trusted else None)
    with pytest.raises(TLSHandshakeError) as caught:
        await connect(context, control_server_context(certificate_file))
    error = relay_identity_error(caught.value, "relay.test")
    assert error is not None
    assert "relay.test" in str(error)
    assert error.remedy


def test_other_failures_are_not_about_the_certificate() -> None:
    assert relay_identity_error(TLSHandshakeError("the connection ended"), "relay.test") is None


async def test_outer_tls_offers_http(certificate_file: Path) -> None:
    stream = await connect(outer_tls._client_context(), outer_server_context(certificate_file))
    assert stream.ssl_object.selected_alpn_protocol() == "http/1.1"


def test_what_is_not_a_certificate_raises_nothing_but_value_error(certificate_file: Path) -> None:
    with pytest.raises(ValueError):
        spki_pin(b"junk")
    pem = certificate_file.read_text(encoding="ascii")
    for der in damaged(ssl.PEM_cert_to_DER_cert(pem[: pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)])):
        with contextlib.suppress(ValueError):
            check_pin(spki_pin(der))


async def test_a_certificate_that_openssl_accepts_and_nobody_can_parse(tmp_path: Path) -> None:
    """Anybody on the way can show one before the pin is compared."""
    der, path = certificate_of_version_5(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be parsed \(InvalidVersion\)"):
        spki_pin(der)
    stream = await connect(control_client_context([WRONG_PIN]), control_server_context(path))
    with pytest.raises(RelayIdentityError, match="not usable"):
        check_relay_pin(stream.ssl_object, [WRONG_PIN])
    for read in (relay_pin, certificate_expires_at):
        with pytest.raises(ConfigurationError, match="no usable certificate in"):
            read(path)


def test_an_unusable_file_is_explained(certificate_file: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk", encoding="ascii")
    half = tmp_path / "half.pem"
    half.write_text(f"{ssl.PEM_HEADER}\n!!!\n{ssl.PEM_FOOTER}\n", encoding="ascii")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(certificate_file.read_bytes().split(b"-----BEGIN PRIVATE")[0] + encrypted_key())
    other = load_or_create_relay_certificate(tmp_path, now=NOW)
    for serve in (control_server_context, outer_server_context):
        for arguments in ((tmp_path / "none",), (junk,), (certificate_file, other), (certificate_file, junk)):
            with pytest.raises(ConfigurationError):
                serve(*arguments)
        with pytest.raises(ConfigurationError, match="encrypted"):
            serve(encrypted)
    for file in (tmp_path / "none", junk, half):
        with pytest.raises(ConfigurationError):
            relay_pin(file)
    for file in (tmp_path / "none", junk):
        with pytest.raises(ConfigurationError):
            control_client_context(ca_file=file)


def encrypted_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


@pytest.mark.parametrize("how", ["pinned", "by the system's authorities", "by a file"])
async def test_a_control_channel_is_tls_1_3_or_nothing(certificate_file: Path, how: str) -> None:
    pins = (WRONG_PIN,) if how == "pinned" else ()
    ours = control_client_context(pins, ca_file=certificate_file if how == "by a file" else None)
    assert ours.minimum_version is ssl.TLSVersion.TLSv1_3
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_cert_chain(certificate_file)
    with pytest.raises(TLSHandshakeError, match=r"(?i)version|protocol"):
        await connect(ours, old)


async def test_a_relay_speaks_nothing_older_either(certificate_file: Path) -> None:
    server = control_server_context(certificate_file)
    assert server.minimum_version is ssl.TLSVersion.TLSv1_3
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(TLSHandshakeError, match=r"(?i)version|protocol"):
        await connect(old, server)


@pytest.mark.parametrize("make", [control_server_context, outer_server_context])
async def test_no_tls_session_can_be_resumed(certificate_file: Path, make: Callable[[Path], ssl.SSLContext]) -> None:
    server = make(certificate_file)
    assert server.num_tickets == 0


def test_many_may_make_the_certificate_at_the_same_moment(tmp_path: Path) -> None:
    """All of them get the same one, because a connection string must not have the pin of a replaced certificate."""
    together = threading.Barrier(6)

    def make(_: int) -> str:
        together.wait()
        return relay_pin(load_or_create_relay_certificate(tmp_path, now=NOW))

    with ThreadPoolExecutor(6) as pool:
        pins = set(pool.map(make, range(6)))
    assert pins == {relay_pin(tmp_path / "relay.pem")}
