"""The ids by which sessions and streams are followed."""

from __future__ import annotations

from hybridrelay.connectivity.activity import session_activity_id, stream_activity_id


def test_an_id_depends_on_the_session_and_on_the_identity_of_the_application() -> None:
    one = session_activity_id(bytes(16), "0A")
    assert one == session_activity_id(bytes(16), "0A")
    others = {session_activity_id(bytes(15) + b"\1", "0A"), session_activity_id(bytes(16), "0B")}
    assert len({one, *others}) == 3
    assert len(one) == 16
    assert set(one) <= set("0123456789abcdef")
    assert bytes(16).hex() not in one


def test_the_id_of_a_stream_begins_with_that_of_its_session() -> None:
    assert stream_activity_id("5e55", 17) == "5e55-17"
