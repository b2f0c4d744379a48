"""TLS between the relay and its peers: control channels, the outer TLS on 443, and the client's side of the
management API.

On control channels, the relay is verified by the pins in the connection string, or with certificate authorities if
there are none. The outer TLS exists only because middleboxes expect it. Another layer of TLS inside it protects all
secrets, so its client side verifies nothing, unless it sends secret header fields (`HttpOptions`).
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
from .building_certificates import BACKDATE_SECONDS
from .parsing_certificates import parsing_certificate
from .pem_files import load_authorities, load_chain, read_pem
from .pins import is_short_pin, pin_matches, spki_pin

#: RFC 5280, 4.1.2.5: "no well-defined expiration date". Pins verify only the certificate's key.
_NEVER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
_PIN_REMEDY = (
    "if the relay has a new certificate, put its new pin into the connection strings (hybridrelay connections "
    "endpoints NAME --endpoint HOST --relay-pin PIN --update FILE); if it has lost its state directory, create its "
    "hybrid connections again; otherwise something between here and the relay answers instead"
)


def load_or_create_relay_certificate(directory: str | os.PathLike[str], *, now: float, name: str = "relay") -> Path:
    """Return the file with the relay's certificate and key, which are created at the first start and never changed.

    Args:
        directory: the state directory, which must exist.
        now: seconds since 1970.
        name: the name of the file without its suffix.

    Returns:
        A PEM file of mode 0600, for `control_server_context` or `outer_server_context`.

    Raises:
        StateError: the directory is not writable, or the file cannot be read.
    """
    path = Path(directory) / f"{name}.pem"
    try:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            _create(path, now)
        else:
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                from ..events.program import FileReadableByOthers  # imported here, because it is rarely needed

                plainly_logged_events().publish(FileReadableByOthers(file=str(path)))
            with path.open("rb"):
                pass
    except OSError as exc:
        raise StateError(
            f"cannot use the relay's certificate {path}: {exc.strerror or exc}",
            remedy="the state directory must exist and belong to the user who runs the relay",
        ) from exc
    return path


def relay_pin(certificate_file: str | os.PathLike[str]) -> str:
    """Return the pin of the first certificate in a relay's PEM file.

    Raises:
        ConfigurationError: the file cannot be read, is not PEM, or contains no certificate.
    """
    try:
        text = read_pem(certificate_file, what="the certificate file")
        begin = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
        return spki_pin(ssl.PEM_cert_to_DER_cert(text[begin:end]))
    except ValueError as exc:
        raise _no_certificate(certificate_file) from exc


def _no_certificate(certificate_file: str | os.PathLike[str]) -> ConfigurationError:
    return ConfigurationError(
        f"no usable certificate in {certificate_file}", remedy="it must be an X.509 certificate in PEM"
    )


def certificate_expires_at(certificate_file: str | os.PathLike[str]) -> float:
    """Return when the first certificate in a PEM file expires (seconds since 1970).

    Raises:
        ConfigurationError: the file cannot be read, is not PEM, or contains no certificate.
    """
    from cryptography import x509  # imported here because it is slow to import

    text = read_pem(certificate_file, what="the certificate file")
    try:
        with parsing_certificate():
            return x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc.timestamp()
    except ValueError as exc:
        raise _no_certificate(certificate_file) from exc


def control_server_context(
    certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None = None
) -> ssl.SSLContext:
    """Make the relay's context for control channels: TLS 1.3, without client certificates (there are tokens instead).

    Args:
        certificate_file: a PEM file with the chain, and with the key if there is no `key_file`.
        key_file: a PEM file with the key, not encrypted.

    Raises:
        ConfigurationError: a file is missing or unusable, or the key does not belong to the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    load_chain(context, certificate_file, key_file)
    return context


def control_client_context(
    pins: Collection[str] = (), *, ca_file: str | os.PathLike[str] | None = None
) -> ssl.SSLContext:
    """Make the context of connectors and clients for control channels. Call `check_relay_pin` after every handshake.

    Args:
        pins: if there are any, only the certificate's public key is verified, and neither CAs nor host names.
        ca_file: a PEM file with the CAs to trust if there are no pins; None means those of the system.

    Raises:
        ConfigurationError: `ca_file` is unusable.
    """
    if pins:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_authorities(context, ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def check_relay_pin(tls: ssl.SSLObject, pins: Collection[str]) -> None:
    """Verify that a control channel leads to the expected relay. No secret may be sent before this.

    Args:
        tls: the TLS object after its handshake, with a context of `control_client_context` for the same `pins`.
        pins: the pins in the connection string. If there are none, the handshake has verified the certificate.

    Raises:
        RelayIdentityError: the certificate is unusable or was not verified, or the relay's key matches no pin; the
            message then contains the pin of the key and those that were expected.
    """
    if not pins:
        if tls.context.verify_mode is not ssl.CERT_REQUIRED:
            raise RelayIdentityError("the relay's certificate was not verified")
        return
    try:
        actual = spki_pin(tls.getpeercert(binary_form=True) or b"")
    except ValueError as exc:
        raise RelayIdentityError("the relay's certificate is not usable") from exc
    if not any(pin_matches(pin, actual) for pin in pins):
        raise RelayIdentityError(
            f"the relay's public key has the pin {actual}; the {_source(pins)} expects {' or '.join(pins)}",
            remedy=_PIN_REMEDY,
        )


def _source(pins: Collection[str]) -> str:
    return "claim code" if any(map(is_short_pin, pins)) else "connection string"


def relay_identity_error(exc: TLSHandshakeError, host: str) -> RelayIdentityError | None:
    """Convert a failed handshake of a control channel to an error about the relay's identity.

    Args:
        exc: the exception of the TLS stream.
        host: the host of the relay.

    Returns:
        The error to raise ``from exc``, or None if the relay's certificate is not the cause.
    """
    if exc.untrusted is None:
        return None
    return RelayIdentityError(
        f"the certificate of the relay {host} is not trusted: {exc.untrusted}",
        remedy="put the relay's pin into the connection string (RelayPin), or give the relay a certificate from a CA",
    )


def outer_server_context(
    certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None = None
) -> ssl.SSLContext:
    """Make the relay's context for the outer TLS on 443, like that of an ordinary HTTPS server for HTTP/1.1.

    Arguments and errors are those of `control_server_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0
    load_chain(context, certificate_file, key_file)
    return context


def management_client_context(
    pin: str | None = None, *, ca_file: str | os.PathLike[str] | None = None
) -> ssl.SSLContext:
    """Make the context of administrators for a management API over TLS.

    Args:
        pin: if there is one, neither CAs nor host names are verified, and the caller has to compare it after the
            handshake.
        ca_file: a PEM file with the CAs to trust if there is no pin; None means those of the system.

    Raises:
        ConfigurationError: `ca_file` is unusable.
    """
    context = control_client_context(() if pin is None else (pin,), ca_file=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # a reverse proxy may be in front of the relay
    context.set_alpn_protocols(["http/1.1"])
    return context


def _create(path: Path, now: float) -> None:
    """Write a new certificate to `path`, unless another process has done so in the meantime."""
    create_file_once(path, _self_signed(now))


def _self_signed(now: float) -> bytes:
    """Make a self-signed certificate and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    # P-256: every TLS library supports it, including those of monitoring tools that connect to the port.
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
