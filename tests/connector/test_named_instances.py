"""Named instances of SQL Server: their ports are what a service of their host says, and the policy allows."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import attrs
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from hybridrelay.connector.named_instances import CACHE_SECONDS, NamedInstances
from hybridrelay.connector.sql_browser import (
    MAX_REPLY,
    BadReply,
    instance_request,
    parse_instance_reply_untrusted,
)
from hybridrelay.connector.targets import TargetDenied, TargetError
from hybridrelay.policy import Decision
from hybridrelay.policy.decision import ALLOWED
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, NamedInstance, StreamTarget

from ..limited_places import Limited
from ..resolving import FixedResolver

DENIED = Decision(Reason.DENIED_BY_POLICY, "rule", "denied-targets")


def reply(instance: str = "SQLEXPRESS", more: str = ";tcp;49823", *, size: int | None = None) -> bytes:
    text = f"ServerName;SQL01;InstanceName;{instance};IsClustered;No;Version;15.0.2000.5{more};;".encode()
    return b"\x05" + (len(text) if size is None else size).to_bytes(2, "little") + text


# --- the protocol


def test_a_request_names_the_instance() -> None:
    assert instance_request("SQLEXPRESS") == b"\x04SQLEXPRESS\0"


@pytest.mark.parametrize(
    "data",
    [
        reply(),
        reply("sqlexpress"),
        reply(more=r";np;\\SQL01\pipe\MSSQL$SQLEXPRESS\sql\query;tcp;49823"),
        reply(more=";tcp;49823;via;SQL01,0:1433"),
    ],
)
def test_the_port_is_found_in_every_form_of_reply(data: bytes) -> None:
    assert parse_instance_reply_untrusted(data, "SqlExpress") == 49823


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no reply"),
        (b"\x05\0", "no reply"),
        (b"\x04" + reply()[1:], "not a reply"),
        (reply() + b"x", "length"),
        (reply()[:-1], "length"),
        (reply(size=65535), "length"),
        (reply(more=";np;" + "x" * MAX_REPLY), "length"),
        (reply("OTHER"), "another instance"),
        (b"\x05\0\0", "another instance"),
        (reply(more=r";np;\\SQL01\pipe"), "does not listen on TCP"),
        (reply(more=";tcp;0"), "no valid port"),
        (reply(more=";tcp;65536"), "no valid port"),
        (reply(more=";tcp;"), "no valid port"),
        (reply(more=";tcp;1433,1434"), "no valid port"),
        (reply(more=";tcp; 1433"), "no valid port"),
        (reply(more=";;tcp;1433"), "does not listen on TCP"),
    ],
)
def test_what_is_not_a_reply(data: bytes, says: str) -> None:
    with pytest.raises(BadReply) as caught:
        parse_instance_reply_untrusted(data, "SQLEXPRESS")
    assert says.replace("no reply", "not a reply") in str(caught.value)


_TEXTS = st.text("SQLEXPRESSinstancenametcp;0123456789\xff", max_size=80).map(lambda text: text.encode("latin-1"))


@given(st.binary(max_size=1100) | _TEXTS.map(lambda text: b"\x05" + len(text).to_bytes(2, "little") + text))
@example(reply())
def test_any_datagram_is_a_port_or_one_exception(data: bytes) -> None:
    try:
        port = parse_instance_reply_untrusted(data, "SQLEXPRESS")
    except BadReply:
        return
    assert 1 <= port <= 65535


# --- asking


@attrs.define
class Responder:
    """A service that answers as a test wants, at a loopback address of its own."""

    sock: trio.socket.SocketType
    address: str
    answers: Callable[[bytes], Sequence[bytes]] = lambda _: [reply()]
    asked: list[bytes] = attrs.field(factory=list)

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    @property
    def instance(self) -> NamedInstance:
        return NamedInstance(self.address, "SQLEXPRESS")

    async def run(self) -> None:
        while self.sock.fileno() >= 0:
            try:
                data, peer = await self.sock.recvfrom(2048)
            except trio.ClosedResourceError:
                return
            self.asked.append(data)
            for answer in self.answers(data):
                await self.sock.sendto(answer, peer)


@pytest.fixture
async def responder(nursery: trio.Nursery) -> AsyncIterator[Responder]:
    address = f"127.{random.randrange(1, 64)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((address, 0))
        responder = Responder(sock, address)
        nursery.start_soon(responder.run)
        yield responder
        nursery.cancel_scope.cancel()


async def test_a_port_is_asked_for_once_in_a_while(responder: Responder) -> None:
    now = 1000.0
    instances = NamedInstances(responder.port, lambda: now)
    for _ in range(3):
        found = await instances.find(responder.instance, lambda _: ALLOWED)
        assert (found.target, found.address) == (HostPort(responder.address, 49823), responder.address)
    assert responder.asked == [b"\x04SQLEXPRESS\0"]
    now += CACHE_SECONDS
    await instances.find(responder.instance, lambda _: ALLOWED)
    assert len(responder.asked) == 2


async def test_in_parallel_it_is_asked_for_each_time(responder: Responder) -> None:
    """Another address of the host may be online now."""
    (listener,) = await trio.open_tcp_listeners(0, host=responder.address)
    async with listener:
        responder.answers = lambda _: [reply(more=f";tcp;{listener.socket.getsockname()[1]}")]
        instances = NamedInstances(responder.port)
        for times in (1, 2, 3):
            stream = await instances.open(responder.instance, permit=lambda *_: ALLOWED, in_parallel=True)
            await trio.aclose_forcefully(stream)
            assert len(responder.asked) == times


async def test_what_is_not_a_reply_is_ignored(responder: Responder) -> None:
    responder.answers = lambda _: [b"", b"\x05\0\0", reply("OTHER"), reply()]
    found = await NamedInstances(responder.port).find(responder.instance, lambda _: ALLOWED)
    assert found.target.port == 49823


async def test_it_is_asked_twice(responder: Responder) -> None:
    responder.answers = lambda _: [reply()] if len(responder.asked) == 2 else []
    found = await NamedInstances(responder.port).find(responder.instance, lambda _: ALLOWED)
    assert found.target.port == 49823


@pytest.mark.parametrize(
    ("answers", "reason", "says"),
    [
        ([], Reason.TARGET_TIMEOUT, "did not answer: it is not running, knows no such instance"),
        ([reply(more="")], Reason.TARGET_UNREACHABLE, "does not listen on TCP"),
        ([b"\x05"] * 50, Reason.TARGET_UNREACHABLE, "not a reply about an instance"),
        # It is not read until there is one: others can send without end.
        ([*[b"\x05"] * 50, reply()], Reason.TARGET_UNREACHABLE, "not a reply about an instance"),
    ],
)
async def test_without_an_answer_the_error_says_why(
    responder: Responder, answers: Sequence[bytes], reason: Reason, says: str
) -> None:
    responder.answers = lambda _: answers
    with pytest.raises(TargetError, match=says) as caught:
        await NamedInstances(responder.port).find(responder.instance, lambda _: ALLOWED)
    assert caught.value.reason is reason
    assert responder.address not in str(caught.value), "the client is told this"


async def test_without_a_browser_service_the_target_counts_as_refused(responder: Responder) -> None:
    port = responder.port
    responder.sock.close()
    with pytest.raises(TargetError, match="is not running") as caught:
        await NamedInstances(port).find(responder.instance, lambda _: ALLOWED)
    assert caught.value.reason is Reason.TARGET_REFUSED


async def test_nothing_is_sent_to_an_address_that_is_denied(responder: Responder) -> None:
    with pytest.raises(TargetDenied):
        await NamedInstances(responder.port).find(responder.instance, lambda _: DENIED)
    assert not responder.asked


async def test_the_port_that_was_found_is_decided_about_and_dialed(
    responder: Responder, nursery: trio.Nursery
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=responder.address)
    async with listener:
        port = listener.socket.getsockname()[1]
        responder.answers = lambda _: [reply(more=f";tcp;{port}")]
        decided: list[tuple[StreamTarget, str]] = []
        is_denied = False

        def permit(target: StreamTarget, address: str) -> Decision:
            decided.append((target, address))
            return DENIED if is_denied and isinstance(target, HostPort) else ALLOWED

        instances, instance = NamedInstances(responder.port), responder.instance
        stream = await instances.open(instance, permit=permit)
        await trio.aclose_forcefully(stream)
        at = HostPort(responder.address, port)
        assert decided == [(instance, responder.address), (at, responder.address)]
        is_denied = True
        with pytest.raises(TargetDenied):
            await instances.open(instance, permit=permit)
    # The service is asked again when nothing listens there any more.
    is_denied = False
    before = len(responder.asked)
    for _ in range(2):
        with pytest.raises(TargetError):
            await instances.open(instance, permit=permit)
    assert len(responder.asked) > before


async def test_the_sockets_that_ask_several_addresses_take_places(autojump_clock: trio.testing.MockClock) -> None:
    """Silent addresses, so that each socket is open until the last attempt."""
    trio.socket.set_custom_hostname_resolver(
        FixedResolver(*(f"127.0.0.{number}" for number in range(1, 6)), kind=socket.SOCK_DGRAM)
    )
    with contextlib.ExitStack() as silent:
        first = silent.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        first.bind(("0.0.0.0", 0))
        port = first.getsockname()[1]
        for left in (0, 2, 20):
            spare = Limited(left)
            with pytest.raises(TargetError) as failed:
                await NamedInstances(port).find(NamedInstance("sql.example", "X"), lambda _: ALLOWED, spare=spare)
            assert failed.value.reason is Reason.TARGET_TIMEOUT
            assert spare.most == min(left, 4)
            assert spare.taken == 0
