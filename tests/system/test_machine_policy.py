"""The policy of the machine, with a real relay, connector, client and target: what is refused, and what is ended."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import pytest
import trio

from hybridrelay.client import Client, ClientConfig, open_client, run_forward
from hybridrelay.client.session import ClientSession
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.endpoint import RelayEndpoint
from hybridrelay.connectivity.string_changes import StringChanges
from hybridrelay.connector import Connector, ConnectorConfig, PolicyFile
from hybridrelay.errors import ConfigurationError, DeniedByPolicy, HybridRelayError, StreamRefused
from hybridrelay.events import (
    ConnectionAllowed,
    ConnectionDenied,
    DatagramsDenied,
    Event,
    EventStream,
    PolicyInForce,
    PolicyNotReloaded,
    PolicyRefused,
    SessionLost,
    StreamClosed,
    StreamNotConnected,
)
from hybridrelay.mux import MuxStream
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, HostPort, KeySlot, Protocols, Role
from hybridrelay.streams import connecting
from hybridrelay.streams.exact import receive_exactly
from hybridrelay.streams.name_lookups import AddressInfo, Purpose

from ..keys import key_of
from ..resets import reset_reason
from ..waiting import async_wait_until
from .deployment import Deployment, Published, echo, serve_target

E = TypeVar("E", bound=Event)

SECONDS = 30
DENIED = Reason.DENIED_BY_POLICY


@attrs.define
class Scene:
    """A connector whose policy the test writes."""

    deployment: Deployment
    nursery: trio.Nursery
    published: Published
    target: HostPort
    #: The machine-wide directory. It does not exist at first.
    directory: Path
    events: list[Event] = attrs.field(factory=list)

    def write(self, text: str, name: str = "10.toml") -> None:
        self.directory.mkdir(mode=0o755, exist_ok=True)
        new = self.directory / f"{name}.new"
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self.directory / name)

    async def start(self, *more: Published, **options: object) -> Connector:
        strings = [
            self.deployment.string(published, Role.CONNECTOR, self.target) for published in (self.published, *more)
        ]
        config = ConnectorConfig(strings, **options)  # type: ignore[arg-type]
        connector = Connector(config, events=EventStream(self.events.append))
        await self.nursery.start(connector.run)
        return connector

    def client(self, label: str = "lab") -> AbstractAsyncContextManager[Client]:
        return self.deployment.client(self.deployment.string(self.published, Role.APPLICATION, label=label))

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        async def is_true() -> bool:
            return bool(condition())

        await async_wait_until(is_true, seconds=SECONDS, what="what the test waits for")


@pytest.fixture
async def scene(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    directory = tmp_path / "policy.d"
    monkeypatch.setattr("hybridrelay.policy.machine.DIRECTORY", directory)
    monkeypatch.setattr("hybridrelay.policy.machine.OWNER", os.getuid())
    target = await serve_target(nursery, echo)
    return Scene(deployment, nursery, deployment.publish(), target, directory)


async def opened(client: Client, count: int) -> list[MuxStream]:
    streams = [await client.open_stream() for _ in range(count)]
    for stream in streams:
        await stream.send_all(b"ping")
        assert await receive_exactly(stream, 4) == b"ping"
    return streams


async def works(stream: MuxStream) -> None:
    with trio.fail_after(SECONDS):
        await stream.send_all(b"pong")
        assert await receive_exactly(stream, 4) == b"pong"


async def is_reset(stream: MuxStream) -> Reason | None:
    with trio.fail_after(SECONDS), pytest.raises(trio.BrokenResourceError) as caught:
        await stream.receive_some()
    return reset_reason(caught.value)


async def refusal(client: Client) -> HybridRelayError:
    with trio.fail_after(SECONDS), pytest.raises(HybridRelayError) as caught:
        await client.open_stream(patience=SECONDS)
    return caught.value


async def test_a_policy_that_denies_what_is_open_closes_it(nursery: trio.Nursery, scene: Scene) -> None:
    """Twenty streams of one application end, and those of another one continue."""
    await scene.start()
    async with scene.client("bad") as bad, scene.client("good") as good:
        lost, kept = await opened(bad, 20), await opened(good, 1)

        scene.write("\nDeniedIdentities = ['bad']\n")

        assert [await is_reset(stream) for stream in lost] == [Reason.IDENTITY_DENIED] * 20
        assert (await refusal(bad)).reason is Reason.IDENTITY_DENIED
        await works(kept[0])
    rule = f"DeniedIdentities: label bad ({scene.directory}/10.toml:2)"
    assert {event.detail for event in scene.of(PolicyRefused)} == {rule}
    nursery.cancel_scope.cancel()


async def test_a_target_that_is_denied_is_left_and_the_client_is_told(nursery: trio.Nursery, scene: Scene) -> None:
    await scene.start()
    async with scene.client() as client:
        streams = await opened(client, 20)

        scene.write(f"DeniedTargets = ['*:{scene.target.port}']\n")

        assert [await is_reset(stream) for stream in streams] == [DENIED] * 20
        assert (await refusal(client)).reason is DENIED
        ends = scene.of(StreamClosed)
        assert [event.reason for event in ends] == [DENIED] * 20

        (scene.directory / "10.toml").unlink()
        await scene.until(lambda: len(scene.of(PolicyInForce)) == 2)
        (stream,) = await opened(client, 1)
        await works(stream)
    added, removed = scene.of(PolicyInForce)
    rule = f"DeniedTargets *:{scene.target.port} ({scene.directory}/10.toml:1)"
    assert (added.files, added.rules, added.added, added.removed) == (1, 1, (rule,), ())
    assert (removed.files, removed.rules, removed.added, removed.removed) == (0, 0, (), (rule,))
    nursery.cancel_scope.cancel()


async def test_the_address_is_checked_that_is_dialed(
    nursery: trio.Nursery, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves differently each time leads only to addresses that were checked."""
    answers = [["192.0.2.1"], ["127.0.0.1", "192.0.2.1"], ["127.0.0.1"]]
    asked = 0

    async def resolve(host: str, port: int, **_options: Purpose) -> list[AddressInfo]:
        nonlocal asked
        asked += 1
        found = answers.pop(0)
        return [info for address in found for info in await real(address, port)]

    real = connecting.resolve_host
    scene.target = HostPort("rebinding.example", scene.target.port)
    scene.write("AllowedTargets = ['127.0.0.1:*']\n")
    await scene.start()
    async with scene.client() as client:
        await client.connect()
        monkeypatch.setattr(connecting, "resolve_host", resolve)

        refused = await refusal(client)
        assert isinstance(refused, StreamRefused)
        assert refused.reason is DENIED
        assert "192.0.2.1" not in str(refused)
        for _ in range(2):
            (stream,) = await opened(client, 1)
            await works(stream)
    assert asked == 3
    (event,) = scene.of(StreamNotConnected)
    assert event.detail == (
        f"AllowedTargets ({scene.directory}/10.toml:1) does not allow {scene.target} at 192.0.2.1"
    )
    nursery.cancel_scope.cancel()


async def test_a_network_that_is_denied_ends_streams_to_names(nursery: trio.Nursery, scene: Scene) -> None:
    scene.target = HostPort("localhost", scene.target.port)
    await scene.start()
    async with scene.client() as client:
        (stream,) = await opened(client, 1)

        scene.write("DeniedTargets = ['127.0.0.0/8:*', '[::1]:*']\n")

        assert await is_reset(stream) is DENIED
        assert (await refusal(client)).reason is DENIED
    nursery.cancel_scope.cancel()


async def test_limits_of_streams(nursery: trio.Nursery, scene: Scene) -> None:
    """The oldest streams stay when a limit is lowered."""
    scene.write("MaxStreams = 5\nMaxStreamsPerLabel = 3\n")
    connector = await scene.start()
    async with scene.client("one") as one, scene.client("two") as two:
        ours = await opened(one, 3)
        assert (await refusal(one)).reason is DENIED
        theirs = await opened(two, 2)
        assert (await refusal(two)).reason is DENIED

        scene.write("MaxStreams = 3\nMaxStreamsPerLabel = 2\n")

        assert [await is_reset(ours[2]), await is_reset(theirs[1])] == [DENIED, DENIED]
        for stream in (*ours[:2], theirs[0]):
            await works(stream)
        await ours[0].aclose()
        # The end of a stream of one session and the beginning of one of another may arrive in any order.
        await scene.until(lambda: connector.snapshot().stream_count == 2)
        await opened(two, 1)
    kinds = [event.rule for event in scene.of(PolicyRefused)]
    assert kinds == ["max-streams-per-label", "max-streams", "max-streams-per-label", "max-streams"]
    nursery.cancel_scope.cancel()


async def test_the_end_of_the_allowed_hours_ends_what_is_open(
    nursery: trio.Nursery, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write("AllowedHours = ['Mon-Fri 08:00-18:00']\n")
    connector = await scene.start()
    now = dt.datetime(2026, 3, 6, 17, 59, 59)  # noqa: DTZ001 - local time; a Friday
    connector._sessions.streams.local_time = lambda: now
    async with scene.client() as client:
        (stream,) = await opened(client, 1)

        now = dt.datetime(2026, 3, 6, 18, 0)  # noqa: DTZ001

        assert await is_reset(stream) is DENIED
        assert (await refusal(client)).reason is DENIED
        now = dt.datetime(2026, 3, 9, 8, 0)  # noqa: DTZ001
        await opened(client, 1)
    nursery.cancel_scope.cancel()


async def open_if_allowed(client: Client) -> MuxStream | None:
    try:
        return await client.open_stream(patience=SECONDS)
    except DeniedByPolicy:
        return None


@pytest.mark.parametrize(
    "rule", ["AllowHybridConnections = false", "AllowedRelays = ['relay.example']", "AllowedAuthorities = []"]
)
async def test_a_connection_that_is_denied_as_a_whole_is_not_registered(
    nursery: trio.Nursery, scene: Scene, rule: str
) -> None:
    """It ends when the policy changes, and comes back when the policy allows it again, without a restart."""
    connector = await scene.start()
    async with scene.client() as client:
        streams = await opened(client, 2)

        scene.write(f"{rule}\n")

        assert [await is_reset(stream) for stream in streams] == [DENIED] * 2
        await scene.until(lambda: not any(one.relays for one in connector.snapshot().connections))
        (denied,) = scene.of(ConnectionDenied)
        assert f"({scene.directory}/10.toml:1)" in denied.detail
        scene.write("AllowHybridConnections = true\n")
        await scene.until(lambda: scene.of(ConnectionAllowed))
        # The client reads the policy, too, and may do so later than the connector.
        opened_again = partial(open_if_allowed, client)
        stream = await async_wait_until(opened_again, seconds=SECONDS, what="the client may open a stream")
        await works(stream)
    scene.write(f"{rule}\n")
    with pytest.raises(DeniedByPolicy, match=r"db is denied by policy: .*10\.toml:1"):
        await scene.start()
    nursery.cancel_scope.cancel()


async def test_one_of_two_is_denied(nursery: trio.Nursery, scene: Scene) -> None:
    other = scene.deployment.publish("other")
    digest = _digest(other)
    scene.write(f"AllowedAuthorities = ['{digest}']\n")
    connector = await scene.start(other)

    assert [one.connection for one in scene.of(ConnectionDenied)] == ["db"]
    assert [bool(one.relays) for one in connector.snapshot().connections] == [False, True]
    (scene.directory / "10.toml").unlink()
    await scene.until(lambda: all(one.relays for one in connector.snapshot().connections))
    async with scene.client() as client:
        (stream,) = await opened(client, 1)
        await works(stream)
    connector.withdraw(0)
    scene.write("AllowHybridConnections = false\n")
    await scene.until(lambda: len(scene.of(ConnectionDenied)) == 2)
    connector.withdraw(1)
    nursery.cancel_scope.cancel()


def _digest(published: Published) -> str:
    import hashlib

    return hashlib.sha256(published.authority.certificate).hexdigest()


async def test_a_target_that_is_denied_is_not_published(nursery: trio.Nursery, scene: Scene) -> None:
    scene.write(f"DeniedTargets = ['{scene.target}']\n")
    with pytest.raises(
        DeniedByPolicy, match=r'DeniedTargets "127\.0\.0\.1:\d+" \(.*10\.toml:1\) denies 127'
    ) as caught:
        await scene.start()
    assert caught.value.reason is DENIED
    nursery.cancel_scope.cancel()


async def test_a_changed_connection_string_may_not_name_a_target_that_is_denied(
    nursery: trio.Nursery, scene: Scene
) -> None:
    scene.write("DeniedTargets = ['*:22']\n")
    connector = await scene.start()
    string = scene.deployment.string(scene.published, Role.CONNECTOR, HostPort("127.0.0.1", 22))
    with pytest.raises(DeniedByPolicy, match="DeniedTargets"):
        connector.update(0, attrs.evolve(string, identity=connector._published[0].string.identity))
    assert connector._published[0].target == scene.target
    nursery.cancel_scope.cancel()


async def test_a_policy_that_cannot_be_read_changes_nothing(nursery: trio.Nursery, scene: Scene) -> None:
    scene.write("MaxStreams = 1\n")
    await scene.start()
    async with scene.client() as client:
        await opened(client, 1)

        scene.write("MaxStream = 5\n")
        await scene.until(lambda: scene.of(PolicyNotReloaded))
        assert (await refusal(client)).reason is DENIED

        scene.write("MaxStreams = 2\n")
        await scene.until(lambda: len(scene.of(PolicyInForce)) == 2)
        await opened(client, 1)

        (scene.directory / "10.toml").unlink()
        scene.directory.rmdir()
        await scene.until(lambda: len(scene.of(PolicyNotReloaded)) == 2)
        assert (await refusal(client)).reason is DENIED
    details = [event.detail for event in scene.of(PolicyNotReloaded)]
    assert details[0].endswith("10.toml:1: unknown key 'MaxStream'")
    assert "has disappeared" in details[1]
    scene.write("MaxStream = 5\n")
    with pytest.raises(ConfigurationError, match="unknown key"):
        await scene.start()
    nursery.cancel_scope.cancel()


async def test_further_directories_and_the_deny_list_only_restrict(
    nursery: trio.Nursery, scene: Scene, tmp_path: Path
) -> None:
    scene.write("MaxStreams = 1\n")
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.toml").write_text("MaxStreams = 10\nDeniedIdentities = ['second']\n")
    (tmp_path / "deny").write_text("third\n")
    connector = await scene.start(policy_directories=[more], policy=PolicyFile(tmp_path / "deny"))
    async with scene.client() as first:
        await opened(first, 1)
        assert (await refusal(first)).reason is DENIED
    for label in ("second", "third"):
        async with scene.client(label) as client:
            assert (await refusal(client)).reason is Reason.IDENTITY_DENIED
    rules = {event.detail for event in scene.of(PolicyRefused)}
    assert f"deny list: label third ({tmp_path}/deny:1)" in rules
    # SIGHUP reads everything again.
    (more / "a.toml").write_text("")
    await connector.reload_policy()
    async with scene.client("second") as client:
        await opened(client, 1)
    nursery.cancel_scope.cancel()


async def test_the_health_check_dials_only_what_is_allowed(nursery: trio.Nursery, scene: Scene) -> None:
    connector = await scene.start()
    scene.write("DeniedTargets = ['127.0.0.0/8:*']\n")
    await scene.until(lambda: scene.of(PolicyInForce))

    (check,) = await connector.check_targets()

    assert (check.ok, check.reason) == (False, "denied-by-policy")
    nursery.cancel_scope.cancel()


def has_denial(connector: Connector, rule: str) -> bool:
    (connection,) = connector.snapshot().connections
    return rule in connection.denial if rule else not connection.denial


async def test_the_status_shows_what_is_denied(nursery: trio.Nursery, scene: Scene) -> None:
    connector = await scene.start()
    assert has_denial(connector, "")
    for text, rule in (
        ("AllowHybridConnections = false\n", "AllowHybridConnections = false"),
        ("AllowedRelays = ['relay.example']\n", "AllowedRelays"),
        ("DeniedTargets = ['*:*']\n", "DeniedTargets"),
        ("", ""),
    ):
        scene.write(text)
        await scene.until(partial(has_denial, connector, rule))
    nursery.cancel_scope.cancel()


# --- the application's side


async def test_a_client_whose_machine_denies_it_ends_and_comes_back(scene: Scene, nursery: trio.Nursery) -> None:
    """Connector and client are on the same machine here, so the rule is about what only clients do."""
    await scene.start()
    happened: list[Event] = []
    string = scene.deployment.string(scene.published, Role.APPLICATION)
    async with open_client(string, events=EventStream(happened.append)) as client:
        forward = partial(run_forward, client, [("127.0.0.1", 0)])
        (address,) = await nursery.start(forward)
        async with await trio.open_tcp_stream(*address) as application:
            await application.send_all(b"ping")
            assert await receive_exactly(application, 4) == b"ping"

            scene.write("AllowedForwardAddresses = ['[::1]:*']\n")

            with trio.fail_after(SECONDS), pytest.raises(trio.BrokenResourceError):
                await application.receive_some()
        denied = await refusal(client)
        assert denied.reason is DENIED
        rule = f"AllowedForwardAddresses ({scene.directory}/10.toml:1) does not allow 127.0.0.1:{address[1]}"
        assert str(denied) == f"db is denied by policy: {rule}"
        scene.write("AllowedForwardAddresses = ['127.0.0.0/8:*']\n")
        await scene.until(lambda: [one for one in happened if isinstance(one, ConnectionAllowed)])
        (stream,) = await opened(client, 1)
        await works(stream)
        scene.write("AllowedForwardAddresses = ['[::1]:*']\n")
        assert await is_reset(stream) is DENIED
    assert [one.rule for one in happened if isinstance(one, ConnectionDenied)] == ["allowed-forward-addresses"] * 2
    nursery.cancel_scope.cancel()


async def test_a_session_that_was_being_opened_when_the_policy_changed_is_not_used(
    scene: Scene, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.start()
    scene.directory = scene.directory.with_name("policy-of-the-client.d")
    monkeypatch.setattr("hybridrelay.policy.machine.DIRECTORY", scene.directory)
    happened: list[Event] = []
    string = scene.deployment.string(scene.published, Role.APPLICATION)
    begun, goes_on = trio.Event(), trio.Event()
    async with open_client(string, events=EventStream(happened.append)) as client:
        open_session = client._sessions.open

        async def open_late(*args: Any, **kwargs: Any) -> ClientSession:
            begun.set()
            await goes_on.wait()
            return await open_session(*args, **kwargs)

        monkeypatch.setattr(client._sessions, "open", open_late)
        refused: list[HybridRelayError] = []

        async def use() -> None:
            refused.append(await refusal(client))

        async with trio.open_nursery() as using:
            using.start_soon(use)
            await begun.wait()
            scene.write("AllowHybridConnections = false\n")
            await scene.until(lambda: [one for one in happened if isinstance(one, ConnectionDenied)])
            goes_on.set()
        assert refused[0].reason is DENIED
        await scene.until(lambda: [one.reason for one in happened if isinstance(one, SessionLost)] == [DENIED])
    nursery.cancel_scope.cancel()


async def test_a_local_port_that_is_denied_is_not_opened(scene: Scene, nursery: trio.Nursery) -> None:
    await scene.start()
    scene.write("AllowedForwardAddresses = ['127.0.0.1:1']\n")
    async with scene.client() as client:
        with pytest.raises(DeniedByPolicy, match=r"AllowedForwardAddresses .* does not allow 127\.0\.0\.1:"):
            await nursery.start(run_forward, client, [("127.0.0.1", 0)])
        assert client.listening == ()
        await opened(client, 1)
    nursery.cancel_scope.cancel()


async def test_a_local_port_closes_although_another_one_of_the_client_is_denied(
    scene: Scene, nursery: trio.Nursery
) -> None:
    await scene.start()
    happened: list[Event] = []
    string = scene.deployment.string(scene.published, Role.APPLICATION)
    async with open_client(string, events=EventStream(happened.append)) as client:
        (denied,) = await nursery.start(run_forward, client, [("127.0.0.1", 0)])
        async with trio.open_nursery() as closing:
            (allowed,) = await closing.start(run_forward, client, [("127.0.0.1", 0)])
            scene.write(f"AllowedForwardAddresses = ['127.0.0.1:{allowed[1]}']\n")
            await scene.until(lambda: [one for one in happened if isinstance(one, ConnectionDenied)])
            closing.cancel_scope.cancel()
        assert client.listening == (f"127.0.0.1:{denied[1]}",)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rule", ["AllowedRelays = ['relay.example']", "AllowedAuthorities = []"])
async def test_a_client_may_not_use_what_is_denied(scene: Scene, nursery: trio.Nursery, rule: str) -> None:
    scene.write(f"{rule}\n")

    with pytest.raises(DeniedByPolicy, match="does not allow"):
        async with scene.client():
            pass
    nursery.cancel_scope.cancel()


async def test_datagrams_that_are_denied_are_reported_once(nursery: trio.Nursery, scene: Scene) -> None:
    """Streams to the same target are allowed all the time."""
    scene.target = attrs.evolve(scene.target, protocols=Protocols.BOTH)
    scene.write("MaxStreams = 9\n")
    connector = await scene.start()

    def denial() -> str:
        (one,) = connector.snapshot().connections
        return one.denial

    (denied,) = scene.of(DatagramsDenied)
    assert (denied.connection, denied.target) == ("db", str(scene.target))
    assert (
        denied.remedy == f"to allow datagrams, set AllowUdp = true in the policy of this machine, {scene.directory}"
    )
    assert denial() == denied.detail
    assert [one.denial_remedy for one in connector.snapshot().connections] == [denied.remedy]
    scene.write("MaxStreams = 8\n")
    await scene.until(lambda: len(scene.of(PolicyInForce)) == 2)
    scene.write("AllowUdp = true\n")
    await scene.until(lambda: not denial())
    assert len(scene.of(DatagramsDenied)) == 1
    scene.write("AllowUdp = false\n")
    await scene.until(lambda: len(scene.of(DatagramsDenied)) == 2)
    assert scene.of(DatagramsDenied)[1].detail == f"AllowUdp = false ({scene.directory}/10.toml:1)"
    assert all(one.is_registered for one in connector.snapshot().connections)
    nursery.cancel_scope.cancel()


class RelayWithKey:
    """The control channel of a relay that gives the program a new key."""

    def __init__(self, scene: Scene, *, of: Role) -> None:
        rule = scene.published.rules[0 if of is Role.CONNECTOR else 1]
        self.key = key_of(rule, KeySlot.SECONDARY)
        self.message = control.Key(scene.published.name, rule.name, 2, self.key.reveal())
        string = scene.deployment.string(scene.published, of)
        (self.endpoint,) = RelayEndpoint.all_from(string, clock=time.time)
        self.answers: list[control.KeptState] = []

    async def send(self, message: control.KeyKept) -> None:
        await trio.lowlevel.checkpoint()
        self.answers.append(message.state)

    async def give(self, changes: StringChanges) -> None:
        handle = changes.handler(cast(ControlChannel, self), self.endpoint, self.message, [])
        assert handle is not None
        await handle()
        assert self.answers == [control.KeptState.KEPT]


async def test_a_connector_that_is_denied_while_it_stores_a_new_key_has_that_key(
    nursery: trio.Nursery, scene: Scene
) -> None:
    """The relay then revokes the earlier one, so it has to be the new one that is used when the policy allows it."""

    async def store(_before: ConnectionString, _after: ConnectionString) -> str:
        scene.write("AllowHybridConnections = false\n")
        await scene.until(lambda: scene.of(ConnectionDenied))
        return ""

    connector = await scene.start(keep_string=store)
    published = connector._published[0]
    assert published.changes is not None
    relay = RelayWithKey(scene, of=Role.CONNECTOR)
    await relay.give(published.changes)
    assert published.string.key == relay.key
    assert not published.is_registered
    scene.write("")
    await scene.until(lambda: published.uses_current_key)
    nursery.cancel_scope.cancel()


async def test_a_client_that_is_denied_while_it_stores_a_new_key_has_that_key(
    nursery: trio.Nursery, scene: Scene
) -> None:
    published: list[Event] = []

    async def until(kind: type[Event]) -> None:
        await scene.until(lambda: any(isinstance(event, kind) for event in published))

    async def store(_before: ConnectionString, _after: ConnectionString) -> str:
        scene.write("AllowHybridConnections = false\n")
        await until(ConnectionDenied)
        return ""

    connector = await scene.start()
    string = scene.deployment.string(scene.published, Role.APPLICATION)
    async with open_client(ClientConfig(string, keep_string=store), events=EventStream(published.append)) as client:
        relay = RelayWithKey(scene, of=Role.APPLICATION)
        await relay.give(client._string._changes)
        assert client.connection_string.key == relay.key
        scene.write("")
        await until(ConnectionAllowed)
        await scene.until(lambda: connector._published[0].is_registered)
        await opened(client, 1)
    nursery.cancel_scope.cancel()
