"""A stream of an application, from its offer to the last line of the audit log."""

from __future__ import annotations

import logging
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from hybridrelay import events
from hybridrelay.connector import served_stream, targets
from hybridrelay.connector.named_instances import NamedInstances
from hybridrelay.connector.served_stream import REPEAT_SECONDS
from hybridrelay.errors import HybridRelayError, StreamRefused
from hybridrelay.events import (
    PolicyRefused,
    StreamClosed,
    StreamNotConnected,
    StreamOpened,
    StreamStillOpen,
)
from hybridrelay.mux import MuxStream, Session, SessionConfig
from hybridrelay.policy import Policy
from hybridrelay.policy.toml_files import parse_policy_file
from hybridrelay.protocol.open_metadata import PORT, port_metadata
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, HostPorts, HostTarget, NamedInstance, PortSet
from hybridrelay.streams import connecting
from hybridrelay.streams.sockets import abort_stream
from hybridrelay.testing import session_pair

from ..deployments import free_port
from ..resolving import FixedResolver
from ..silent import silent_listener
from ..waiting import patience
from .served_session import ServedSession


class Scene(ServedSession):
    """An application's session, and the connector that serves its streams."""

    def __init__(
        self,
        client: Session,
        server: Session,
        target: HostTarget | NamedInstance,
        policy: Policy,
        instances: NamedInstances | None,
    ) -> None:
        self.now = 1000.0
        #: Why attempts to connect to the target have failed; None for those that have not.
        self.attempts: list[Reason | None] = []
        options = {"target_attempted": self._attempted, "named_instances": instances}
        super().__init__(client, server, target, policy, lambda: self.now, **options)

    def _attempted(self, _target: object, _began: float, error: HybridRelayError | None) -> None:
        self.attempts.append(None if error is None else error.reason)

    @classmethod
    async def start(
        cls,
        nursery: trio.Nursery,
        target: HostTarget | NamedInstance,
        policy: Policy | None = None,
        *,
        channels: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
        named_instances: NamedInstances | None = None,
    ) -> Scene:
        client, server = await session_pair(
            nursery,
            channels=trio.testing.memory_stream_pair if channels is None else lambda: channels,
            config=SessionConfig(metadata_types={PORT}),
        )
        scene = cls(client, server, target, policy or Policy(), named_instances)
        nursery.start_soon(scene.serve)
        return scene


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[object, ...]]]:
    caplog.set_level(logging.INFO, "hybridrelay.audit")

    def told() -> list[tuple[object, ...]]:
        fields = [vars(record)["fields"] for record in caplog.records if record.name == "hybridrelay.audit"]
        assert len({one["id"] for one in fields}) <= 1
        names = ("event", "reason", "to_target", "to_client", "bytes_to_target", "bytes_to_client")
        return [tuple(one.get(name) for name in names) for one in fields]

    return told


OPEN = ("open", None, None, None, None, None)


class Target:
    """A server with one connection, which the test controls."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.address = HostPort("127.0.0.1", listener.socket.getsockname()[1])

    async def accept(self) -> trio.SocketStream:
        return await self._listener.accept()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield Target(listener)


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(patience(10)):
        while not condition():
            await trio.sleep(0.01)


async def talk(stream: MuxStream, server: trio.SocketStream) -> None:
    """Five bytes to the target, seven back."""
    await stream.send_all(b"query")
    assert await server.receive_some() == b"query"
    await server.send_all(b"answers")
    assert await stream.receive_some() == b"answers"


async def _finish(scene: Scene, stream: MuxStream, server: trio.SocketStream) -> None:
    await stream.send_eof()
    assert await server.receive_some() == b""
    await server.send_eof()


async def _say_goodbye_rudely(scene: Scene, stream: MuxStream, server: trio.SocketStream) -> None:
    await stream.send_eof()
    assert await server.receive_some() == b""
    await abort_stream(server)


async def _break_target(scene: Scene, stream: MuxStream, server: trio.SocketStream) -> None:
    await abort_stream(server)


async def _reset(scene: Scene, stream: MuxStream, server: trio.SocketStream) -> None:
    stream.reset(Reason.TARGET_RESET)


async def _denied(scene: Scene, stream: MuxStream, server: trio.SocketStream) -> None:
    scene.server.close(Reason.IDENTITY_DENIED)


async def _cancel(scene: Scene, stream: MuxStream, server: trio.SocketStream) -> None:
    scene.scope.cancel()


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (_finish, ("closed", "no-error", "finished", "finished")),
        (_say_goodbye_rudely, ("closed-with-reset", "target-reset", "finished", "reset-by-target")),
        (_break_target, ("broken", "target-reset", "reset-by-target", "reset-by-target")),
        (_reset, ("broken", "target-reset", "reset-by-application", "reset-by-application")),
        (_denied, ("broken", "identity-denied", "lost", "lost")),
        (_cancel, ("broken", "going-away", "lost", "lost")),
    ],
)
async def test_one_outcome_with_all_that_was_moved_whatever_ended_it(
    nursery: trio.Nursery,
    target: Target,
    lines: Callable[[], list[tuple[object, ...]]],
    end: Callable[[Scene, MuxStream, trio.SocketStream], Awaitable[None]],
    outcome: tuple[str, ...],
) -> None:
    scene = await Scene.start(nursery, target.address)
    stream = await scene.client.open_stream()
    async with await target.accept() as server:
        assert lines() == [OPEN]
        await talk(stream, server)
        await end(scene, stream, server)
        await eventually(lambda: len(lines()) > 1)
    await trio.testing.wait_all_tasks_blocked()
    assert lines() == [OPEN, (*outcome, 5, 7)]
    nursery.cancel_scope.cancel()


async def test_all_events_of_a_stream_say_where_it_comes_from_and_the_last_what_was_dialed(
    nursery: trio.Nursery, target: Target
) -> None:
    port = target.address.port
    scene = await Scene.start(nursery, HostPort("localhost", port))
    stream = await scene.client.open_stream()
    async with await target.accept() as server:
        await _finish(scene, stream, server)
        await eventually(lambda: isinstance(scene.events[-1], StreamClosed))
    refused = scene.client.open_stream_nowait()
    scene.service.session_refused(7, Reason.LIMIT, scene.origin)
    about = [one for one in scene.events if isinstance(one, StreamOpened | StreamClosed | StreamNotConnected)]
    assert {(one.route, one.client_address) for one in about} == {("tcp at relay.example", "192.0.2.7")}
    assert [one.address for one in about if isinstance(one, StreamClosed)] == [f"127.0.0.1:{port}"]
    refused.reset(Reason.CANCELLED)
    nursery.cancel_scope.cancel()


async def test_a_stream_is_connected_to_the_port_that_it_is_for_and_to_no_other(
    nursery: trio.Nursery, target: Target
) -> None:
    """A peer's number only chooses among the ports of the connector's own connection string."""
    port = target.address.port
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as closed_to_clients:
        other = closed_to_clients.socket.getsockname()[1]
        nothing = 1 if other != 1 else 2
        scene = await Scene.start(nursery, HostPorts("127.0.0.1", PortSet([(nothing, nothing), (port, port)])))
        stream = await scene.client.open_stream(metadata=port_metadata(port))
        async with await target.accept() as server:
            await talk(stream, server)
            await _finish(scene, stream, server)
            await eventually(lambda: isinstance(scene.events[-1], StreamClosed))
        scene.events.clear()
        with pytest.raises(StreamRefused, match=f"this hybrid connection has no port {other}") as caught:
            await scene.client.open_stream(metadata=port_metadata(other))
        assert caught.value.reason is Reason.PORT_NOT_PUBLISHED
        opened, refused = scene.events
    assert isinstance(opened, StreamOpened)
    assert isinstance(refused, StreamNotConnected)
    assert (opened.target, refused.target) == (f"127.0.0.1:{other}",) * 2
    assert (refused.reason, f"{nothing},{port}" in refused.detail) == (Reason.PORT_NOT_PUBLISHED, True)
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="needs many loopback addresses, and full backlogs")
async def test_in_parallel_the_record_names_the_address_that_was_used(
    nursery: trio.Nursery, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a staggered race, the address that does not answer would be in the way."""
    monkeypatch.setattr(connecting, "STAGGER_SECONDS", 3600)
    port = target.address.port
    silent = f"127.{random.randrange(1, 64)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    trio.socket.set_custom_hostname_resolver(FixedResolver(silent, "127.0.0.1"))
    with silent_listener(silent, port):
        scene = await Scene.start(nursery, HostPorts("db.example", PortSet([(port, port), (port + 1, port + 1)])))
        scene.published.connects_in_parallel = True
        stream = await scene.client.open_stream(metadata=port_metadata(port))
        async with await target.accept() as server:
            await talk(stream, server)
            assert [one.addresses for one in scene.service] == [("127.0.0.1",)], "what the policy decides about"
            await _finish(scene, stream, server)
            await eventually(lambda: isinstance(scene.events[-1], StreamClosed))
    assert [one.address for one in scene.events if isinstance(one, StreamClosed)] == [f"127.0.0.1:{port}"]
    nursery.cancel_scope.cancel()


async def test_each_port_is_decided_about_by_itself(nursery: trio.Nursery, target: Target) -> None:
    port = target.address.port
    denied = port - 1
    policy = Policy(files=(parse_policy_file("10.toml", f"AllowedTargets = ['127.0.0.1:{port}']"),))
    scene = await Scene.start(nursery, HostPorts("127.0.0.1", PortSet([(denied, port)])), policy)
    with pytest.raises(StreamRefused) as caught:
        await scene.client.open_stream()  # for the first port
    assert caught.value.reason is Reason.DENIED_BY_POLICY
    (refusal,) = [one for one in scene.events if isinstance(one, PolicyRefused)]
    assert refusal.detail == f"AllowedTargets (10.toml:1) does not allow 127.0.0.1:{denied}"
    stream = await scene.client.open_stream(metadata=port_metadata(port))
    async with await target.accept() as server:
        await talk(stream, server)
    nursery.cancel_scope.cancel()


async def test_a_policy_that_requires_an_audit_log_refuses_streams_without_one(
    nursery: trio.Nursery, target: Target
) -> None:
    policy = Policy(files=(parse_policy_file("10.toml", "RequireAudit = ['file']"),))
    scene = await Scene.start(nursery, target.address, policy)
    with pytest.raises(StreamRefused) as caught:
        await scene.client.open_stream()
    assert caught.value.reason is Reason.AUDIT_UNAVAILABLE
    (refused,) = [one for one in scene.events if isinstance(one, StreamNotConnected)]
    assert refused.detail == "the policy requires an audit log (file)"
    nursery.cancel_scope.cancel()


async def test_the_line_is_written_before_the_target_is_dialed(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[tuple[object, ...]]]
) -> None:
    async def open_target(_: HostPort, **options: object) -> trio.SocketStream:
        assert lines() == [OPEN]
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(served_stream, "open_target", open_target)
    scene = await Scene.start(nursery, HostPort("db", 1))
    stream = scene.client.open_stream_nowait()
    await eventually(lambda: bool(lines()))
    stream.reset(Reason.CANCELLED)
    await eventually(lambda: len(lines()) > 1)
    assert lines() == [OPEN, ("refused", "cancelled", None, None, 0, 0)]
    nursery.cancel_scope.cancel()


async def test_a_connector_that_goes_away_while_it_dials_says_so(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[tuple[object, ...]]]
) -> None:
    async def open_target(_: HostPort, **options: object) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(served_stream, "open_target", open_target)
    scene = await Scene.start(nursery, HostPort("db", 1))
    stream = scene.client.open_stream_nowait()
    await eventually(lambda: bool(lines()))
    scene.scope.cancel()
    await scene.over.wait()
    assert lines() == [OPEN, ("refused", "going-away", None, None, 0, 0)]
    with pytest.raises(StreamRefused) as refused:
        await stream.wait_opened()
    assert refused.value.reason is Reason.GOING_AWAY
    assert scene.attempts == []
    nursery.cancel_scope.cancel()


async def test_a_policy_that_changes_when_the_target_has_just_been_connected_ends_the_stream(
    nursery: trio.Nursery, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is too late to cancel the attempt, and there is no bridge yet that could be cut off."""

    async def open_target(*args: Any, **options: Any) -> trio.SocketStream:
        connected = await targets.open_target(*args, **options)
        scene.policy = Policy(frozenset({"shop"}))
        scene.service.enforce()
        return connected

    monkeypatch.setattr(served_stream, "open_target", open_target)
    scene = await Scene.start(nursery, target.address)
    with pytest.raises(StreamRefused) as refused:
        await scene.client.open_stream()
    assert refused.value.reason is Reason.IDENTITY_DENIED
    async with await target.accept() as server:
        with pytest.raises(trio.BrokenResourceError):  # it is reset, and has got no bytes
            await server.receive_some()
    assert len(scene.service) == 0
    opened, denied, refusal = scene.events
    assert isinstance(opened, StreamOpened)
    assert isinstance(denied, PolicyRefused)
    assert isinstance(refusal, StreamNotConnected)
    assert (denied.detail, refusal.detail, refusal.reason) == (*["deny list: label shop"] * 2, Reason.IDENTITY_DENIED)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("why", ["policy", "target", "bug"])
async def test_a_refusal_is_reported_to_both(
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    lines: Callable[[], list[tuple[object, ...]]],
    why: str,
) -> None:
    nobody = HostPort("127.0.0.1", free_port())
    expected = {"policy": Reason.IDENTITY_DENIED, "target": Reason.TARGET_REFUSED, "bug": Reason.INTERNAL_ERROR}[why]
    if why == "bug":

        async def open_target(_: HostPort, **options: object) -> trio.SocketStream:
            raise RuntimeError("a bug")

        monkeypatch.setattr(served_stream, "open_target", open_target)
    scene = await Scene.start(nursery, nobody, Policy(frozenset({"shop"})) if why == "policy" else None)
    with pytest.raises(StreamRefused) as refused:
        await scene.client.open_stream()
    assert refused.value.reason is expected
    assert lines() == [OPEN, ("refused", expected.slug, None, None, 0, 0)]
    assert scene.attempts == ([expected] if why == "target" else []), "anything else says nothing about the target"
    nursery.cancel_scope.cancel()


async def test_what_is_open_for_days_is_reported_each_day(nursery: trio.Nursery, target: Target) -> None:
    scene = await Scene.start(nursery, target.address)
    streams = [await scene.client.open_stream() for _ in range(2)]
    servers = [await target.accept() for _ in range(2)]
    assert scene.attempts == [None, None]
    await talk(streams[0], servers[0])
    await eventually(lambda: len(scene.events) == 2)

    def reported() -> list[tuple[int, int, float]]:
        found = [one for one in scene.events if isinstance(one, StreamStillOpen)]
        return sorted((one.bytes_to_target, one.bytes_to_client, one.seconds) for one in found)

    scene.now += REPEAT_SECONDS - 1
    scene.service.report_open()
    assert reported() == []
    await _finish(scene, streams[1], servers[1])
    await eventually(lambda: len(scene.events) == 3)
    for _ in range(3):
        scene.now += REPEAT_SECONDS
        scene.service.report_open()
        scene.service.report_open()
    assert reported() == [(5, 7, (day + 1) * REPEAT_SECONDS - 1) for day in (1, 2, 3)]
    for server in servers:
        await server.aclose()
    nursery.cancel_scope.cancel()


async def test_a_stream_that_is_being_connected_is_not_reported_as_open(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_target(_: HostPort, **options: object) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(served_stream, "open_target", open_target)
    scene = await Scene.start(nursery, HostPort("db", 1))
    scene.client.open_stream_nowait()
    await eventually(lambda: len(scene.events) == 1)
    scene.now += 2 * REPEAT_SECONDS
    scene.service.report_open()
    assert len(scene.events) == 1
    nursery.cancel_scope.cancel()


async def test_both_events_of_a_stream_have_an_id_that_no_other_stream_has(
    nursery: trio.Nursery, target: Target
) -> None:
    scene = await Scene.start(nursery, target.address, Policy(frozenset({"shop"})))
    for _ in range(3):
        with pytest.raises(StreamRefused):
            await scene.client.open_stream()
    await eventually(lambda: len(scene.events) == 9)
    refused = [event.activity_id for event in scene.events if isinstance(event, events.PolicyRefused)]
    assert refused == ["5e55-1", "5e55-3", "5e55-5"]
    ids = [event.activity_id for event in scene.events if isinstance(event, StreamOpened | events.StreamNotConnected)]
    assert sorted(map(ids.count, set(ids))) == [2, 2, 2]
    assert set(ids) == {"5e55-1", "5e55-3", "5e55-5"}
    nursery.cancel_scope.cancel()


async def test_an_application_that_acknowledges_nothing_does_not_delay_the_last_line(
    nursery: trio.Nursery, target: Target, autojump_clock: trio.testing.MockClock
) -> None:
    """Its seconds are the time until the connection to the target was closed."""
    scene = await Scene.start(nursery, target.address, channels=(channels := trio.testing.memory_stream_pair()))
    stream = await scene.client.open_stream()
    async with await target.accept() as server:
        await stream.send_eof()
        assert await server.receive_some() == b""
        channels[0].send_stream.send_all_hook = None  # from here on, nothing from the application arrives
        scene.now += 7.0
        await server.send_eof()
    while len(scene.service):
        await trio.sleep(0.01)
    assert not [event for event in scene.events if isinstance(event, StreamClosed)]
    scene.now += 100.0
    await trio.sleep(5.5)
    (end,) = [event for event in scene.events if isinstance(event, StreamClosed)]
    assert (end.outcome, end.reason, end.to_target, end.to_client, end.seconds) == (
        "unconfirmed", Reason.NO_ERROR, "finished", "unconfirmed", 7.0,
    )  # fmt: skip
    scene.server.close(Reason.SESSION_LOST)
    await trio.sleep(60)
    assert sum(isinstance(event, StreamClosed) for event in scene.events) == 1
    nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="a listener that is silent, and many loopback addresses")
async def test_only_the_address_at_which_a_named_instance_is_dialed_counts(nursery: trio.Nursery) -> None:
    """The policy may deny other addresses of its host, which were only asked for its port, while it is dialed."""
    here, other = (f"127.{random.randrange(1, 64)}.{random.randrange(256)}.{end}" for end in (1, 2))
    trio.socket.set_custom_hostname_resolver(FixedResolver(here, other, kind=socket.SOCK_DGRAM))
    with (
        trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as browser,
        socket.socket() as reserved,
    ):
        await browser.bind((here, 0))
        reserved.bind((here, 0))
        port = reserved.getsockname()[1]
        reserved.close()
        with silent_listener(here, port):

            async def answer() -> None:
                while True:
                    _, peer = await browser.recvfrom(2048)
                    text = f"ServerName;SQL01;InstanceName;X;IsClustered;No;Version;15.0;tcp;{port};;".encode()
                    await browser.sendto(b"\x05" + len(text).to_bytes(2, "little") + text, peer)

            nursery.start_soon(answer)
            instances = NamedInstances(browser.getsockname()[1])
            scene = await Scene.start(nursery, NamedInstance("sql.example", "X"), named_instances=instances)
            refusals: list[Reason] = []

            async def open_stream() -> None:
                with pytest.raises(StreamRefused) as refused:
                    await scene.client.open_stream()
                refusals.append(refused.value.reason)

            nursery.start_soon(open_stream)

            def dialed() -> set[str]:
                return {str(one.dialed) for one in scene.service}

            await eventually(lambda: dialed() == {f"sql.example:{port}"})
            for denied, ends in ((other, False), (here, True)):
                scene.policy = Policy(files=(parse_policy_file("10.toml", f"DeniedTargets = ['{denied}:*']"),))
                scene.service.enforce()
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert bool(refusals) is ends
    assert refusals == [Reason.DENIED_BY_POLICY]
    nursery.cancel_scope.cancel()
