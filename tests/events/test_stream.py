"""Which subscribers get an event, in which order, and what happens if one of them fails."""

from __future__ import annotations

import logging

import pytest

from hybridrelay.events import Event, EventStream, StoreReadable, StoreUnreadable

FIRST = StoreUnreadable(detail="the disk is gone", remedy="mount it")
SECOND = StoreReadable()


def test_every_subscriber_is_called_in_the_order_in_which_they_subscribed() -> None:
    called: list[tuple[str, Event]] = []
    stream = EventStream(lambda event: called.append(("a", event)))
    stream.subscribe(lambda event: called.append(("b", event)))

    stream.publish(FIRST)
    stream.publish(SECOND)

    assert called == [("a", FIRST), ("b", FIRST), ("a", SECOND), ("b", SECOND)]


def test_a_subscriber_that_raises_neither_stops_the_others_nor_goes_unnoticed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    received: list[Event] = []

    def fail(event: Event) -> None:
        raise ValueError("a bug of this subscriber")

    stream = EventStream(fail, received.append)
    stream.publish(FIRST)

    assert received == [FIRST]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "store.unreadable" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a bug of this subscriber"


def test_a_subscriber_is_not_called_after_it_has_unsubscribed() -> None:
    received: list[Event] = []
    stream = EventStream()
    with stream.subscribed(received.append):
        stream.publish(FIRST)
    stream.publish(SECOND)

    assert received == [FIRST]
    with pytest.raises(ValueError, match="not in list"):
        stream.unsubscribe(received.append)


def test_subscribers_may_change_while_an_event_is_delivered() -> None:
    received: list[Event] = []

    def once(event: Event) -> None:
        stream.unsubscribe(once)
        received.append(event)

    stream = EventStream(once, received.append)
    stream.publish(FIRST)
    stream.publish(SECOND)

    assert received == [FIRST, FIRST, SECOND]


def test_two_streams_are_independent() -> None:
    a: list[Event] = []
    b: list[Event] = []
    EventStream(a.append).publish(FIRST)
    EventStream(b.append).publish(SECOND)

    assert (a, b) == ([FIRST], [SECOND])
