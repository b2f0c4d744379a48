"""Data channels are renewed after a day or 128 GiB, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from hybridrelay.client.lifecycle.inputs import MoveCause
from hybridrelay.client.relays.listeners import AvoidedListeners, ListenerSearch
from hybridrelay.client.relays.sender import Sender
from hybridrelay.client.relays.senders import Senders
from hybridrelay.client.session import MAX_CHANNEL_BYTES, MAX_CHANNEL_SECONDS, ClientSession
from hybridrelay.client.sessions import Sessions
from hybridrelay.connectivity.data import EndToEnd
from hybridrelay.errors import HybridRelayError
from hybridrelay.events import EventStream
from hybridrelay.mux import DATA_CONFIG, Budget

from .fakes import FakeSender
from .relays.test_sender import connection_string
from .test_session import FakeSession, Scene

DAY = 24 * 3600
GIB = 1 << 30


class AgingSession(FakeSession):
    """A session whose channel is as old as it is, and has carried so much."""

    def __init__(self, carried: int = 0) -> None:
        super().__init__()
        self._opened_at = trio.current_time()
        self._carried = carried

    def renew(self) -> None:
        """Begin with another channel."""
        self._opened_at, self._carried = trio.current_time(), 0

    @property
    def channel_age(self) -> float:
        return trio.current_time() - self._opened_at

    @channel_age.setter
    def channel_age(self, _: float) -> None:
        pass

    @property
    def channel_bytes(self) -> int:
        return self._carried

    @channel_bytes.setter
    def channel_bytes(self, _: int) -> None:
        pass


class Moved(ClientSession):
    """Notes when it is moved."""

    moved_at: list[float]

    async def move(
        self, senders: Sequence[Sender], cause: MoveCause, *, is_needed: Callable[[], bool] = lambda: True
    ) -> HybridRelayError | None:
        await trio.lowlevel.checkpoint()
        assert cause is MoveCause.RENEWAL
        self.moved_at.append(trio.current_time())
        assert isinstance(self.session, AgingSession)
        self.session.renew()
        return None


def moved(session: AgingSession) -> Moved:
    made = Moved(
        "db",
        "x-session-1",
        Scene(count=1).senders,
        ListenerSearch(AvoidedListeners()),
        new_session=lambda: session,
        explain=lambda error: error,
        events=EventStream(),
    )
    made.moved_at = []
    return made


async def start_renewing(nursery: trio.Nursery, *opened: Moved) -> None:
    sessions = Sessions(
        "db",
        Senders([FakeSender("a.example")]),
        EndToEnd.from_connection_string(connection_string()),
        nursery,
        config=DATA_CONFIG,
        budget=Budget(1 << 20),
        events=EventStream(),
    )
    for one in opened:
        await nursery.start(sessions.run, one)
    nursery.start_soon(sessions.renew)


async def test_a_channel_is_renewed_each_day(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    present, replaced = moved(AgingSession()), moved(AgingSession())
    began = trio.current_time()
    await start_renewing(nursery, present, replaced)
    await trio.sleep(DAY - 1)
    assert not present.moved_at
    await trio.sleep(2 * DAY)
    for one in (present, replaced):
        # One look a minute.
        assert [round((at - began) / DAY, 2) for at in one.moved_at] == [1.0, 2.0]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("carried", "renewed"), [(127 * GIB, False), (128 * GIB, False), (128 * GIB + 1, True)])
async def test_a_channel_is_renewed_after_128_gib(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, carried: int, renewed: bool
) -> None:
    one = moved(AgingSession(carried))
    await start_renewing(nursery, one)
    await trio.sleep(200)
    assert bool(one.moved_at) is renewed
    nursery.cancel_scope.cancel()


def test_the_limits_are_what_the_documentation_says() -> None:
    assert MAX_CHANNEL_SECONDS == DAY
    assert MAX_CHANNEL_BYTES == 128 * GIB
