"""Streams that a program opens: each begins in one event and ends in exactly one, whatever ends it."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.client.requests import StreamRequests
from hybridrelay.client.stream_events import StreamReports
from hybridrelay.connectivity.counters import SUCCESS, EndpointCounters
from hybridrelay.errors import RelayUnreachable, StreamRefused
from hybridrelay.events import Event, EventStream, StreamClosed, StreamNotOpened, StreamRequested
from hybridrelay.mux import Feature, MuxStream, Session, SessionConfig
from hybridrelay.protocol.reasons import Reason
from hybridrelay.testing import session_pair

from .strings import STRING


class Scene:
    """A session, and the events of its streams."""

    def __init__(self, here: Session, connector: Session) -> None:
        self.session = here
        self.connector = connector
        self.published: list[Event] = []
        self._ended = trio.Event()
        self.counters = EndpointCounters()
        self.requests = StreamRequests(lambda: STRING, self.counters, lambda _: ("0A", "tcp at relay.example"))
        #: The reasons of streams that were refused after the program had got them.
        self.refused: list[Reason] = []
        self.reports = StreamReports(
            EventStream(self._publish),
            self.requests,
            lambda _: "0A",
            self.counters,
            refused=lambda _, reason: self.refused.append(reason),
        )

    def _publish(self, event: Event) -> None:
        self.published.append(event)
        if not isinstance(event, StreamRequested):
            self._ended.set()

    async def wait_end(self) -> None:
        """Wait until it is known whether everything was delivered."""
        with trio.fail_after(60):
            await self._ended.wait()

    async def open(self, *, wait_opened: bool = True) -> MuxStream:
        """Do the same as `Client.open_stream`."""
        with self.reports.request(None) as follow:
            stream = await self.session.open_stream() if wait_opened else self.session.open_stream_nowait()
            follow(stream)
        return stream

    async def pair(self) -> tuple[MuxStream, MuxStream]:
        """Both ends of an accepted stream: the program's, and the target's."""
        stream = await self.open(wait_opened=False)
        target = (await self.connector.offers.receive()).accept()
        await stream.wait_opened()
        return stream, target

    def end(self) -> StreamClosed | StreamNotOpened:
        """The one event that says how it ended."""
        first, last = self.published
        assert isinstance(first, StreamRequested)
        assert isinstance(last, StreamClosed | StreamNotOpened)
        assert first.activity_id == last.activity_id
        assert first.connection == last.connection == "db"
        result = SUCCESS if isinstance(last, StreamClosed) else last.reason.slug
        assert self.counters.streams_opened == {("db", result): 1}
        assert len(self.requests) == 0
        return last

    def closed(self) -> tuple[str, Reason, str, str]:
        """How a stream that was open ended: the outcome, the reason, and the end of each direction."""
        end = self.end()
        assert isinstance(end, StreamClosed)
        return end.outcome, end.reason, end.to_target, end.to_client


@pytest.fixture
async def scene(nursery: trio.Nursery) -> Scene:
    return Scene(*await session_pair(nursery))


async def test_one_whose_directions_both_finish_has_ended_before_it_is_closed(
    scene: Scene, nursery: trio.Nursery
) -> None:
    stream, target = await scene.pair()
    await stream.send_all(b"question")
    await target.send_all(b"answer!")
    await target.send_eof()
    assert await stream.receive_some() == b"answer!"
    assert await stream.receive_some() == b""
    assert len(scene.published) == 1
    await stream.send_eof()
    assert len(scene.published) == 1, "the target has not acknowledged it yet"
    await scene.wait_end()
    end = scene.end()
    await stream.aclose()
    stream.reset()
    scene.session.close(Reason.SESSION_LOST)
    scene.reports.close()
    assert scene.end() == end
    assert scene.closed() == ("closed", Reason.NO_ERROR, "finished", "finished")
    assert isinstance(end, StreamClosed)
    assert (end.bytes_to_target, end.bytes_to_client) == (8, 7)
    nursery.cancel_scope.cancel()


async def test_one_that_is_closed_after_everything_was_read(scene: Scene, nursery: trio.Nursery) -> None:
    stream, target = await scene.pair()
    await target.send_eof()
    assert await stream.receive_some() == b""
    await stream.send_all(b"the end")
    await stream.aclose()
    await scene.wait_end()
    assert scene.closed() == ("closed", Reason.NO_ERROR, "finished", "finished")
    end = scene.end()
    assert isinstance(end, StreamClosed)
    assert end.bytes_to_target == 7
    nursery.cancel_scope.cancel()


async def test_one_that_is_closed_before_the_target_ends(scene: Scene, nursery: trio.Nursery) -> None:
    stream, target = await scene.pair()
    await target.send_all(b"answer")
    assert await stream.receive_some() == b"answer"
    await stream.aclose()
    await scene.wait_end()
    assert scene.closed() == ("closed-with-reset", Reason.CANCELLED, "finished", "stopped-by-application")
    nursery.cancel_scope.cancel()


async def test_one_whose_target_stops_reading(scene: Scene, nursery: trio.Nursery) -> None:
    stream, target = await scene.pair()
    await target.send_all(b"too much")
    await target.aclose()
    assert await stream.receive_some() == b"too much"
    assert await stream.receive_some() == b""
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")
    await stream.aclose()
    outcome, _, to_target, to_client = scene.closed()
    assert (outcome, to_target, to_client) == ("closed-with-reset", "stopped-by-target", "finished")
    nursery.cancel_scope.cancel()


async def test_one_that_the_program_resets(scene: Scene, nursery: trio.Nursery) -> None:
    with pytest.raises(KeyError):
        async with (await scene.pair())[0]:
            raise KeyError
    assert scene.closed() == ("broken", Reason.CANCELLED, "reset-by-application", "reset-by-application")
    nursery.cancel_scope.cancel()


async def test_one_that_the_target_resets(scene: Scene, nursery: trio.Nursery) -> None:
    stream, target = await scene.pair()
    target.reset(Reason.TARGET_RESET)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()
    assert scene.closed() == ("broken", Reason.TARGET_RESET, "reset-by-target", "reset-by-target")
    nursery.cancel_scope.cancel()


async def test_one_whose_target_ends_without_reading_everything(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stream, target = await scene.pair()
    written = await fill(stream)
    await stream.send_eof()
    await target.aclose()
    assert await stream.receive_some() == b""
    outcome, reason, to_target, to_client = scene.closed()
    assert (outcome, to_target, to_client) == ("closed-with-reset", "stopped-by-target", "finished")
    assert reason is not Reason.NO_ERROR
    end = scene.end()
    assert isinstance(end, StreamClosed)
    assert 0 < end.bytes_to_target < written
    nursery.cancel_scope.cancel()


async def fill(stream: MuxStream) -> int:
    """Send until nothing more is accepted; returns how many bytes were queued or written. Needs a mock clock."""
    written = 0
    with trio.move_on_after(1):
        while True:
            await stream.send_whole(bytes(10_000))
            written += 10_000
    return written


@pytest.mark.parametrize("by_target", [True, False])
async def test_one_that_is_reset_before_everything_is_sent(
    scene: Scene, nursery: trio.Nursery, by_target: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Its end of file was queued, after data for which the target had no room."""
    stream, target = await scene.pair()
    written = await fill(stream)
    await stream.send_eof()
    if by_target:
        target.reset(Reason.TARGET_RESET)
        await trio.testing.wait_all_tasks_blocked()
    else:
        stream.reset()
    side = "target" if by_target else "application"
    reason = Reason.TARGET_RESET if by_target else Reason.CANCELLED
    assert scene.closed() == ("broken", reason, f"reset-by-{side}", f"reset-by-{side}")
    end = scene.end()
    assert isinstance(end, StreamClosed)
    assert 0 < end.bytes_to_target < written, "what was dropped is not counted"
    nursery.cancel_scope.cancel()


async def test_one_that_is_lost_with_its_session(scene: Scene, nursery: trio.Nursery) -> None:
    await scene.pair()
    scene.session.close(Reason.SESSION_LOST)
    assert scene.closed() == ("broken", Reason.SESSION_LOST, "lost", "lost")
    nursery.cancel_scope.cancel()


async def test_one_that_nobody_reads_or_closes_ends_with_its_session(scene: Scene, nursery: trio.Nursery) -> None:
    """All that the target has sent is there, and nobody reads it: the session has nothing left to do for it."""
    stream, target = await scene.pair()
    await stream.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    await target.send_all(b"unread")
    await target.aclose()
    await trio.testing.wait_all_tasks_blocked()
    scene.session.close()
    end = scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.to_target, end.to_client, end.bytes_to_client) == ("finished", "lost", 0)
    assert await stream.receive_some() == b"unread"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reads_first", [True, False])
async def test_one_of_which_nobody_reads_the_end_of_file(
    scene: Scene, nursery: trio.Nursery, reads_first: bool
) -> None:
    """The program knows from what it has read that nothing follows, and neither reads on nor closes the stream."""
    stream, target = await scene.pair()
    await stream.send_eof()
    await target.send_all(b"answer")
    if reads_first:
        assert await stream.receive_some() == b"answer"
    await target.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    if not reads_first:
        assert await stream.receive_some() == b"answer"
    await scene.wait_end()
    assert scene.closed() == ("closed", Reason.NO_ERROR, "finished", "finished")
    assert len(scene.requests) == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wait_opened", [True, False])
async def test_one_that_the_target_refuses(scene: Scene, nursery: trio.Nursery, wait_opened: bool) -> None:
    async def refuse() -> None:
        (await scene.connector.offers.receive()).refuse(Reason.TARGET_REFUSED, "nobody is there")

    nursery.start_soon(refuse)
    with pytest.raises(StreamRefused):
        await (await scene.open(wait_opened=wait_opened)).wait_opened()
    end = scene.end()
    assert isinstance(end, StreamNotOpened)
    assert (end.reason, end.detail) == (Reason.TARGET_REFUSED, "nobody is there")
    nursery.cancel_scope.cancel()


async def test_one_that_is_given_up_before_it_is_open(scene: Scene, nursery: trio.Nursery) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as opening:
            opening.start_soon(scene.open)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    end = scene.end()
    assert isinstance(end, StreamNotOpened)
    assert end.reason is Reason.CANCELLED
    nursery.cancel_scope.cancel()


async def test_one_that_is_closed_before_it_is_open(scene: Scene, nursery: trio.Nursery) -> None:
    await (await scene.open(wait_opened=False)).aclose()
    end = scene.end()
    assert isinstance(end, StreamNotOpened)
    assert end.reason is Reason.CANCELLED
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("accepted", [True, False])
async def test_one_that_is_closed_after_sending_and_before_it_is_open(
    scene: Scene, nursery: trio.Nursery, accepted: bool
) -> None:
    stream = await scene.open(wait_opened=False)
    await stream.send_all(b"question")
    await stream.aclose()
    assert len(scene.published) == 1
    offer = await scene.connector.offers.receive()
    if accepted:
        target = offer.accept()
        assert await target.receive_some() == b"question"
        assert await target.receive_some() == b""
    else:
        offer.refuse(Reason.TARGET_REFUSED)
    await scene.wait_end()
    end = scene.end()
    if accepted:
        assert scene.closed() == ("closed-with-reset", Reason.CANCELLED, "finished", "stopped-by-application")
        assert isinstance(end, StreamClosed)
        assert end.bytes_to_target == len(b"question")
    else:
        assert isinstance(end, StreamNotOpened)
        assert end.reason is Reason.TARGET_REFUSED
        assert scene.refused == [Reason.TARGET_REFUSED]
    nursery.cancel_scope.cancel()


async def test_one_that_was_aborted_before_it_is_followed(scene: Scene, nursery: trio.Nursery) -> None:
    with scene.reports.request() as follow:
        stream = scene.session.open_stream_nowait()
        scene.session.close(Reason.SESSION_LOST)
        follow(stream)
    end = scene.end()
    assert isinstance(end, StreamNotOpened)
    assert end.reason is Reason.SESSION_LOST
    nursery.cancel_scope.cancel()


@attrs.frozen
class Failure:
    raised: Exception
    reason: Reason


@pytest.mark.parametrize(
    "failure",
    [
        Failure(RelayUnreachable("down", reason=Reason.RELAY_UNREACHABLE), Reason.RELAY_UNREACHABLE),
        Failure(trio.ClosedResourceError("the client was closed"), Reason.GOING_AWAY),
        Failure(KeyError("a bug"), Reason.INTERNAL_ERROR),
    ],
)
async def test_one_for_which_there_is_no_session(failure: Failure) -> None:
    published: list[Event] = []
    counters = EndpointCounters()
    requests = StreamRequests(lambda: STRING, counters)
    reports = StreamReports(EventStream(published.append), requests, lambda _: "0A", counters)
    with pytest.raises(type(failure.raised)), reports.request(None):
        raise failure.raised
    requested, end = published
    assert isinstance(requested, StreamRequested)
    assert isinstance(end, StreamNotOpened)
    assert (end.activity_id, end.reason) == (requested.activity_id, failure.reason)
    assert counters.streams_opened == {("db", failure.reason.slug): 1}
    assert len(requests) == 0


async def test_what_the_client_knows_is_in_each_event(scene: Scene, nursery: trio.Nursery) -> None:
    with scene.reports.request(22) as follow:
        stream = scene.session.open_stream_nowait()
        follow(stream)
    (await scene.connector.offers.receive()).refuse(Reason.TARGET_REFUSED)
    await scene.wait_end()
    requested, end = scene.published
    assert isinstance(requested, StreamRequested)
    assert isinstance(end, StreamNotOpened)
    assert (requested.target, requested.route, requested.serial) == ("sql01:22", "", "")
    assert (end.target, end.route, end.serial) == ("sql01:22", "tcp at relay.example", "0A")
    nursery.cancel_scope.cancel()


async def test_an_application_whose_connection_was_closed_at_once_has_no_address() -> None:
    def application() -> str:
        raise OSError(107, "not connected")

    requests = StreamRequests(lambda: STRING, EndpointCounters())
    about = requests.about(requests.begin(application))
    assert (about["application"], about["target"]) == ("", "sql01:21")


async def test_one_that_is_refused_after_the_program_has_got_it(scene: Scene, nursery: trio.Nursery) -> None:
    """The client may look for another connector for the next one."""
    await scene.open(wait_opened=False)
    (await scene.connector.offers.receive()).refuse(Reason.TARGET_REFUSED)
    await scene.wait_end()
    end = scene.end()
    assert isinstance(end, StreamNotOpened)
    assert scene.refused == [end.reason] == [Reason.TARGET_REFUSED]
    nursery.cancel_scope.cancel()


async def test_one_of_datagrams_that_is_refused_after_the_program_has_got_it(nursery: trio.Nursery) -> None:
    scene = Scene(*await session_pair(nursery, config=SessionConfig(features=Feature.DATAGRAMS)))
    with scene.reports.request_flow(str) as follow:
        follow(scene.session.open_flow_nowait())
    (await scene.connector.offers.receive()).refuse(Reason.TARGET_UNREACHABLE)
    await scene.wait_end()
    assert scene.refused == [Reason.TARGET_UNREACHABLE]
    nursery.cancel_scope.cancel()
