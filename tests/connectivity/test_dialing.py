"""Dialing, and the failures that are reported."""

from __future__ import annotations

import errno
import socket

import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.connectivity import DIRECTLY, DialError, Failure, FailureKind, ProxyError, Step, dial_directly
from hybridrelay.connectivity.dialing import dial_failure

from ..resolving import FixedResolver
from .conftest import Listen


async def test_names_are_resolved_on_every_dial_and_sockets_tuned(listen: Listen) -> None:
    port = await listen("stalled")
    resolver = FixedResolver("127.0.0.1")
    trio.socket.set_custom_hostname_resolver(resolver)
    for _ in range(2):
        async with await dial_directly("relay.example.com", port) as stream:
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert resolver.asked == [b"relay.example.com"] * 2


async def failure_of(host: str, port: int) -> Failure:
    with pytest.raises(OSError) as caught:
        await dial_directly(host, port)
    assert isinstance(caught.value, DialError)
    return caught.value.failure


async def test_a_socket_for_datagrams_is_connected_to_an_address_or_name() -> None:
    with trio.socket.socket(type=socket.SOCK_DGRAM) as other:
        await other.bind(("127.0.0.1", 0))
        trio.socket.set_custom_hostname_resolver(FixedResolver("127.0.0.1", kind=socket.SOCK_DGRAM))
        for host in ("127.0.0.1", "relay.example.com"):
            with await DIRECTLY.udp(host, other.getsockname()[1]) as sock:
                await sock.send(b"ping")
                data, sender = await other.recvfrom(100)
                await other.sendto(b"pong", sender)
                assert (data, await sock.recv(100)) == (b"ping", b"pong")


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("relay.example.com", FailureKind.NAME_SERVICE_FAILED),
        ("a..example.com", FailureKind.NAME_NOT_FOUND),
        ("255.255.255.255", FailureKind.FORBIDDEN_LOCALLY),
    ],
)
async def test_datagrams_that_cannot_be_sent(host: str, kind: FailureKind) -> None:
    if host == "relay.example.com":
        trio.socket.set_custom_hostname_resolver(FixedResolver(error=socket.gaierror(socket.EAI_AGAIN, "x")))
    with pytest.raises(DialError) as caught:
        await DIRECTLY.udp(host, 1)
    assert caught.value.failure.kind is kind


async def test_a_dialer_without_datagrams_and_commands() -> None:
    """A `Dialer` that leads through a proxy is like this."""
    dialer = Dialer(dial_directly)
    with pytest.raises(OSError, match="UDP"):
        await dialer.udp("127.0.0.1", 1)
    with pytest.raises(OSError, match="no command"):
        await dialer.process()


async def test_a_refused_connection_is_classified(refusing_port: int) -> None:
    assert (await failure_of("127.0.0.1", refusing_port)).kind is FailureKind.REFUSED


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (socket.EAI_NONAME, FailureKind.NAME_NOT_FOUND),
        (socket.EAI_AGAIN, FailureKind.NAME_SERVICE_FAILED),
        (socket.EAI_FAIL, FailureKind.NAME_SERVICE_FAILED),
    ],
)
async def test_a_failed_lookup_is_classified(code: int, kind: FailureKind) -> None:
    trio.socket.set_custom_hostname_resolver(FixedResolver(error=socket.gaierror(code, "x")))
    assert (await failure_of("relay.example.com", 1)).kind is kind


@pytest.mark.parametrize("host", ["a" * 64 + ".example.com", "a..example.com", "a\0b"])
async def test_what_is_not_a_name_is_not_found(host: str) -> None:
    assert (await failure_of(host, 1)).kind is FailureKind.NAME_NOT_FOUND


def raised(error: OSError, cause: Exception | None = None) -> OSError:
    error.__cause__ = cause
    return error


def group(*errors: OSError) -> ExceptionGroup[OSError]:
    return ExceptionGroup("several", list(errors))


def os_error(number: int) -> OSError:
    return OSError(number, "x")


K = FailureKind
TABLE = [
    (os_error(errno.ECONNREFUSED), K.REFUSED),
    (os_error(errno.ETIMEDOUT), K.DROPPED),
    (os_error(errno.EHOSTUNREACH), K.UNREACHABLE),
    (os_error(errno.ENETUNREACH), K.UNREACHABLE),
    (os_error(errno.ECONNRESET), K.RESET),
    (os_error(errno.EACCES), K.FORBIDDEN_LOCALLY),
    (os_error(errno.EMFILE), K.OUT_OF_RESOURCES),
    (os_error(errno.EXDEV), K.OTHER),
    (OSError(), K.OTHER),
    (TimeoutError(errno.ETIMEDOUT, "x"), K.DROPPED),
    # What trio raises for several addresses: the most specific counts.
    (raised(OSError("all failed"), os_error(errno.ECONNREFUSED)), K.REFUSED),
    (raised(OSError("all failed"), group(os_error(errno.ENETUNREACH), os_error(errno.ECONNREFUSED))), K.REFUSED),
    (raised(OSError("all failed"), group(os_error(errno.ENETUNREACH), os_error(errno.ETIMEDOUT))), K.DROPPED),
    (DialError(Failure.of(K.PROXY_SILENT)), K.PROXY_SILENT),
    (ProxyError(Failure.of(K.PROXY_REFUSED)), K.PROXY_REFUSED),
]


@pytest.mark.parametrize(("error", "kind"), TABLE)
def test_why_there_is_no_connection(error: OSError, kind: FailureKind) -> None:
    failure = dial_failure(error)
    assert failure.kind is kind
    assert failure.text
    assert "\n" not in failure.text
    assert failure.remedy != "x"


def test_the_text_of_an_applications_dial_is_kept() -> None:
    failure = dial_failure(OSError("the gateway hung up"))
    assert (failure.text, failure.remedy) == ("the gateway hung up", None)
    failure = Failure.of(K.OTHER).with_text("the gateway is closed", "open it")
    assert dial_failure(DialError(failure)) == failure.at(Step.DIAL)
