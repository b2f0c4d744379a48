"""The properties of the other side of a connection that are known before its first request. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .._value import Value
from ..security import NO_NETWORKS, ManagementRole, Networks
from .callers import Caller

__all__ = ["CertificateRefusal", "Peer", "caller_of_certificate"]

#: The most of an organizational unit that a message shows (characters).
_MAX_SHOWN = 64


@attrs.frozen
class CertificateRefusal(Value):
    """Why a verified client certificate identifies no caller, and what to do."""

    detail: str
    remedy: str


@attrs.frozen
class Peer(Value):
    """The other side of a connection."""

    #: The network address; empty on the Unix socket.
    address: str = ""
    #: Reverse proxies that are trusted to say which address a request comes from, and whether over TLS.
    trusted_proxies: Networks = attrs.field(default=NO_NETWORKS, kw_only=True)
    #: Whether the connection has TLS; but if a trusted proxy says how the caller has reached it, whether that was
    #: over TLS.
    is_encrypted: bool = attrs.field(default=False, kw_only=True)
    #: The caller that the connection identifies, by the credentials of the Unix socket or by a client certificate.
    #: None means that each request needs credentials.
    caller: Caller | None = None
    #: When `caller` becomes invalid, because the certificate expires (seconds since 1970); None means never.
    expires_at: float | None = None
    #: Returns whether the CA of the client certificate is still the one in use.
    is_trusted: Callable[[], bool] = attrs.field(default=lambda: True, eq=False, repr=False, kw_only=True)
    #: Why the client certificate identifies no caller; None if it does, or if there is none.
    refusal: CertificateRefusal | None = None
    #: Called with the caller of each request once it has been identified; must not raise.
    on_identified: Callable[[Caller], None] = attrs.field(default=lambda caller: None, eq=False, repr=False)


def caller_of_certificate(
    certificate: Mapping[str, Any],
) -> tuple[Caller | None, float | None, CertificateRefusal | None]:
    """Return the caller that a verified client certificate identifies.

    The role is the organizational unit of its subject, which has to be one of ``viewer``, ``operator`` and ``admin``.
    The id is its common name with its serial number.

    Args:
        certificate: the certificate as a dictionary, from `ssl.SSLSocket.getpeercert`.

    Returns:
        The caller; when the certificate expires (seconds since 1970); and the reason if there is no caller.
    """
    subject = [(name, value) for part in certificate.get("subject", ()) for name, value in part]
    roles = {role.name.lower(): role for role in ManagementRole}
    units = [value for name, value in subject if name == "organizationalUnitName"]
    names = [value for name, value in subject if name == "commonName"]
    if len(units) != 1 or units[0] not in roles:
        has = (
            f"the OU {units[0][:_MAX_SHOWN]!r}, which is not a role"
            if len(units) == 1
            else f"{len(units) or 'no'} OUs"
        )
        remedy = f"issue a certificate whose subject has one OU, the role: {', '.join(roles)}"
        return None, None, CertificateRefusal(f"the client certificate has {has}", remedy)
    if len(names) != 1 or not names[0].isprintable():
        has = "a common name with unprintable characters" if len(names) == 1 else f"{len(names) or 'no'} common names"
        remedy = "issue a certificate whose subject has one common name, the name of the caller"
        return None, None, CertificateRefusal(f"the client certificate has {has}", remedy)
    caller = Caller("certificate", f"{names[0]} {certificate.get('serialNumber', '')}".strip(), roles[units[0]])
    return caller, ssl.cert_time_to_seconds(certificate["notAfter"]), None
