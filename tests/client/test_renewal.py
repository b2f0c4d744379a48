"""Data channels are renewed after a day or 128 GiB, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from hybridrelay.client.kept import MAX_CHANNEL_BYTES, MAX_CHANNEL_SECONDS, KeptSession
from hybridrelay.client.relays.sender import DataChannel, Sender
from hybridrelay.client.relays.senders import Senders
from hybridrelay.client.sessions import Sessions
from hybridrelay.connectivity.data import EndToEnd
from hybridrelay.mux import DATA_CONFIG, Budget
from hybridrelay.protocol.reasons import Reason

from .fakes import ANY, CARRIER, FakeSender
from .relays.test_sender import connection_string
from .test_kept import FakeSession

DAY = 24 * 3600
GIB = 1 << 30


class AgingSession(FakeSession):
    """A session whose channel is as old as it is, and has carried so much."""

    def __init__(self, carried: int = 0) -> None:
        super().__init__()
        self._opened_at = trio.current_time()
        self._carried = carried

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


class Kept(KeptSession):
    """Notes when it is moved."""

    def __init__(self, session: AgingSession) -> None:
        stream, _ = trio.testing.memory_stream_pair()
        sender = FakeSender("a.example")
        super().__init__(session, DataChannel(stream, ANY, sender, CARRIER), "db", Senders([sender]))
        self.moved_at: list[float] = []

    async def move(self, senders: Sequence[Sender], *, is_needed: Callable[[], bool]) -> Reason:
        await trio.lowlevel.checkpoint()
        self.moved_at.append(trio.current_time())
        self.session._opened_at, self.session._carried = trio.current_time(), 0
        return Reason.NO_ERROR


async def start_renewing(nursery: trio.Nursery, *all_kept: Kept) -> None:
    string = connection_string()
    sessions = Sessions(
        "db",
        Senders([FakeSender("a.example")]),
        EndToEnd.from_connection_string(string),
        nursery,
        config=DATA_CONFIG,
        budget=Budget(1 << 20),
    )
    for kept in all_kept:
        await nursery.start(sessions.run, kept)
    nursery.start_soon(sessions.renew)


async def test_a_channel_is_renewed_each_day(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    present, replaced = Kept(AgingSession()), Kept(AgingSession())
    began = trio.current_time()
    await start_renewing(nursery, present, replaced)
    await trio.sleep(DAY - 1)
    assert not present.moved_at
    await trio.sleep(2 * DAY)
    for kept in (present, replaced):
        # One look a minute.
        assert [round((at - began) / DAY, 2) for at in kept.moved_at] == [1.0, 2.0]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("carried", "renewed"), [(127 * GIB, False), (128 * GIB, False), (128 * GIB + 1, True)])
async def test_a_channel_is_renewed_after_128_gib(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, carried: int, renewed: bool
) -> None:
    kept = Kept(AgingSession(carried))
    await start_renewing(nursery, kept)
    await trio.sleep(200)
    assert bool(kept.moved_at) is renewed
    nursery.cancel_scope.cancel()


def test_the_limits_are_what_the_documentation_says() -> None:
    assert MAX_CHANNEL_SECONDS == DAY
    assert MAX_CHANNEL_BYTES == 128 * GIB
