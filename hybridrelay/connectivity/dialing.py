"""Opening TCP connections, and explaining to people why one failed."""

from __future__ import annotations

import enum
import errno
import socket
import ssl
from collections.abc import Iterator

import attrs
import trio

from .._shortage import shortage_of
from ..errors import HybridRelayError, RelayIdentityError, TLSHandshakeError, TransportError
from ..protocol.errors import RemoteProtocolError
from ..protocol.reasons import Reason
from ..streams.connecting import open_tcp
from ..streams.sockets import tune_socket


async def dial_directly(host: str, port: int) -> trio.SocketStream:
    """Open a TCP connection, tuned for channels. This is the `Dial` that uses no proxy.

    The name is resolved on every call, since addresses change under long-lived programs; several addresses are tried
    in a staggered race (RFC 8305).

    Raises:
        OSError: no connection; `classify` says why.

    The caller sets the deadline. Cancelled, nothing stays open.
    """
    stream = await open_tcp(host, port)
    tune_socket(stream.socket)
    return stream


class FailureKind(enum.StrEnum):
    """Why an attempt failed, in the terms of a network administrator."""

    #: There was an answer: nothing listens here, or a firewall rejects the connection.
    REFUSED = "refused"
    #: No answer at all: typically a firewall that drops.
    SWALLOWED = "swallowed"
    #: Connected, then silence: typically a middlebox that accepts everything.
    STALLED = "stalled"
    NAME_NOT_FOUND = "name-not-found"
    #: The name server did not answer, or said "later".
    NAME_SERVICE_FAILED = "name-service-failed"
    UNREACHABLE = "unreachable"
    #: This machine itself does not let us.
    FORBIDDEN_LOCALLY = "forbidden-locally"
    OUT_OF_RESOURCES = "out-of-resources"
    RESET = "reset"
    CLOSED_EARLY = "closed-early"
    NOT_A_RELAY = "not-a-relay"
    VERSION_MISMATCH = "version-mismatch"
    #: A certificate that is not the relay's: interception, another machine, or a relay with a new certificate.
    WRONG_IDENTITY = "wrong-identity"
    TLS_FAILED = "tls-failed"
    #: The relay answered, and said no.
    REFUSED_BY_RELAY = "refused-by-relay"
    #: No connection to the proxy itself.
    PROXY_UNREACHABLE = "proxy-unreachable"
    #: The proxy's own certificate cannot be verified. Nothing was sent to it.
    PROXY_UNTRUSTED = "proxy-untrusted"
    #: The proxy wants to know who we are, or does not like who we say we are.
    PROXY_AUTHENTICATION = "proxy-authentication"
    #: The proxy may not, or will not, connect to this address and port.
    PROXY_REFUSED = "proxy-refused"
    #: The proxy tried, and could not connect.
    PROXY_CANNOT_CONNECT = "proxy-cannot-connect"
    #: The proxy accepted the connection, and did not answer.
    PROXY_SILENT = "proxy-silent"
    #: What answered is not a proxy of this kind, or it closed the connection.
    PROXY_FAILED = "proxy-failed"
    #: Something on the way intercepts the outer TLS and cannot connect to the relay.
    INTERCEPTION_FAILED = "interception-failed"
    OTHER = "other"


_ASK = "ask the network administrator to allow outbound TCP to this host and port"
_REFUSED_REMEDY = (
    "check that the relay is running and listens on this port; if it has other ports, the connection string must "
    "name them ('connections create --public-ports', or 'connections endpoints --public-ports' with --update)"
)
_INTERCEPTION_REMEDY = (
    "if that is a proxy of your network, it may refuse the relay's outer certificate: a public one is needed "
    "(hybridrelay relay --tls-certificate), or this host must be exempt from TLS inspection; if it is the reverse "
    "proxy of the relay, check that the relay behind it runs"
)
_TEXTS: dict[FailureKind, tuple[str, str | None]] = {
    FailureKind.REFUSED: (
        "connection refused",
        f"{_REFUSED_REMEDY}; if a firewall rejects the connection, {_ASK}",
    ),
    FailureKind.SWALLOWED: ("no answer: the packets are dropped", _ASK),
    FailureKind.STALLED: (
        "the connection was accepted, then nothing came back",
        "a firewall or proxy accepts the connection on behalf of the relay and forwards nothing; " + _ASK,
    ),
    FailureKind.NAME_NOT_FOUND: (
        "the host name is unknown",
        "check the Endpoint in the connection string, and that this machine can resolve it",
    ),
    FailureKind.NAME_SERVICE_FAILED: ("the name server does not answer", "check this machine's DNS settings"),
    FailureKind.UNREACHABLE: ("no route to the host", "check this machine's network connection; or " + _ASK),
    FailureKind.FORBIDDEN_LOCALLY: (
        "forbidden by this machine",
        "check the firewall of this machine and the permissions of this program",
    ),
    FailureKind.OUT_OF_RESOURCES: (
        "this machine is out of sockets, ports or memory",
        "raise the limit of open files for this program",
    ),
    FailureKind.RESET: ("the connection was reset", "a firewall may be inspecting this traffic; " + _ASK),
    FailureKind.CLOSED_EARLY: (
        "the connection was closed before the relay answered",
        "check that the relay serves this port; a firewall or proxy may be closing it: " + _ASK,
    ),
    FailureKind.NOT_A_RELAY: (
        "whatever answered is not a relay",
        "check the Endpoint and its ports in the connection string; a proxy may be answering instead of the relay",
    ),
    FailureKind.VERSION_MISMATCH: (
        "the relay speaks another version",
        "upgrade hybridrelay on the side that is older",
    ),
    FailureKind.WRONG_IDENTITY: (
        "the certificate is not the relay's",
        "something on the way intercepts TLS, or the relay has a new certificate: compare the pin with the relay's",
    ),
    FailureKind.TLS_FAILED: ("the TLS handshake failed", "a firewall or proxy may be interfering with TLS; " + _ASK),
    FailureKind.REFUSED_BY_RELAY: ("the relay refused", None),
    FailureKind.PROXY_UNREACHABLE: (
        "the proxy cannot be reached",
        "check the proxy's address, and that it runs",
    ),
    FailureKind.PROXY_UNTRUSTED: (
        "the proxy's certificate is not trusted",
        "compare the proxy's name with its certificate, or install the authority that made it on this machine",
    ),
    FailureKind.PROXY_AUTHENTICATION: (
        "the proxy demands authentication",
        "give the proxy's user name and password",
    ),
    FailureKind.PROXY_REFUSED: (
        "the proxy refuses to connect to the relay",
        "ask the administrator of the proxy to allow CONNECT to this host and port; most allow port 443",
    ),
    FailureKind.PROXY_CANNOT_CONNECT: (
        "the proxy cannot connect to the relay",
        "check that the relay serves this port; ask the proxy's administrator whether it can resolve and reach it",
    ),
    FailureKind.PROXY_SILENT: (
        "the proxy does not answer",
        "the proxy is overloaded, or a firewall drops its own attempt to connect: ask its administrator",
    ),
    FailureKind.PROXY_FAILED: (
        "what answers is not a proxy of this kind",
        "check the proxy's scheme and port: http, https and socks5 are different protocols",
    ),
    FailureKind.INTERCEPTION_FAILED: (
        "something on the way intercepts TLS and cannot connect to the relay",
        _INTERCEPTION_REMEDY,
    ),
    FailureKind.OTHER: ("failed", None),
}

# The most informative kinds first: of several addresses, one that answered matters more than one without a route
# (often IPv6).
_TELLING = (
    FailureKind.WRONG_IDENTITY,
    FailureKind.REFUSED_BY_RELAY,
    FailureKind.VERSION_MISMATCH,
    FailureKind.NOT_A_RELAY,
    FailureKind.INTERCEPTION_FAILED,
    FailureKind.TLS_FAILED,
    FailureKind.CLOSED_EARLY,
    FailureKind.STALLED,
    FailureKind.REFUSED,
    FailureKind.RESET,
    FailureKind.SWALLOWED,
    FailureKind.FORBIDDEN_LOCALLY,
    FailureKind.UNREACHABLE,
)
_BY_ERRNO = {
    errno.ECONNREFUSED: FailureKind.REFUSED,
    errno.ECONNRESET: FailureKind.RESET,
    errno.ECONNABORTED: FailureKind.RESET,
    errno.EPIPE: FailureKind.RESET,
    errno.ETIMEDOUT: FailureKind.SWALLOWED,
    errno.EHOSTUNREACH: FailureKind.UNREACHABLE,
    errno.ENETUNREACH: FailureKind.UNREACHABLE,
    errno.ENETDOWN: FailureKind.UNREACHABLE,
    errno.EADDRNOTAVAIL: FailureKind.UNREACHABLE,
    errno.EAFNOSUPPORT: FailureKind.UNREACHABLE,
    errno.EACCES: FailureKind.FORBIDDEN_LOCALLY,
    errno.EPERM: FailureKind.FORBIDDEN_LOCALLY,
}
_NAME_NOT_FOUND = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}


@attrs.frozen
class Failure:
    """A failed attempt, for people (`text`, `remedy`) and for programs (`kind`, `reason`)."""

    kind: FailureKind
    #: What happened: one line without a final stop.
    text: str
    #: What to do about it, or None where there is nothing to advise.
    remedy: str | None = None
    #: The reason that the relay gave, if any.
    reason: Reason | None = None

    @classmethod
    def of(cls, kind: FailureKind) -> Failure:
        """The failure of this kind with its usual text."""
        text, remedy = _TEXTS[kind]
        return cls(kind, text, remedy)

    @classmethod
    def from_reason(cls, reason: Reason) -> Failure:
        """The relay answered, and this is what it said."""
        if reason is Reason.VERSION_MISMATCH:
            return attrs.evolve(cls.of(FailureKind.VERSION_MISMATCH), reason=reason)
        remedy = "check the ports in the connection string" if reason is Reason.WRONG_PORT else None
        return cls(FailureKind.REFUSED_BY_RELAY, reason.describe, remedy, reason)


def how_telling(failure: Failure) -> int:
    """Where a failure stands among those of several addresses: the least number says most."""
    return _TELLING.index(failure.kind) if failure.kind in _TELLING else len(_TELLING)


class ProxyError(OSError):
    """A `Dial` that crosses a proxy failed, and knows why. `failure` is complete; `str()` is its text."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


def classify(error: BaseException, *, connected: bool = False) -> Failure:
    """Say why connecting failed.

    Args:
        error: what was raised on the way: by a `Dial`, a transport, a stream, TLS, our decoders, or by a deadline
            (`trio.TooSlowError`).
        connected: whether TCP was already connected, which a deadline alone does not show.
    """
    if isinstance(error, ProxyError):
        return error.failure
    if isinstance(error, trio.TooSlowError):
        return Failure.of(FailureKind.STALLED if connected else FailureKind.SWALLOWED)
    if isinstance(error, RelayIdentityError):
        failure = Failure.of(FailureKind.WRONG_IDENTITY)
        return attrs.evolve(failure, text=str(error), remedy=error.remedy or failure.remedy, reason=error.reason)
    if isinstance(error, TLSHandshakeError):
        # Without a cause the peer just ended the connection.
        return Failure.of(FailureKind.CLOSED_EARLY) if error.__cause__ is None else classify(error.__cause__)
    if isinstance(error, TransportError):
        # A connection that broke during the transport's handshake says nothing about who is there.
        broke = isinstance(error.__cause__, (trio.BrokenResourceError, ConnectionError))
        kind = classify(error.__cause__).kind if broke and error.__cause__ else FailureKind.NOT_A_RELAY
        failure = Failure.of(kind)
        return attrs.evolve(failure, text=str(error), remedy=error.remedy or failure.remedy)
    if isinstance(error, HybridRelayError):
        if error.__cause__ is not None:
            return classify(error.__cause__, connected=connected)
        failure = Failure.from_reason(error.reason)
        return attrs.evolve(failure, text=str(error), remedy=error.remedy or failure.remedy)
    if isinstance(error, RemoteProtocolError):
        if error.reason is Reason.VERSION_MISMATCH:
            return Failure.from_reason(error.reason)
        return Failure.of(FailureKind.NOT_A_RELAY)
    if isinstance(error, trio.BrokenResourceError):
        causes = [leaf for leaf in _leaves(error) if leaf is not error]
        return classify(causes[0], connected=True) if causes else Failure.of(FailureKind.CLOSED_EARLY)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure.of(FailureKind.WRONG_IDENTITY)
    if isinstance(error, ssl.SSLError):
        return Failure.of(FailureKind.TLS_FAILED)
    return _classify_os_error(error)


def _classify_os_error(error: BaseException) -> Failure:
    kinds = set()
    for leaf in _leaves(error):
        if isinstance(leaf, socket.gaierror):
            known = leaf.errno in _NAME_NOT_FOUND
            return Failure.of(FailureKind.NAME_NOT_FOUND if known else FailureKind.NAME_SERVICE_FAILED)
        if isinstance(leaf, OSError) and (shortage := shortage_of(leaf)) is not None:
            # What other addresses answered does not help until this is over.
            return Failure(FailureKind.OUT_OF_RESOURCES, f"this machine {shortage.text}", shortage.remedy)
        if isinstance(leaf, OSError) and leaf.errno in _BY_ERRNO:
            kinds.add(_BY_ERRNO[leaf.errno])
    for kind in _TELLING:
        if kind in kinds:
            return Failure.of(kind)
    # An error without a number: from a user-supplied dial, or of an unknown kind. Its own text is the best
    # description.
    return Failure(FailureKind.OTHER, str(error) or type(error).__name__, getattr(error, "remedy", None))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The error and all that caused it, members of groups included: `open_tcp` raises from a group."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    if error.__cause__ is not None:
        yield from _leaves(error.__cause__)
