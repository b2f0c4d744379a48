"""The latest events, numbered: nothing is missed without a word, and nothing is shown twice."""

from __future__ import annotations

from typing import ClassVar

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.events import Event, InternalError, Level
from hybridrelay.management.feed import Feed, FeedPage


@attrs.frozen(kw_only=True)
class _Happened(Event):
    name: ClassVar = "test.happened"
    operation: ClassVar = "TestHappened"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A test has happened"
    connection: str = "orders"
    count: int = 0


@attrs.frozen(kw_only=True)
class _Detail(Event):
    name: ClassVar = "test.detail"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A detail"


def anything(name: str, connection: str | None) -> bool:
    return True


def counts(page: FeedPage) -> list[object]:
    return [event.fields["count"] for event in page.events]


@pytest.fixture
def feed() -> Feed:
    return Feed(lambda: 1_000.5, max_events=3)


async def test_each_event_is_read_once_and_in_order(feed: Feed) -> None:
    start = feed.last
    for count in (1, 2, 3):
        feed(_Happened(count=count))
    first = await feed.read(start, 2, anything)
    assert (counts(first), first.has_all) == ([1, 2], True)
    rest = await feed.read(first.last, 2, anything)
    assert (counts(rest), rest.last, rest.has_all) == ([3], feed.last, True)
    assert await feed.read(feed.last, 2, anything) == FeedPage((), feed.last, has_all=True)
    event = first.events[0]
    assert (event.name, event.operation, event.level, event.time) == (
        "test.happened", "TestHappened", Level.INFO, 1_000.5,
    )  # fmt: skip
    assert event.fields["connection"] == "orders"


async def test_what_is_no_longer_kept_is_known_to_be_missing(feed: Feed) -> None:
    start = feed.last
    numbers = []
    for count in range(1, 6):
        feed(_Happened(count=count))
        numbers.append(feed.last)
    for after, has_all in ((start, False), (numbers[0], False), (numbers[1], True)):
        page = await feed.read(after, 10, anything)
        assert (counts(page), page.has_all) == ([3, 4, 5], has_all)
    assert counts(await feed.read(numbers[3], 10, anything)) == [5]


async def test_numbers_of_another_run_are_not_numbers_of_this_one(feed: Feed) -> None:
    later = Feed(lambda: 1_001.5)
    feed(_Happened(count=1))
    later(_Happened(count=2))
    assert later.last > feed.last
    page = await later.read(feed.last, 10, anything)
    assert (counts(page), page.has_all) == ([2], False)
    page = await feed.read(later.last, 10, anything)
    assert (counts(page), page.has_all) == ([1], False)


async def test_what_is_not_wanted_is_passed_over_once(feed: Feed) -> None:
    start = feed.last
    feed(_Happened(connection="a"))
    feed(_Happened(connection="b"))
    assert await feed.read(start, 10, lambda _name, _connection: False) == FeedPage((), feed.last, has_all=True)


async def test_only_what_is_wanted_is_formatted(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    start = feed.last
    for name in ("a", "", "b"):
        feed(_Happened(connection=name))
    asked, formatted = list[tuple[str, str | None]](), list[Event]()

    def is_wanted(name: str, connection: str | None) -> bool:
        asked.append((name, connection))
        return connection == "b"

    def fields(event: Event) -> dict[str, str]:
        formatted.append(event)
        return {}

    monkeypatch.setattr("hybridrelay.management.feed.event_fields", fields)
    assert len((await feed.read(start, 10, is_wanted)).events) == 1
    assert asked == [("test.happened", "a"), ("test.happened", None), ("test.happened", "b")]
    assert len((await feed.latest(10, is_wanted)).events) == 1
    assert formatted == [_Happened(connection="b")] * 2


async def test_details_and_exceptions_are_not_kept(feed: Feed) -> None:
    start = feed.last
    feed(_Detail())
    feed(InternalError(where="here", exception=ValueError("x")))
    assert feed.last == start


async def test_waiting_ends_with_the_next_event(feed: Feed, nursery: trio.Nursery) -> None:
    start = feed.last
    ended = trio.Event()

    async def wait() -> None:
        await feed.wait(start)
        ended.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    assert not ended.is_set()
    feed(_Detail())
    await trio.testing.wait_all_tasks_blocked()
    assert not ended.is_set()
    feed(_Happened())
    await ended.wait()
    await feed.wait(start)  # and at once where there is one already
