"""Data channels whose other end has proved its identity: whose they are, and how many there may be."""

from __future__ import annotations

from contextlib import suppress

import attrs
import pytest
import trio
import trio.testing

from hybridrelay import security
from hybridrelay.connector import channels
from hybridrelay.connector.channels import (
    HELLO_SECONDS,
    MAX_GREETING_CHANNELS,
    MAX_SESSIONS_PER_IDENTITY,
    DataChannels,
    Served,
)
from hybridrelay.connector.policy import Policy
from hybridrelay.connector.published import Published
from hybridrelay.errors import RendezvousError, SessionError
from hybridrelay.mux import DATA_CONFIG, Role, Session
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import PeerIdentity

from .fakes import WSS, FakeRelay, published

PEER = PeerIdentity("one", security.Role.APPLICATION, "app", "0A", 4e9)
ANOTHER = attrs.evolve(PEER, serial="0B")


class Scene:
    """The connector's data channels, and clients that have proved who they are."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.one, self.two = published("one"), published("two")
        self.link = FakeRelay()
        self.served = DataChannels(Policy(), DATA_CONFIG, lost=lambda _: None)
        #: What serving a channel raised.
        self.errors: list[Exception] = []

    def channel(self, whose: Published | None = None, peer: PeerIdentity = PEER) -> trio.abc.Stream:
        """A proven channel: the client's end. Nothing was said on it."""
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve() -> None:
            try:
                await self.served._serve_session(whose or self.one, theirs, peer, self.link, WSS)
            except (RendezvousError, SessionError) as exc:
                self.errors.append(exc)

        self.nursery.start_soon(serve)
        return ours

    async def session(self, whose: Published | None = None, peer: PeerIdentity = PEER) -> Session:
        """A client's session that the connector has accepted.

        Raises:
            SessionError: it was refused.
        """
        session = Session(Role.INITIATOR, config=DATA_CONFIG)

        async def run(task_status: trio.TaskStatus[None]) -> None:
            try:
                await session.run(self.channel(whose, peer), reconnect=trio.sleep_forever, task_status=task_status)
            except SessionError as exc:
                self.errors.append(exc)
                task_status.started()

        await self.nursery.start(run)
        if session.outcome is not None:
            raise SessionError("refused", reason=session.outcome.reason)
        return session

    async def attach(self, session: Session, whose: Published | None = None, peer: PeerIdentity = PEER) -> bool:
        """Go on with the session over another channel that belongs to `peer`; whether the connector let it."""
        greetings = session.greetings
        await session.replace_channel(self.channel(whose, peer))
        await trio.testing.wait_all_tasks_blocked()
        return session.greetings > greetings


async def test_a_session_resumes_for_its_own_identity(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    session = await scene.session()
    assert await scene.attach(session)
    assert session.outcome is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("changed", ["identity", "hybrid connection"])
async def test_nobody_else_resumes_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, changed: str
) -> None:
    """Not even who knows its id and its secret."""
    scene = Scene(nursery)
    session = await scene.session()
    whose, peer = (scene.one, ANOTHER) if changed == "identity" else (scene.two, PEER)
    assert not await scene.attach(session, whose, peer)
    assert session.outcome is not None
    assert session.outcome.reason is Reason.SESSION_UNKNOWN
    (served,) = scene.served._served.values()
    assert served.session.outcome is None, "the one that it belongs to can still resume"
    nursery.cancel_scope.cancel()


def test_serials_count_under_one_authority_only() -> None:
    one, two = published("one"), published("two")
    served = Served(None, one, PEER, None, WSS)  # type: ignore[arg-type]
    assert served.is_of(one, PEER)
    assert served.is_of(one, attrs.evolve(PEER, label="renamed"))
    assert not served.is_of(one, ANOTHER)
    assert not served.is_of(two, PEER)


async def test_sessions_of_one_identity_are_limited(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(nursery)
    monkeypatch.setattr(channels, "MAX_SESSIONS_PER_IDENTITY", 3)
    sessions = [await scene.session() for _ in range(3)]
    with pytest.raises(SessionError) as refused:
        await scene.session()
    assert refused.value.reason is Reason.LIMIT
    # Nobody else is concerned, and those that are there may resume.
    await scene.session(peer=ANOTHER)
    await scene.session(scene.two)
    assert await scene.attach(sessions[0])
    sessions[1].close()
    await trio.testing.wait_all_tasks_blocked()
    await scene.session()
    nursery.cancel_scope.cancel()


def test_the_limit_of_sessions_is_what_the_documents_say() -> None:
    assert MAX_SESSIONS_PER_IDENTITY == 256


async def test_channels_without_hello_are_limited(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """They count like sessions, and the oldest gives way."""
    scene = Scene(nursery)
    silent = []
    for _ in range(MAX_GREETING_CHANNELS):
        silent.append(scene.channel())
        await trio.testing.wait_all_tasks_blocked()
    await ended(scene.channel())
    await scene.session(peer=ANOTHER)
    await trio.sleep(HELLO_SECONDS / 2)
    await scene.session()
    await ended(silent[0])
    with trio.move_on_after(0.1) as still_open:
        await ended(silent[1])
    assert still_open.cancelled_caught
    nursery.cancel_scope.cancel()


async def test_a_channel_without_hello_has_a_deadline(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    silent = scene.channel()
    with trio.fail_after(HELLO_SECONDS + 0.1):
        await ended(silent)
    assert trio.current_time() >= HELLO_SECONDS
    await trio.testing.wait_all_tasks_blocked()
    (error,) = scene.errors
    assert "no HELLO" in str(error)
    assert not scene.served._greeting
    nursery.cancel_scope.cancel()


async def test_all_sessions_of_an_identity_may_resume_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    sessions = [await scene.session() for _ in range(2 * MAX_GREETING_CHANNELS)]
    held = [scene.channel() for _ in range(MAX_GREETING_CHANNELS)]
    await trio.testing.wait_all_tasks_blocked()
    for session in sessions:
        assert await scene.attach(session)
    assert len(held) == MAX_GREETING_CHANNELS
    nursery.cancel_scope.cancel()


async def ended(stream: trio.abc.ReceiveStream) -> None:
    """The other end has closed it."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
