"""TLS between the relay and its peers: control channels, and the outer TLS on 443.

On control channels, the relay is verified by the pins in the connection string, or by a certificate authority if the
string has no pin. The outer TLS only exists because middleboxes expect it; everything secret runs in TLS inside it,
so its client side verifies nothing.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import stat
from collections.abc import Collection
from pathlib import Path

from .._replace_file import create_file_once
from ..errors import ConfigurationError, RelayIdentityError, StateError, TLSHandshakeError
from ..events.plain_log import plainly_logged_events
from ..events.program import FileReadableByOthers
from .identity import BACKDATE_SECONDS
from .pem_files import load_authorities, load_chain, read_pem
from .pins import check_pin, spki_pin

#: RFC 5280, 4.1.2.5: "no well-defined expiration date". The certificate is known by its key, not by its time.
_NEVER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
_PIN_REMEDY = (
    "if the relay has a new certificate, put its new pin into the connection strings (hybridrelay connections "
    "endpoints NAME --endpoint HOST --relay-pin PIN --update FILE); if it has lost its state directory, create its "
    "hybrid connections again; otherwise something between here and the relay answers instead"
)


def load_or_create_relay_certificate(directory: str | os.PathLike[str], *, now: float, name: str = "relay") -> Path:
    """The relay's own certificate and key, made at the first start and never changed.

    Args:
        directory: the state directory; must exist.
        now: seconds since 1970.
        name: distinguishes several.

    Returns:
        A PEM file with both, mode 0600, to be given to `control_server_context` or `outer_server_context`.

    Raises:
        StateError: the directory cannot be written to, or the file not be read.
    """
    path = Path(directory) / f"{name}.pem"
    try:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            _create(path, now)
        else:
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                plainly_logged_events().publish(FileReadableByOthers(file=str(path)))
            with path.open("rb"):
                pass
    except OSError as exc:
        raise StateError(
            f"cannot use the relay's certificate {path}: {exc.strerror}",
            remedy="the state directory must exist and belong to the user who runs the relay",
        ) from exc
    return path


def relay_pin(certificate_file: str | os.PathLike[str]) -> str:
    """The pin that connection strings carry for the relay with this certificate file (PEM, the first one in it).

    Raises:
        ConfigurationError: no such file, or no certificate in it.
    """
    try:
        text = read_pem(certificate_file, what="the certificate file")
        begin = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
        return spki_pin(ssl.PEM_cert_to_DER_cert(text[begin:end]))
    except ValueError as exc:
        raise ConfigurationError(f"no certificate in {certificate_file}", remedy="it must be PEM") from exc


def certificate_expires_at(certificate_file: str | os.PathLike[str]) -> float:
    """When the certificate in this file (PEM, the first one in it) expires: seconds since 1970.

    Raises:
        ConfigurationError: no such file, or no certificate in it.
    """
    from cryptography import x509  # which takes long to load

    try:
        certificate = x509.load_pem_x509_certificate(read_pem(certificate_file, what="the certificate file").encode())
    except ValueError as exc:
        raise ConfigurationError(f"no certificate in {certificate_file}", remedy="it must be PEM") from exc
    return certificate.not_valid_after_utc.timestamp()


def control_server_context(
    certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None = None
) -> ssl.SSLContext:
    """The relay's side of control channels: TLS 1.3, no client certificates (tokens do that).

    Args:
        certificate_file: PEM; the chain, and the key too where there is no `key_file`.
        key_file: PEM, not encrypted.

    Raises:
        ConfigurationError: a file is missing or unusable, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    load_chain(context, certificate_file, key_file)
    return context


def control_client_context(
    pins: Collection[str] = (), *, ca_file: str | os.PathLike[str] | None = None
) -> ssl.SSLContext:
    """Our side of control channels. `check_relay_pin` must follow every handshake.

    Args:
        pins: where there are any, the certificate is known by its key, and CAs and host names count for nothing.
        ca_file: the CAs to trust where there are no pins (PEM); None means those of the system.

    Raises:
        ConfigurationError: `ca_file` is unusable.
    """
    if pins:
        context = _unverified_context()
    elif ca_file is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_authorities(context, ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def check_relay_pin(tls: ssl.SSLObject, pins: Collection[str]) -> None:
    """Make sure that a control channel ends at our relay. Before this, nothing secret may be sent.

    Args:
        tls: after its handshake, with a context of `control_client_context` for the same `pins`.
        pins: those of the connection string; without any, the handshake has verified the certificate by CA.

    Raises:
        RelayIdentityError: the relay's key matches no pin; says both.
    """
    if not pins:
        if tls.context.verify_mode is not ssl.CERT_REQUIRED:
            raise RelayIdentityError("the relay's certificate was not verified")
        return
    try:
        actual = spki_pin(tls.getpeercert(binary_form=True) or b"")
    except ValueError as exc:
        raise RelayIdentityError("the relay's certificate is not a usable one") from exc
    if actual not in {check_pin(pin) for pin in pins}:
        raise RelayIdentityError(
            f"the relay's public key is {actual}; the connection string expects {' or '.join(pins)}",
            remedy=_PIN_REMEDY,
        )


def relay_identity_error(exc: TLSHandshakeError, host: str) -> RelayIdentityError | None:
    """Turn a failed handshake of a control channel into an error about the relay's identity.

    Args:
        exc: what the TLS stream raised.
        host: the relay.

    Returns:
        The error to raise ``from exc``, or None where the relay's certificate is not what failed.
    """
    if exc.untrusted is None:
        return None
    return RelayIdentityError(
        f"the certificate of the relay {host} is not trusted: {exc.untrusted}",
        remedy="put the relay's pin into the connection string (RelayPin), or give the relay a certificate of a CA",
    )


def outer_server_context(
    certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None = None
) -> ssl.SSLContext:
    """The relay's outer TLS on 443: what an ordinary HTTPS server offers, HTTP/1.1 only.

    Arguments and errors as `control_server_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0
    load_chain(context, certificate_file, key_file)
    return context


def outer_client_context() -> ssl.SSLContext:
    """Our outer TLS on 443. Verifies nothing: all that is secret runs in TLS inside it, which verifies."""
    context = _unverified_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # some proxies that intercept TLS do not support TLS 1.3
    context.set_alpn_protocols(["http/1.1"])
    return context


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _create(path: Path, now: float) -> None:
    """Write a new certificate to `path`, unless another process has done so meanwhile."""
    create_file_once(path, _self_signed(now))


def _self_signed(now: float) -> bytes:
    """A certificate and its key as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    # P-256: every TLS library knows it, also those of monitoring tools that look at the port.
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hybridrelay relay")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(int(now) - BACKDATE_SECONDS, dt.UTC))
        .not_valid_after(_NEVER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
