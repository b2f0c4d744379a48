"""End-to-end TLS between client and connector: contexts, the peer's identity, and why a handshake failed.

OpenSSL verifies chains, signatures, times and extended key usage, on both sides, under the one authority of the
hybrid connection. This module adds the comparison of the URI in the peer's certificate.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, overload

import attrs

from .._descriptors import is_descriptor_shortage
from .._shortage import remedy_or, text_or
from .._value import Value
from ..errors import ConfigurationError, PeerIdentityError
from ..failure import causes
from ..protocol.reasons import Reason
from .encoding import decode_der_untrusted, pem
from .identity import Identity, IdentityName, Role
from .issuer import ISSUER_ORGANIZATION

# The first parsing of a time imports a module (`_strptime`). Do it now, because later there may be no descriptor left
# for reading it.
ssl.cert_time_to_seconds("Jan  1 00:00:00 2000 GMT")


def data_server_context(identity: Identity, authority: bytes) -> ssl.SSLContext:
    """Make the connector's context for data channels.

    Args:
        identity: our identity, with the role connector.
        authority: the certificate (DER) of the authority that issued the application's identity.

    Raises:
        ConfigurationError: the authority or the identity is damaged, or the identity's certificate and private key do
            not belong together, or the private key cannot be passed to OpenSSL (`not_passed`).
    """
    context = _data_context(ssl.PROTOCOL_TLS_SERVER, identity, authority)
    context.num_tickets = 0  # a resumed TLS session would not show the peer's certificate again
    return context


def data_client_context(identity: Identity, authority: bytes) -> ssl.SSLContext:
    """Make the client's context for data channels. Arguments and errors are those of `data_server_context`, except
    that the identity has the role application, and that the authority issued the connector's identity."""
    return _data_context(ssl.PROTOCOL_TLS_CLIENT, identity, authority)


@attrs.frozen
class PeerIdentity(Value):
    """The verified identity of the other end of a data channel."""

    connection_name: str
    role: Role
    #: The name in the audit log, which is not unique, unlike the serial.
    label: str
    #: Upper case hexadecimal.
    serial: str
    #: Seconds since 1970.
    not_after: float
    #: SHA-256 of the whole certificate; empty if only its fields were available.
    certificate_hash: bytes = attrs.field(default=b"", eq=False, repr=False)
    #: Whether an issuer has signed it, and not the authority itself.
    is_from_issuer: bool = False

    @property
    def owner_id(self) -> str:
        """Identifies who has this identity, among the identities of its authority, for shares and limits.

        This is the label for an application's identity that an issuer has signed, and the serial for all others. When
        an identity is renewed, its label does not change, but its serial does, so one application may have several
        serials.
        """
        return f"label {self.label}" if self.is_renewable else self.serial

    @property
    def is_renewable(self) -> bool:
        """Whether the connector renews this identity on request, as long as no deny list has it."""
        return self.is_from_issuer and self.role is Role.APPLICATION

    def is_same_certificate(self, other: PeerIdentity) -> bool:
        """Return whether both are known to have presented exactly the same certificate. A renewed one differs."""
        return bool(self.certificate_hash) and self.certificate_hash == other.certificate_hash


class HasPeerCertificate(Protocol):
    """A `TLSStream`, `ssl.SSLObject` or `ssl.SSLSocket`."""

    @overload
    def getpeercert(self, binary_form: Literal[False] = ...) -> Any: ...
    @overload
    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...


def check_peer(
    peer: HasPeerCertificate | Mapping[str, Any],
    connection_name: str,
    expected_role: Role,
    *,
    accepts_claims: bool = False,
) -> PeerIdentity:
    """Check that a verified peer belongs to this hybrid connection and has this role.

    Args:
        peer: the TLS object after the handshake, or the result of its `getpeercert`.
        connection_name: the name of the hybrid connection.
        expected_role: the role that the peer must have.
        accepts_claims: whether it may have the role `Role.CLAIM` instead.

    Raises:
        PeerIdentityError: the identity is for another hybrid connection (`reason` is IDENTITY_WRONG_CONNECTION) or
            has another role (IDENTITY_WRONG_ROLE); or there is no verified certificate, or it is not that of an
            identity (TLS_FAILED).
    """
    certificate = peer if isinstance(peer, Mapping) else peer.getpeercert()
    if not certificate:
        raise PeerIdentityError("the peer's certificate was not verified", reason=Reason.TLS_FAILED)
    names = certificate.get("subjectAltName", ())
    try:
        ((kind, uri),) = names
        if kind != "URI":
            raise ValueError("not a URI")
        name = IdentityName.parse_untrusted(uri)
    except ValueError:
        raise PeerIdentityError(
            "the peer's certificate is not that of an identity", reason=Reason.TLS_FAILED
        ) from None
    if name.connection_name != connection_name:
        raise PeerIdentityError(
            f"the peer's identity belongs to the hybrid connection {name.connection_name}, not to {connection_name}",
            reason=Reason.IDENTITY_WRONG_CONNECTION,
            remedy="give both sides the connection strings of the same hybrid connection",
        )
    if name.role is not expected_role and not (accepts_claims and name.role is Role.CLAIM):
        raise PeerIdentityError(
            f"the peer's identity is for the {name.role}, and the {expected_role} was expected",
            reason=Reason.IDENTITY_WRONG_ROLE,
            remedy=_ROLE_REMEDY,
        )
    return PeerIdentity(
        connection_name=name.connection_name,
        role=name.role,
        label=name.label,
        serial=str(certificate["serialNumber"]),
        not_after=float(ssl.cert_time_to_seconds(certificate["notAfter"])),
        # A chain is built by names, so nobody can forge this name without the authority.
        is_from_issuer=(("organizationName", ISSUER_ORGANIZATION),) in certificate.get("issuer", ()),
        certificate_hash=b"" if isinstance(peer, Mapping) else _certificate_hash(peer),
    )


def _certificate_hash(peer: HasPeerCertificate) -> bytes:
    shown = peer.getpeercert(binary_form=True)
    assert shown is not None, "the certificate was verified"
    return hashlib.sha256(shown).digest()


def peer_identity_error(exc: BaseException, our_role: Role) -> PeerIdentityError | None:
    """Convert a failure of end-to-end TLS to an error with a reason.

    Args:
        exc: the exception of a TLS stream, during the handshake or later; or an error that has it as a `__cause__`.
        our_role: the role of this side.

    Returns:
        The error to raise ``from exc``, or None if TLS is not the cause (the connection was lost).
    """
    cause = next((cause for cause in causes(exc) if isinstance(cause, ssl.SSLError)), None)
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = _REASON_BY_VERIFY_CODE.get(cause.verify_code, Reason.TLS_FAILED)
        whose = f"the {our_role.other}'s identity is not acceptable to this {our_role}"
        detail = f"{reason.describe} ({cause.verify_message})"
    else:
        said = getattr(cause, "reason", None) or ""  # absent if Python itself has raised it
        alert = said.partition("ALERT_")[2]
        reason = _REASON_BY_ALERT.get(alert, Reason.TLS_FAILED)
        if alert:
            whose = f"this {our_role}'s identity is not acceptable to the {our_role.other}"
            detail = f"{reason.describe} (its alert: {alert.lower().replace('_', ' ')})"
        else:
            whose = f"end-to-end TLS with the {our_role.other} failed"
            detail = said.lower().replace("_", " ") or "unspecified error"
    return PeerIdentityError(f"{whose}: {detail}", reason=reason, remedy=_REMEDIES.get(reason))


_ROLE_REMEDY = "use the connector file for the connector, and the application file for the application"
_REMEDIES = {
    Reason.IDENTITY_WRONG_AUTHORITY: (
        "the two connection strings come from different authorities: use connection strings that were created "
        "together, or issued later with the same authority file"
    ),
    Reason.IDENTITY_WRONG_ROLE: _ROLE_REMEDY,
    Reason.IDENTITY_EXPIRED: (
        "compare the clocks of both machines; if they are right, issue a new identity (connections issue)"
    ),
    Reason.TLS_FAILED: "something between client and connector changed the data, or one side is not hybridrelay",
}

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_REASON_BY_VERIFY_CODE = {
    2: Reason.IDENTITY_WRONG_AUTHORITY,  # unable to get issuer certificate
    7: Reason.IDENTITY_WRONG_AUTHORITY,  # signature failure
    9: Reason.IDENTITY_EXPIRED,  # not yet valid
    10: Reason.IDENTITY_EXPIRED,
    18: Reason.IDENTITY_WRONG_AUTHORITY,  # self-signed
    19: Reason.IDENTITY_WRONG_AUTHORITY,  # self-signed in chain
    20: Reason.IDENTITY_WRONG_AUTHORITY,  # unable to get local issuer certificate
    21: Reason.IDENTITY_WRONG_AUTHORITY,  # unable to verify the first certificate
    24: Reason.IDENTITY_WRONG_AUTHORITY,  # invalid CA: an identity that was used as an authority
    25: Reason.IDENTITY_WRONG_AUTHORITY,  # path length exceeded
    26: Reason.IDENTITY_WRONG_ROLE,  # invalid purpose
    30: Reason.IDENTITY_WRONG_AUTHORITY,  # authority key identifier mismatch
}

# The alert that OpenSSL sends for each verification error: ssl_x509err2alert() in statem_lib.c.
_REASON_BY_ALERT = {
    "UNKNOWN_CA": Reason.IDENTITY_WRONG_AUTHORITY,
    "DECRYPT_ERROR": Reason.IDENTITY_WRONG_AUTHORITY,  # signature failure
    "CERTIFICATE_EXPIRED": Reason.IDENTITY_EXPIRED,
    "BAD_CERTIFICATE": Reason.IDENTITY_EXPIRED,  # not yet valid; we do not present a damaged one
    "UNSUPPORTED_CERTIFICATE": Reason.IDENTITY_WRONG_ROLE,
}


def _data_context(protocol: int, identity: Identity, authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the URI is checked instead: see check_peer
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cadata=authority)
    except ssl.SSLError as exc:
        raise ConfigurationError("the authority's certificate is damaged") from exc
    try:
        key = decode_der_untrusted(identity.private_key.reveal())
        chain = pem("CERTIFICATE", identity.certificate) + pem("PRIVATE KEY", key)
        if identity.issuer is not None:
            chain += pem("CERTIFICATE", identity.issuer)
        with private_file(chain.encode("ascii")) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigurationError(
            "the identity is damaged, or its certificate and key do not belong together"
        ) from exc
    except OSError as exc:
        raise not_passed(exc) from exc
    return context


def not_passed(error: OSError) -> ConfigurationError:
    """Return the error that a private key cannot be passed to OpenSSL, because the file (`private_file`) cannot be
    made, or OpenSSL cannot open it. This machine is short of something; a program that already runs goes on as
    before."""
    return ConfigurationError(
        f"the private key cannot be passed to OpenSSL: {text_or(error, error.strerror or str(error))}",
        remedy=remedy_or(error, "free space in the directory of temporary files"),
    )


@contextlib.contextmanager
def private_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file that only this user can read, because `ssl` can load private keys only from files.

    The file is in memory if the system is Linux and supports this; otherwise it is in a temporary directory. It is
    removed when the block ends.

    Raises:
        OSError: there is no file descriptor left, or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        yield _file_in_memory(content, stack) or _file_on_disk(content, stack)


def _file_in_memory(content: bytes, stack: contextlib.ExitStack) -> str | None:
    """Return the path, or None if the kernel is too old, a system call filter forbids it, or /proc is not mounted."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        descriptor = os.memfd_create("hybridrelay", os.MFD_CLOEXEC)
        stack.callback(os.close, descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        path = f"/proc/self/fd/{descriptor}"
        with open(path, "rb") as file:
            return path if file.read() == content else None
    except OSError as exc:
        if is_descriptor_shortage(exc):
            raise  # a file on disk would fail too, with a less clear error
        return None


def _file_on_disk(content: bytes, stack: contextlib.ExitStack) -> str:
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="hybridrelay-"))
    path = os.path.join(directory, "key.pem")
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
    return path
