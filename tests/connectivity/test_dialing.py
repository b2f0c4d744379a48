"""Dialing, and what people are told when it fails."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
import trio

from hybridrelay.connectivity import FailureKind, classify, dial_directly
from hybridrelay.errors import RelayIdentityError, RelayUnreachable, TLSHandshakeError, TransportError
from hybridrelay.protocol.errors import RemoteProtocolError
from hybridrelay.protocol.reasons import Reason


class Resolver(trio.abc.HostnameResolver):
    """Answers with these addresses, or raises this."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        if isinstance(self.answer, Exception):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.answer]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


async def test_names_are_resolved_on_every_dial_and_sockets_tuned(listen):
    port = await listen("stalled")
    resolver = Resolver(["127.0.0.1"])
    trio.socket.set_custom_hostname_resolver(resolver)
    for _ in range(2):
        async with await dial_directly("relay.example.com", port) as stream:
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert [str(host) for host in resolver.asked] == ["b'relay.example.com'"] * 2


async def failure_of(host, port):
    with pytest.raises(OSError) as caught:
        await dial_directly(host, port)
    return classify(caught.value)


async def test_refused(refusing_port):
    assert (await failure_of("127.0.0.1", refusing_port)).kind is FailureKind.REFUSED


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (socket.EAI_NONAME, FailureKind.NAME_NOT_FOUND),
        (socket.EAI_AGAIN, FailureKind.NAME_SERVICE_FAILED),
        (socket.EAI_FAIL, FailureKind.NAME_SERVICE_FAILED),
    ],
)
async def test_names(code, kind):
    trio.socket.set_custom_hostname_resolver(Resolver(socket.gaierror(code, "x")))
    assert (await failure_of("relay.example.com", 1)).kind is kind


@pytest.mark.parametrize("host", ["a" * 64 + ".example.com", "a..example.com", "a\0b"])
async def test_what_is_no_name_is_not_found(host):
    assert (await failure_of(host, 1)).kind is FailureKind.NAME_NOT_FOUND


def raised(error, cause=None):
    error.__cause__ = cause
    return error


def group(*errors):
    return ExceptionGroup("several", list(errors))


def os_error(number):
    return OSError(number, "x")


CERTIFICATE = ssl.SSLCertVerificationError(1, "x")
K = FailureKind
TABLE = [
    (os_error(errno.ECONNREFUSED), K.REFUSED),
    (os_error(errno.ETIMEDOUT), K.SWALLOWED),
    (os_error(errno.EHOSTUNREACH), K.UNREACHABLE),
    (os_error(errno.ENETUNREACH), K.UNREACHABLE),
    (os_error(errno.ECONNRESET), K.RESET),
    (os_error(errno.EACCES), K.FORBIDDEN_LOCALLY),
    (os_error(errno.EMFILE), K.OUT_OF_RESOURCES),
    (os_error(errno.EXDEV), K.OTHER),
    (OSError(), K.OTHER),
    # What trio raises for several addresses: the most telling counts.
    (raised(OSError("all failed"), os_error(errno.ECONNREFUSED)), K.REFUSED),
    (raised(OSError("all failed"), group(os_error(errno.ENETUNREACH), os_error(errno.ECONNREFUSED))), K.REFUSED),
    (raised(OSError("all failed"), group(os_error(errno.ENETUNREACH), os_error(errno.ETIMEDOUT))), K.SWALLOWED),
    (trio.BrokenResourceError(), K.CLOSED_EARLY),
    (raised(trio.BrokenResourceError(), os_error(errno.ECONNRESET)), K.RESET),
    (raised(trio.BrokenResourceError(), os_error(errno.EPIPE)), K.RESET),
    (RemoteProtocolError("x"), K.NOT_A_RELAY),
    (RemoteProtocolError("x", reason=Reason.VERSION_MISMATCH), K.VERSION_MISMATCH),
    (TransportError("x"), K.NOT_A_RELAY),
    (raised(TransportError("x"), ValueError()), K.NOT_A_RELAY),
    (raised(TransportError("x"), trio.BrokenResourceError()), K.CLOSED_EARLY),
    (raised(TransportError("x"), raised(trio.BrokenResourceError(), os_error(errno.ECONNRESET))), K.RESET),
    (raised(TransportError("x"), os_error(errno.ECONNRESET)), K.RESET),
    (TLSHandshakeError("x"), K.CLOSED_EARLY),
    (raised(TLSHandshakeError("x"), ssl.SSLError(1, "x")), K.TLS_FAILED),
    (raised(TLSHandshakeError("x"), CERTIFICATE), K.WRONG_IDENTITY),
    (raised(TLSHandshakeError("x"), trio.BrokenResourceError()), K.CLOSED_EARLY),
    (raised(TLSHandshakeError("x"), raised(trio.BrokenResourceError(), os_error(errno.ECONNRESET))), K.RESET),
    (ssl.SSLError(1, "x"), K.TLS_FAILED),
    (CERTIFICATE, K.WRONG_IDENTITY),
    (RelayIdentityError("x"), K.WRONG_IDENTITY),
    (RelayUnreachable("x", reason=Reason.BUSY), K.REFUSED_BY_RELAY),
    (RelayUnreachable("x", reason=Reason.VERSION_MISMATCH), K.VERSION_MISMATCH),
    (raised(RelayUnreachable("x"), os_error(errno.ECONNREFUSED)), K.REFUSED),
]


@pytest.mark.parametrize(("error", "kind"), TABLE)
def test_classified(error, kind):
    failure = classify(error)
    assert failure.kind is kind
    assert failure.text
    assert "\n" not in failure.text
    assert failure.remedy != "x"


def test_silence_before_and_after_connecting():
    assert classify(trio.TooSlowError()).kind is FailureKind.SWALLOWED
    assert classify(trio.TooSlowError(), connected=True).kind is FailureKind.STALLED


def test_the_words_of_whoever_knows_more_are_kept():
    failure = classify(TransportError("HTTP status 407", remedy="log in"))
    assert (failure.text, failure.remedy) == ("HTTP status 407", "log in")
    failure = classify(OSError("the proxy hung up"))
    assert (failure.text, failure.remedy) == ("the proxy hung up", None)
    failure = classify(RelayUnreachable("the relay is busy", reason=Reason.BUSY))
    assert (failure.text, failure.reason) == ("the relay is busy", Reason.BUSY)


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind not in (K.OTHER, K.REFUSED_BY_RELAY)])
def test_every_kind_says_what_to_do(kind):
    from hybridrelay.connectivity import Failure

    failure = Failure.of(kind)
    assert failure.text
    assert failure.remedy
