"""Descriptions of failed attempts to reach a relay, as typed values that exceptions carry.

The code that dials, uses a proxy, or does a handshake knows which step failed and how, and describes this in a
`Failure`. Reports show that value, so no code has to analyze the types or texts of exceptions afterwards.
"""

from __future__ import annotations

import enum
import errno
import socket
import ssl
from collections.abc import Iterator, Mapping

import attrs

from ._value import Value
from .protocol.reasons import Category, Reason

__all__ = ["Failure", "FailureKind", "Step", "causes", "kind_of_error", "lost_connection"]


class Step(enum.StrEnum):
    """The steps of an attempt, in their order."""

    #: Looking up the relay's host name.
    RESOLVE = "resolve"
    #: Opening a TCP connection, through a proxy if one is used.
    DIAL = "dial"
    #: The transport's own handshake.
    TRANSPORT = "transport"
    #: Preamble and status: the relay's answer.
    STATUS = "status"
    #: The probe's round trip of data.
    ECHO = "echo"
    #: TLS to the relay, on a control channel.
    TLS = "tls"


class FailureKind(enum.StrEnum):
    """Why an attempt failed, in the terms of a network administrator."""

    #: The connection was actively refused: nothing listens there, or a firewall rejects it.
    REFUSED = "refused"
    #: No answer at all: typically a firewall drops the packets.
    DROPPED = "dropped"
    #: Connected, then silence: typically a middlebox accepts every connection.
    STALLED = "stalled"
    NAME_NOT_FOUND = "name-not-found"
    #: The name server did not answer, or reported a temporary failure.
    NAME_SERVICE_FAILED = "name-service-failed"
    UNREACHABLE = "unreachable"
    #: This machine itself does not allow the connection.
    FORBIDDEN_LOCALLY = "forbidden-locally"
    OUT_OF_RESOURCES = "out-of-resources"
    #: The command that leads to the relay cannot be started.
    COMMAND_FAILED = "command-failed"
    RESET = "reset"
    CLOSED_EARLY = "closed-early"
    NOT_A_RELAY = "not-a-relay"
    VERSION_MISMATCH = "version-mismatch"
    #: The certificate is not the relay's: TLS is intercepted, another machine answers, or the relay has a new
    #: certificate.
    WRONG_IDENTITY = "wrong-identity"
    TLS_FAILED = "tls-failed"
    #: The relay answered, and refused.
    REFUSED_BY_RELAY = "refused-by-relay"
    #: No connection to the proxy itself.
    PROXY_UNREACHABLE = "proxy-unreachable"
    #: The proxy's own certificate cannot be verified. Nothing was sent to it.
    PROXY_UNTRUSTED = "proxy-untrusted"
    #: The proxy requires authentication, or rejects the user name or password.
    PROXY_AUTHENTICATION = "proxy-authentication"
    #: The proxy does not allow connections to this address and port.
    PROXY_REFUSED = "proxy-refused"
    #: The proxy tried, and could not connect.
    PROXY_CANNOT_CONNECT = "proxy-cannot-connect"
    #: The proxy accepted the connection, and did not answer.
    PROXY_SILENT = "proxy-silent"
    #: What answered is not a proxy of this kind, or it closed the connection.
    PROXY_FAILED = "proxy-failed"
    #: Something in the path intercepts the outer TLS and cannot connect to the relay.
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
    "proxy of the relay, check that the relay itself runs"
)
_SILENT_PROXY_REMEDY = (
    "check the proxy's scheme and port; if they are right, the proxy is overloaded, or a firewall drops its own "
    "attempt to connect: ask its administrator"
)
_TEXTS: dict[FailureKind, tuple[str, str | None]] = {
    FailureKind.REFUSED: (
        "connection refused",
        f"{_REFUSED_REMEDY}; if a firewall rejects the connection, {_ASK}",
    ),
    FailureKind.DROPPED: ("no answer: the packets are dropped", _ASK),
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
    FailureKind.COMMAND_FAILED: (
        "the command cannot be started",
        "check --exec-command: the program has to be on this machine, and this user has to be allowed to run it",
    ),
    FailureKind.RESET: ("the connection was reset", "a firewall may be inspecting this traffic; " + _ASK),
    FailureKind.CLOSED_EARLY: (
        "the connection was closed before the relay answered",
        "check that the relay serves this port; a firewall or proxy may be closing it: " + _ASK,
    ),
    FailureKind.NOT_A_RELAY: (
        "something other than a relay answered",
        "check the Endpoint and its ports in the connection string; a proxy may be answering instead of the relay",
    ),
    FailureKind.VERSION_MISMATCH: (
        "the relay speaks a different version of the protocol",
        "upgrade hybridrelay on the side that is older",
    ),
    FailureKind.WRONG_IDENTITY: (
        "the certificate is not the relay's",
        "something on the path intercepts TLS, or the relay has a new certificate: compare the pin with the relay's",
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
        "the proxy requires authentication",
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
        _SILENT_PROXY_REMEDY,
    ),
    FailureKind.PROXY_FAILED: (
        "what answers is not a proxy of this kind",
        "check the proxy's scheme and port: http, https and socks5 are different protocols",
    ),
    FailureKind.INTERCEPTION_FAILED: (
        "something on the path intercepts TLS, and cannot connect to the relay",
        _INTERCEPTION_REMEDY,
    ),
    FailureKind.OTHER: ("failed", None),
}

_COMMAND_REMEDY = (
    "run the command by hand: it has to run 'hybridrelay relay-stdio --state DIR' on the relay's host, where the "
    "relay has to run"
)
#: Different texts for failures of a command that leads to the relay.
_COMMAND_TEXTS: dict[FailureKind, str] = {
    FailureKind.STALLED: "the command was started, and then nothing came back",
    FailureKind.RESET: "the command ended",
    FailureKind.CLOSED_EARLY: "the command ended before the relay answered",
}

#: The kinds of failures, the most informative first: if several addresses were tried, an answer from one is more
#: informative than a missing route to another (often IPv6). Kinds that are not listed come last.
_BY_SPECIFICITY = (
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
    FailureKind.DROPPED,
    FailureKind.FORBIDDEN_LOCALLY,
    FailureKind.UNREACHABLE,
)
_SPECIFICITY: Mapping[FailureKind, int] = {
    kind: len(_BY_SPECIFICITY) - index for index, kind in enumerate(_BY_SPECIFICITY)
}
_BY_ERRNO = {
    errno.ECONNREFUSED: FailureKind.REFUSED,
    errno.ECONNRESET: FailureKind.RESET,
    errno.ECONNABORTED: FailureKind.RESET,
    errno.EPIPE: FailureKind.RESET,
    errno.ETIMEDOUT: FailureKind.DROPPED,
    errno.EHOSTUNREACH: FailureKind.UNREACHABLE,
    errno.ENETUNREACH: FailureKind.UNREACHABLE,
    errno.ENETDOWN: FailureKind.UNREACHABLE,
    errno.EADDRNOTAVAIL: FailureKind.UNREACHABLE,
    errno.EAFNOSUPPORT: FailureKind.UNREACHABLE,
    errno.EACCES: FailureKind.FORBIDDEN_LOCALLY,
    errno.EPERM: FailureKind.FORBIDDEN_LOCALLY,
}


@attrs.frozen
class Failure(Value):
    """A failed attempt, for people (`text`, `remedy`) and for programs (`kind`, `reason`)."""

    kind: FailureKind
    #: What happened: one line without a full stop at the end.
    text: str
    #: What to do about it; None if there is no advice.
    remedy: str | None = None
    #: The reason that the relay stated, if any.
    reason: Reason | None = None
    #: Which step failed; None if that is not known yet.
    step: Step | None = None
    #: The status of an HTTP answer that refused to open the channel.
    http_status: int | None = None

    @classmethod
    def of(cls, kind: FailureKind, step: Step | None = None) -> Failure:
        """Return a failure of this kind with its usual text."""
        text, remedy = _TEXTS[kind]
        return cls(kind, text, remedy, step=step)

    @classmethod
    def from_status(cls, status: Reason) -> Failure:
        """Return the failure for a status that refuses a preamble.

        A status is not authenticated: anything in the path can send one. Therefore `reason` is the status only if the
        status concerns the port, the rendezvous or a quota, and is not LISTENER_GONE. For any other status, such as a
        revoked key, it is `Reason.REFUSED_BY_RELAY`, so that no program or session ends because of it. The text says
        what was received.
        """
        reason = status
        if (
            status.category not in (Category.RELAY_PORT, Category.RENDEZVOUS, Category.QUOTA)
            or status is Reason.LISTENER_GONE
        ):
            reason = Reason.REFUSED_BY_RELAY
        if status is Reason.VERSION_MISMATCH:
            return attrs.evolve(cls.of(FailureKind.VERSION_MISMATCH), reason=reason)
        remedy = "check the ports in the connection string" if status is Reason.WRONG_PORT else None
        return cls(FailureKind.REFUSED_BY_RELAY, status.describe, remedy, reason)

    def with_text(self, text: str, remedy: str | None = None) -> Failure:
        """Return the same failure with another text, and with another remedy unless that is None."""
        return attrs.evolve(self, text=text, remedy=remedy or self.remedy)

    def over_command(self) -> Failure:
        """Return the same failure with text and remedy for a command that leads to the relay, instead of for the
        network."""
        if self.kind not in _COMMAND_TEXTS:
            return self
        is_usual = self.text == _TEXTS[self.kind][0]
        return self.with_text(_COMMAND_TEXTS[self.kind] if is_usual else self.text, _COMMAND_REMEDY)

    def at(self, step: Step) -> Failure:
        """Return the same failure at this step, unless it already has a step."""
        return self if self.step is not None else attrs.evolve(self, step=step)

    @property
    def specificity(self) -> int:
        """How informative the failure is. If several addresses failed, the failure with the highest value is
        reported."""
        return _SPECIFICITY.get(self.kind, 0)


def kind_of_error(error: BaseException) -> FailureKind | None:
    """Return the kind of failure for the error of one socket or TLS call; None if there is no such kind."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return FailureKind.WRONG_IDENTITY
    if isinstance(error, ssl.SSLError):  # its errno is a number of OpenSSL, not of the system
        return FailureKind.TLS_FAILED
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
        return _BY_ERRNO.get(error.errno or 0)
    return None


def lost_connection(error: BaseException) -> Failure:
    """Return the failure of an open connection that broke with `error`, a `trio.BrokenResourceError`.

    How it broke is in the cause, which is an error of the system or of TLS.
    """
    kinds = (kind_of_error(cause) for cause in causes(error))
    return Failure.of(next((kind for kind in kinds if kind is not None), FailureKind.CLOSED_EARLY))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and everything that caused it, including the members of exception groups."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from causes(member)
    if error.__cause__ is not None:
        yield from causes(error.__cause__)
