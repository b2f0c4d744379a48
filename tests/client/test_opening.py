"""Streams that need a session while there is none: who waits, for how long, and what ends the wait."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from hybridrelay.client.opening import RESUME_PATIENCE, SessionOpener
from hybridrelay.client.session import ClientSession
from hybridrelay.errors import AuthorizationError, HybridRelayError, RendezvousError, StreamRefused
from hybridrelay.mux import Session
from hybridrelay.protocol.events import SessionOutcome
from hybridrelay.protocol.reasons import Reason

AWAY = RendezvousError("no connector", reason=Reason.NO_LISTENER)
WRONG_KEY = AuthorizationError("wrong key", reason=Reason.WRONG_KEY)


class FakeSession(Session):
    """The state of a session, as a `SessionOpener` sees it."""

    is_open = True
    accepts_streams = True
    outcome: SessionOutcome | None = None
    detached_at: float | None = None

    def __init__(self) -> None:
        self._opened = trio.Event()

    def lose_channel(self) -> None:
        self.is_open, self.detached_at, self._opened = False, trio.current_time(), trio.Event()

    def resume(self) -> None:
        self.is_open, self.detached_at = self.accepts_streams, None
        self._opened.set()

    def go_away(self) -> None:
        self.is_open = self.accepts_streams = False

    def end(self) -> None:
        self.go_away()
        self.detached_at, self.outcome = None, SessionOutcome(Reason.NO_ERROR, "ended", by_peer=False)
        self._opened.set()

    async def wait_attached(self) -> None:
        await self._opened.wait()


class FakeClientSession(ClientSession):
    """A client's session as a `SessionOpener` sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fake = FakeSession()
        self.absent = trio.Event()

    @property
    def session(self) -> FakeSession:
        return self._fake

    async def wait_absent(self) -> None:
        await self.absent.wait()


class Scene:
    """Attempts take a hundredth of a second, unless a test wants otherwise, and end as `error` says."""

    def __init__(self, nursery: trio.Nursery, limit: int = 100) -> None:
        self.error: BaseException | None = None
        self.takes = 0.01
        self.goes_away_at_once = False
        self.attempts: list[float] = []
        self.cancelled = 0
        self.replaced: list[FakeClientSession] = []
        self.opener = SessionOpener(nursery, self._open, replaced=self._replaced, limit=lambda: limit)

    async def _open(self) -> FakeClientSession:
        self.attempts.append(trio.current_time())
        try:
            await trio.sleep(self.takes)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        kept = FakeClientSession(f"number {len(self.attempts)}")
        if self.goes_away_at_once:
            kept.session.go_away()
        return kept

    def _replaced(self, session: ClientSession) -> None:
        assert isinstance(session, FakeClientSession)
        self.replaced.append(session)

    async def get(self, patience: float = 10.0) -> FakeClientSession:
        found = await self.opener.get(trio.current_time() + patience)
        assert isinstance(found, FakeClientSession)
        return found

    def later(self, seconds: float, error: BaseException | None, nursery: trio.Nursery) -> None:
        """The attempts end in another way after so many seconds."""

        async def change() -> None:
            await trio.sleep(seconds)
            self.error = error

        nursery.start_soon(change)


@pytest.fixture
def scene(nursery: trio.Nursery) -> Scene:
    return Scene(nursery)


async def test_an_open_session_is_given_at_once(autojump_clock: trio.testing.MockClock, scene: Scene) -> None:
    first = await scene.get()
    began = trio.current_time()
    assert await scene.get() is first
    assert trio.current_time() == began
    assert len(scene.attempts) == 1


async def test_all_who_wait_share_the_attempts(autojump_clock: trio.testing.MockClock, scene: Scene) -> None:
    found: list[FakeClientSession] = []
    async with trio.open_nursery() as waiters:
        for _ in range(50):
            waiters.start_soon(lambda: _append(found, scene))
    assert len(set(found)) == 1
    assert len(found) == 50
    assert len(scene.attempts) == 1
    assert scene.opener.waiting == 0


async def _append(found: list[FakeClientSession], scene: Scene) -> None:
    found.append(await scene.get())


async def test_what_may_pass_is_waited_out(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    scene.error = AWAY
    scene.later(8, None, nursery)
    began = trio.current_time()
    await scene.get(10)
    assert 8 <= trio.current_time() - began < 9.1, "noticed within a second"
    assert len(scene.attempts) < 80


async def test_the_wait_ends_at_its_deadline_with_the_last_error(
    autojump_clock: trio.testing.MockClock, scene: Scene
) -> None:
    scene.error = AWAY
    began = trio.current_time()
    with pytest.raises(RendezvousError) as caught:
        await scene.get(10)
    assert caught.value is AWAY
    assert trio.current_time() - began == pytest.approx(10)
    made = len(scene.attempts)
    await trio.sleep(60)
    assert len(scene.attempts) <= made, "nobody waits any more"


async def test_each_has_a_deadline_of_its_own(autojump_clock: trio.testing.MockClock, scene: Scene) -> None:
    scene.error = AWAY
    ended: dict[float, float] = {}

    async def wait(patience: float) -> None:
        began = trio.current_time()
        with pytest.raises(RendezvousError):
            await scene.get(patience)
        ended[patience] = trio.current_time() - began

    async with trio.open_nursery() as waiters:
        for patience in (2.0, 5.0, 7.0):
            waiters.start_soon(wait, patience)
    assert ended == {patience: pytest.approx(patience) for patience in (2.0, 5.0, 7.0)}


async def test_without_patience_there_is_one_attempt(autojump_clock: trio.testing.MockClock, scene: Scene) -> None:
    scene.error = AWAY
    with pytest.raises(RendezvousError):
        await scene.get(0)
    assert len(scene.attempts) == 1


async def test_the_first_attempt_may_take_longer_than_the_patience(
    autojump_clock: trio.testing.MockClock, scene: Scene
) -> None:
    scene.takes = 12
    await scene.get(0)
    assert len(scene.attempts) == 1


async def test_what_waiting_cannot_change_is_reported_at_once(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    scene.error = WRONG_KEY
    began = trio.current_time()
    with pytest.raises(AuthorizationError):
        await scene.get(math.inf)
    assert trio.current_time() - began == pytest.approx(0.01)
    scene.error = AWAY
    scene.later(3, WRONG_KEY, nursery)
    began = trio.current_time()
    with pytest.raises(AuthorizationError):
        await scene.get(10)
    assert 3 <= trio.current_time() - began < 4.1


async def test_a_bug_reaches_those_who_wait_and_nobody_else(
    autojump_clock: trio.testing.MockClock, scene: Scene
) -> None:
    scene.error = KeyError("a bug")
    with pytest.raises(KeyError):
        await scene.get(10)
    scene.error = None
    await scene.get(10)


async def test_the_last_who_leaves_ends_the_attempt(autojump_clock: trio.testing.MockClock, scene: Scene) -> None:
    scene.takes = 100
    with trio.move_on_after(1):
        await scene.get()
    await trio.testing.wait_all_tasks_blocked()
    assert scene.cancelled == 1
    scene.takes = 0.01
    await scene.get()


async def test_who_comes_as_the_last_leaves_is_served(autojump_clock: trio.testing.MockClock, scene: Scene) -> None:
    scene.takes = 5
    scope = trio.CancelScope()

    async def leave() -> None:
        with scope:
            await scene.get()

    async with trio.open_nursery() as both:
        both.start_soon(leave)
        await trio.sleep(1)
        scope.cancel()
        with trio.fail_after(20):
            await scene.get()


async def test_no_more_than_so_many_wait(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    scene = Scene(nursery, limit=3)
    scene.error = AWAY
    async with trio.open_nursery() as waiters:
        for _ in range(3):
            waiters.start_soon(_wait_in_vain, scene)
        await trio.sleep(1)
        with pytest.raises(StreamRefused) as caught:
            await scene.get()
        assert caught.value.reason is Reason.LIMIT
    assert scene.opener.waiting == 0


async def _wait_in_vain(scene: Scene) -> None:
    with pytest.raises(HybridRelayError):
        await scene.get(5)


async def test_who_waits_when_the_client_is_closed_hears_of_it(
    autojump_clock: trio.testing.MockClock, scene: Scene
) -> None:
    scene.error = AWAY

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await scene.get()

    async with trio.open_nursery() as waiters:
        waiters.start_soon(wait)
        await trio.sleep(1)
        scene.opener.close()
    with pytest.raises(trio.ClosedResourceError):
        await scene.get()


# --- a session that is not open, and not over


async def test_a_session_that_lost_its_channel_gets_a_moment_to_resume(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    first = await scene.get()
    first.session.lose_channel()

    async def resume() -> None:
        await trio.sleep(RESUME_PATIENCE / 2)
        first.session.resume()

    nursery.start_soon(resume)
    assert await scene.get() is first
    assert len(scene.attempts) == 1


@pytest.mark.parametrize("lost_for", [0.0, RESUME_PATIENCE, 2 * RESUME_PATIENCE, 1e6])
async def test_after_that_moment_another_session_is_opened(
    autojump_clock: trio.testing.MockClock, scene: Scene, lost_for: float
) -> None:
    first = await scene.get()
    first.session.lose_channel()
    await trio.sleep(lost_for)
    began = trio.current_time()
    second = await scene.get()
    assert second is not first
    assert trio.current_time() - began == pytest.approx(max(0.0, RESUME_PATIENCE - lost_for) + 0.01)
    assert scene.replaced == [first]


async def test_a_connector_that_is_not_there_is_not_waited_for(
    autojump_clock: trio.testing.MockClock, scene: Scene
) -> None:
    first = await scene.get()
    first.session.lose_channel()
    first.absent.set()
    began = trio.current_time()
    assert await scene.get() is not first
    assert trio.current_time() - began == pytest.approx(0.01)


@pytest.mark.parametrize("has_channel", [True, False])
async def test_a_session_that_is_going_away_is_replaced_at_once(
    autojump_clock: trio.testing.MockClock, scene: Scene, has_channel: bool
) -> None:
    first = await scene.get()
    first.session.go_away()
    if not has_channel:
        first.session.lose_channel()
    began = trio.current_time()
    second = await scene.get()
    assert second is not first
    assert trio.current_time() - began == pytest.approx(0.01)
    assert scene.replaced == [first]


async def test_one_that_has_ended_is_not_replaced_but_forgotten(
    autojump_clock: trio.testing.MockClock, scene: Scene
) -> None:
    first = await scene.get()
    first.session.end()
    assert await scene.get() is not first
    assert scene.replaced == []


async def test_a_session_that_resumes_late_is_used_where_no_other_can_be_opened(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    first = await scene.get()
    first.session.lose_channel()
    scene.error = AWAY

    async def resume() -> None:
        await trio.sleep(8.2)
        scene.takes = 100
        first.session.resume()

    nursery.start_soon(resume)
    began = trio.current_time()
    assert await scene.get(10) is first
    assert trio.current_time() - began == pytest.approx(8.2)
    assert scene.opener.open is first


async def test_a_resumption_ends_an_attempt_that_is_stuck(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    first = await scene.get()
    first.session.lose_channel()
    scene.takes = 1000

    async def resume() -> None:
        await trio.sleep(7)
        first.session.resume()

    nursery.start_soon(resume)
    assert await scene.get(10) is first
    await trio.testing.wait_all_tasks_blocked()
    assert scene.cancelled == 1


@pytest.mark.parametrize("patience", [0.0, 10.0])
async def test_a_connector_that_goes_away_at_once_is_not_asked_without_a_pause(
    patience: float, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    scene.goes_away_at_once = True
    began = trio.current_time()
    with pytest.raises(RendezvousError) as caught:
        await scene.get(patience)
    assert caught.value.reason is Reason.GOING_AWAY
    assert trio.current_time() - began <= patience + 2
    assert len(scene.attempts) <= 2 + 10 * patience
    # One that stays is found as before.
    scene.goes_away_at_once = False
    assert (await scene.get()).session.is_open
    nursery.cancel_scope.cancel()


async def test_the_second_session_that_goes_away_soon_is_followed_by_a_pause(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    for _ in range(20):
        (await scene.get(60)).session.go_away()
    pauses = [later - earlier for earlier, later in zip(scene.attempts, scene.attempts[1:], strict=False)]
    assert pauses[0] < 0.1
    assert sum(pauses[1:]) > 1
    await trio.sleep(10)
    began = trio.current_time()
    await scene.get()
    assert trio.current_time() - began < 0.1
    nursery.cancel_scope.cancel()
