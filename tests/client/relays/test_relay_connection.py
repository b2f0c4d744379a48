"""A client at one relay that is played: what becomes of its control channel."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer
from hybridrelay.client.relays import relay_connection as module
from hybridrelay.client.relays.listeners import AVOID_SECONDS, MAX_TRIED, AvoidedListeners, ListenerSearch
from hybridrelay.client.relays.relay_connection import Peer, RelayConnection
from hybridrelay.connectivity import DIRECTLY, Candidate, RelayEndpoint
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.data import EndToEnd
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.errors import (
    AuthorizationError,
    HybridRelayError,
    PeerIdentityError,
    RelayUnreachable,
    RendezvousError,
)
from hybridrelay.events import EventStream
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    PeerIdentity,
    Right,
    Role,
    Rule,
    Secret,
    create_authority,
    generate_key,
    verify_token,
)

from ..fakes import CARRIER, OURS

HOST = "relay.example"


class FakeControl(ControlChannel):
    """Accepts every join. There is no session below it."""

    def __init__(self) -> None:
        self.said, self.messages = trio.open_memory_channel[control.Message](1)
        self.closed = False
        self.accepts = True
        #: The keys that it accepts; None: any, if `accepts`.
        self.valid: list[Secret] | None = None
        self.checked: list[str] = []

    def next_id(self) -> int:
        return 1

    def close(self) -> None:
        self.closed = True
        self.said.close()

    async def join(self, message: control.Join) -> control.Joined | control.Failed:
        await trio.lowlevel.checkpoint()
        return control.Joined(1, bytes(32), "0" * 32, 30)

    async def check(self, connection: str, token: str) -> control.Checked | control.Failed:
        await trio.lowlevel.checkpoint()
        self.checked.append(token)
        accepts = self.accepts if self.valid is None else any(is_made_with(key, token) for key in self.valid)
        return control.Checked(1) if accepts else control.Failed(1, Reason.WRONG_KEY)


def is_made_with(key: Secret, token: str) -> bool:
    rules = [Rule("sender", {Right.SEND}, primary=key)]
    try:
        verify_token(token, hosts=[HOST], entity="db", right=Right.SEND, rules=rules, now=time.time())
    except AuthorizationError:
        return False
    return True


class FakeLink(RelayLink):
    """The link to a relay whose control channels work, and to which no data channel can be opened."""

    def __init__(self) -> None:
        super().__init__(RelayEndpoint(HOST), control.PeerRole.CLIENT, instance=new_instance(), dialer=DIRECTLY)
        self.opened: list[FakeControl] = []

    async def start_control(self, nursery: trio.Nursery, candidate: Candidate | None = None) -> FakeControl:
        await trio.lowlevel.checkpoint()
        self.opened.append(FakeControl())
        return self.opened[-1]

    async def choose(self) -> Candidate:
        await trio.lowlevel.checkpoint()
        raise RelayUnreachable("dropped")


def search() -> ListenerSearch:
    return ListenerSearch(AvoidedListeners())


def connection_string() -> ConnectionString:
    authority = create_authority("db", now=time.time())
    return ConnectionString(
        endpoints=(Endpoint(HOST),),
        key_name="sender",
        key=generate_key(),
        entity_path="db",
        identity=authority.issue(Role.APPLICATION, "x", now=time.time()),
        authority=authority.certificate,
    )


def no_key(*_: object) -> None:
    raise AssertionError("the relay gives nobody a key")


def make_connection(
    link: RelayLink,
    string: ConnectionString,
    nursery: trio.Nursery,
    on_draining: Callable[[RelayConnection], None] = lambda _: None,
) -> RelayConnection:
    return RelayConnection(
        link,
        string,
        nursery,
        clock=time.time,
        on_draining=on_draining,
        on_key_or_update=no_key,
        events=EventStream(),
    )


async def test_draining_keeps_a_client_away_for_a_minute_at_most(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    link, string, drained = FakeLink(), connection_string(), list[RelayConnection]()
    connection = make_connection(link, string, nursery, on_draining=drained.append)
    await connection._control_channel()
    for _ in range(10):
        await link.opened[0].said.send(control.Draining(2**53 - 1))
        await trio.sleep(control.MAX_RETRY_AFTER_SECONDS / 9)
    assert not connection.is_away, "repeating it extends nothing"
    assert drained == [connection]


async def test_a_control_channel_that_is_given_up_does_not_stay_open(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    link, string = FakeLink(), connection_string()
    connection = make_connection(link, string, nursery)
    for count in (1, 2, 3):
        with pytest.raises(RelayUnreachable):
            await connection.open_data_channel(search(), OURS)
        assert len(link.opened) == count
        assert all(channel.closed for channel in link.opened)


async def test_control_channels_are_opened_with_the_key_that_is_in_use(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one when the connection string changes, and the earlier one where the relay refuses that."""
    relay, string = Relay({ONE: None}), connection_string()
    connection = connection_at(relay, nursery, monkeypatch, string)
    await connection.open_data_channel(search(), OURS)
    assert relay.key == string.key
    changed = attrs.evolve(string, key=generate_key())
    relay.valid = string.key
    connection.use(changed)
    assert relay.key == changed.key
    await connection.open_data_channel(search(), OURS)
    assert relay.key == string.key
    relay.valid = changed.key
    await connection.open_data_channel(search(), OURS)
    assert relay.key == changed.key


@pytest.mark.parametrize("changes", [1, 2])
async def test_the_earlier_key_is_used_at_a_relay_that_was_never_asked_before_the_change(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    relay, string = Relay({ONE: None}), connection_string()
    connection = connection_at(relay, nursery, monkeypatch, string)
    relay.valid = string.key
    for _ in range(changes):
        changed = attrs.evolve(string, key=generate_key())
        connection.use(changed)
    assert not connection.has_accepted_key
    channel = await connection.open_data_channel(search(), OURS)
    assert channel.key == string.key
    found = [(connection.falls_back, connection.has_accepted_key)]
    relay.valid = changed.key
    channel = await connection.open_data_channel(search(), OURS)
    assert channel.key == changed.key
    found.append((connection.falls_back, connection.has_accepted_key))
    assert found == [(True, False), (False, True)]
    # The earlier key has been replaced: it is no longer tried.
    relay.valid, before = generate_key(), len(relay.joins)
    with pytest.raises(AuthorizationError):
        await connection.open_data_channel(search(), OURS)
    assert len(relay.joins) == before + 1


async def test_where_both_keys_are_refused_the_present_one_is_reported(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, string = Relay({ONE: None}), connection_string()
    connection = connection_at(relay, nursery, monkeypatch, string)
    relay.valid = generate_key()
    connection.use(attrs.evolve(string, key_name="gone", key=generate_key()))
    with pytest.raises(AuthorizationError) as caught:
        await connection.open_data_channel(search(), OURS)
    assert caught.value.reason is Reason.UNKNOWN_RULE
    assert len(relay.joins) == 2


# --- which listener


class Relay(RelayLink):
    """A relay with listeners: some of them are of no use, each for a reason of its own."""

    def __init__(self, listeners: dict[str, HybridRelayError | None]) -> None:
        super().__init__(RelayEndpoint(HOST), control.PeerRole.CLIENT, instance=new_instance(), dialer=DIRECTLY)
        self.listeners = listeners
        self.joins: list[control.Join] = []
        #: The relay knows nothing of `Join.avoid`.
        self.is_old = False
        #: The only key that it accepts; None: any.
        self.valid: Secret | None = None

    @property
    def key(self) -> Secret | None:
        """The key with which control channels would be opened now."""
        return self.endpoint.key

    @property
    def remembers(self) -> bool:
        return True

    async def start_control(self, nursery: trio.Nursery, candidate: Candidate | None = None) -> ControlChannel:
        await trio.lowlevel.checkpoint()
        return RelayControl(self)

    async def choose(self) -> Candidate:
        await trio.lowlevel.checkpoint()
        return CARRIER

    async def join(self, message: control.Join) -> control.Joined | control.Failed:
        """Answer a request to join."""
        await trio.lowlevel.checkpoint()
        self.joins.append(message)
        if self.valid is not None:
            rules = [Rule("sender", [Right.SEND], self.valid)]
            try:
                verify_token(
                    message.token,
                    hosts=[self.host],
                    entity="db",
                    right=Right.SEND,
                    rules=rules,
                    now=time.time(),
                )
            except AuthorizationError as exc:
                return control.Failed(1, exc.reason)
        avoid = () if self.is_old else message.avoid
        left = [one for one in self.listeners if one not in avoid]
        if not left:
            return control.Failed(1, Reason.NO_LISTENER)
        return control.Joined(1, bytes.fromhex(left[0]) * 2, left[0], 30)

    async def open_data_channel(
        self,
        endpoint: RelayEndpoint,
        candidate: Candidate,
        ticket: bytes,
        end_to_end: EndToEnd,
        *,
        pinned: PeerIdentity | None,
        dialer: Dialer,
    ) -> tuple[object, PeerIdentity]:
        await trio.lowlevel.checkpoint()
        error = self.listeners[ticket[:16].hex()]
        if error is not None:
            raise error
        return object(), IDENTITY


class RelayControl(FakeControl):
    """A control channel to a `Relay`."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    async def join(self, message: control.Join) -> control.Joined | control.Failed:
        return await self._relay.join(message)


IDENTITY = PeerIdentity("db", Role.CONNECTOR, "lab", "01", 4e9, b"hash")
ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)
ROGUE = PeerIdentityError("a certificate of its own", reason=Reason.IDENTITY_WRONG_AUTHORITY)
SILENT = RendezvousError("it did not come", reason=Reason.PEER_ABSENT)


def connection_at(
    relay: Relay,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    string: ConnectionString | None = None,
) -> RelayConnection:
    monkeypatch.setattr(module, "open_data_channel", relay.open_data_channel)
    return make_connection(relay, string or connection_string(), nursery)


async def test_a_listener_of_no_use_is_passed_over_for_the_next(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay({ONE: ROGUE, TWO: SILENT, THREE: None})
    connection, avoided = connection_at(relay, nursery, monkeypatch), AvoidedListeners()
    channel = await connection.open_data_channel(ListenerSearch(avoided), OURS)
    assert channel.peer == Peer(THREE, IDENTITY)
    assert [join.avoid for join in relay.joins] == [(), (ONE,), (ONE, TWO)]
    # The next search goes to the good one at once, until some time has passed.
    await connection.open_data_channel(ListenerSearch(avoided), OURS)
    assert relay.joins[-1].avoid == (ONE, TWO)
    assert len(relay.joins) == 4
    await trio.sleep(AVOID_SECONDS)
    relay.listeners[ONE] = None
    assert (await connection.open_data_channel(ListenerSearch(avoided), OURS)).peer.instance == ONE
    nursery.cancel_scope.cancel()


async def test_where_all_are_of_no_use_the_error_is_the_last_ones_and_all_are_tried_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay({ONE: SILENT, TWO: ROGUE})
    connection, avoided = connection_at(relay, nursery, monkeypatch), AvoidedListeners()
    with pytest.raises(PeerIdentityError) as caught:
        await connection.open_data_channel(ListenerSearch(avoided), OURS)
    assert caught.value is ROGUE
    relay.listeners[ONE] = None
    assert (await connection.open_data_channel(ListenerSearch(avoided), OURS)).peer.instance == ONE
    nursery.cancel_scope.cancel()


async def test_no_listener_at_all_is_reported_as_that(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, avoided = Relay({}), AvoidedListeners()
    connection = connection_at(relay, nursery, monkeypatch)
    avoided.add(ONE, trio.current_time())  # it failed before, and has left
    with pytest.raises(RendezvousError) as caught:
        await connection.open_data_channel(ListenerSearch(avoided), OURS)
    assert caught.value.reason is Reason.NO_LISTENER
    nursery.cancel_scope.cancel()


async def test_a_relay_that_sends_us_to_the_same_listener_again_is_not_asked_for_ever(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay({ONE: ROGUE, TWO: None})
    relay.is_old = True
    connection = connection_at(relay, nursery, monkeypatch)
    with pytest.raises(PeerIdentityError):
        await connection.open_data_channel(search(), OURS)
    assert len(relay.joins) == MAX_TRIED
    nursery.cancel_scope.cancel()


async def test_a_session_that_resumes_goes_to_its_own_listener_only(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay({ONE: ROGUE, TWO: None})
    connection = connection_at(relay, nursery, monkeypatch)
    with pytest.raises(PeerIdentityError):
        await connection.open_data_channel(Peer(ONE, IDENTITY), OURS)
    assert [join.listener for join in relay.joins] == [ONE]
    # A relay that names another listener than the one it was asked for is not believed.
    with pytest.raises(RelayUnreachable):
        await connection.open_data_channel(Peer(TWO, IDENTITY), OURS)
    nursery.cancel_scope.cancel()


async def test_a_client_shows_its_key_over_a_control_channel_that_replaces_a_lost_one(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    link, string = FakeLink(), connection_string()
    connection = make_connection(link, string, nursery)
    has_control = [connection.has_control]
    await connection.ensure_control_channel()
    has_control.append(connection.has_control)
    (token,) = link.opened[0].checked
    rules = [Rule("sender", {Right.SEND}, primary=string.key)]
    verify_token(token, hosts=[HOST], entity="db", right=Right.SEND, rules=rules, now=time.time())
    link.opened[0].said.close()
    await trio.testing.wait_all_tasks_blocked()
    has_control.append(connection.has_control)
    assert has_control == [False, True, False]
    await connection.ensure_control_channel()
    await connection.ensure_control_channel()
    assert [len(one.checked) for one in link.opened] == [1, 2]
    link.opened[1].accepts = False
    with pytest.raises(AuthorizationError):
        await connection.ensure_control_channel()


async def test_a_client_shows_its_current_key_where_an_earlier_one_was_revoked(nursery: trio.Nursery) -> None:
    """Before it has joined with the current one."""
    link, string = FakeLink(), connection_string()
    connection = make_connection(link, string, nursery)
    changed = attrs.evolve(string, key=generate_key())
    connection.use(changed)
    await connection.ensure_control_channel()
    link.opened[0].valid = [changed.key]
    await connection.ensure_control_channel()
    assert [is_made_with(changed.key, token) for token in link.opened[0].checked] == [False, False, True]


@pytest.mark.parametrize("in_use", ["current", "earlier", "earlier, after a join was refused"])
@pytest.mark.parametrize("accepts_new", [True, False])
async def test_a_relay_is_asked_about_a_new_key_whichever_key_is_in_use_there(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, in_use: str, accepts_new: bool
) -> None:
    """A roll at another relay must not wait for ever because this one does not have the current key."""
    relay, string = Relay({ONE: None}), connection_string()
    connection = connection_at(relay, nursery, monkeypatch, string)
    current, new = (attrs.evolve(string, key=generate_key()) for _ in range(2))
    connection.use(current)
    known = current.key if in_use == "current" else string.key
    if in_use == "earlier, after a join was refused":
        relay.valid = string.key
        await connection.open_data_channel(search(), OURS)
        assert connection.falls_back
    channel = await connection._control_channel()
    assert isinstance(channel, FakeControl)
    channel.valid = [known, new.key] if accepts_new else [known]
    if accepts_new:
        await connection.check_accepted(new)
    else:
        with pytest.raises(AuthorizationError):
            await connection.check_accepted(new)
    refused = [token for token in channel.checked if not any(is_made_with(key, token) for key in channel.valid)]
    assert len(refused) == (in_use == "earlier") + (not accepts_new), "no more wrong guesses than necessary"
    assert is_made_with(new.key, channel.checked[-1])
    channel.valid = [new.key]
    with pytest.raises(AuthorizationError):
        await connection.check_accepted(new)
