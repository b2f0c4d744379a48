"""What is known about the other side of a connection before it has sent a request. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..security import NO_NETWORKS, ManagementRole, Networks
from .callers import Caller

__all__ = ["Peer", "caller_of_certificate"]


@attrs.frozen
class Peer:
    """The other side of a connection."""

    #: Its network address; empty on the Unix socket.
    address: str = ""
    #: Reverse proxies that are believed which address a request comes from, and whether over TLS.
    trusted_proxies: Networks = attrs.field(default=NO_NETWORKS, kw_only=True)
    #: Whether the connection has TLS. If a trusted proxy says how the client has reached it: whether this has TLS.
    is_encrypted: bool = attrs.field(default=False, kw_only=True)
    #: Who it is, if the connection says so: by the credentials of the Unix socket, or by a client certificate. None:
    #: each request has to have credentials.
    caller: Caller | None = None
    #: When `caller` is no longer valid, because the certificate expires (seconds since 1970); None: never.
    expires_at: float | None = None
    #: Why the client certificate names no caller; empty if there is none, or if it does.
    refusal: str = ""
    #: Called with the caller of each request once it has been identified; must not raise.
    on_identified: Callable[[Caller], None] = attrs.field(default=lambda caller: None, eq=False, repr=False)


def caller_of_certificate(certificate: Mapping[str, Any]) -> tuple[Caller | None, float | None, str]:
    """Who a verified client certificate is for.

    The role is the organizational unit of its subject, which has to be one of ``viewer``, ``operator`` and ``admin``.
    The id is its common name with its serial number.

    Args:
        certificate: as `ssl.SSLSocket.getpeercert` describes it.

    Returns:
        The caller, when the certificate expires (seconds since 1970), and, where there is no caller, the reason.
    """
    subject = [(name, value) for part in certificate.get("subject", ()) for name, value in part]
    roles = {role.name.lower(): role for role in ManagementRole}
    units = [value for name, value in subject if name == "organizationalUnitName"]
    names = [value for name, value in subject if name == "commonName"]
    if len(units) != 1 or units[0] not in roles:
        return None, None, f"the OU of the client certificate has to be one of {', '.join(roles)}"
    if len(names) != 1 or not names[0].isprintable():
        return None, None, "the client certificate has to have one common name"
    caller = Caller("certificate", f"{names[0]} {certificate.get('serialNumber', '')}".strip(), roles[units[0]])
    return caller, ssl.cert_time_to_seconds(certificate["notAfter"]), ""
