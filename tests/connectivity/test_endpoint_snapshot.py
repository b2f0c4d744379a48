"""What several clients of one program hold together."""

from __future__ import annotations

from hybridrelay.connectivity.snapshot import EndpointSnapshot

from ..monitoring.snapshots import connection, endpoint, session, stream


def test_several_clients_are_one_program() -> None:
    one = endpoint(
        connection("a"), sessions=(session(3), session(5)), streams=(stream(2), stream(9)), session_count=7
    )
    other = endpoint(connection("b"), sessions=(session(4),), streams=(stream(1),), transports={"websocket": True})
    one.counters.stream_opened("a")
    other.counters.stream_opened("b")
    both = EndpointSnapshot.merged([one, other], max_sessions=2, max_streams=2)
    assert [item.name for item in both.connections] == ["a", "b"]
    assert [item.since for item in both.sessions] == [3, 4], "the oldest"
    assert [item.since for item in both.streams] == [1, 2]
    assert (both.session_count, both.stream_count) == (8, 3)
    assert (both.queued, both.unread, both.unacknowledged, both.reserved) == (2, 4, 6, 8)
    assert both.transports == {"tcp": True, "websocket": True}
    assert both.counters.streams_opened.total() == 2
    assert one.counters.streams_opened.total() == 1
    assert EndpointSnapshot.merged([], max_sessions=1, max_streams=1).connections == ()
