"""How often ``hybridrelay events --follow`` asks, whatever answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import trio
import trio.testing

from hybridrelay.cli.commands.events import follow
from hybridrelay.errors import ManagementError
from hybridrelay.management import LocalAddress, ManagementClient
from hybridrelay.management.following import EventPage, EventValue

T = TypeVar("T")

LAST = 100


def event(number: int) -> EventValue:
    return EventValue(
        number=number, time="2026-01-01T00:00:00Z", level="info", name="relay.started", operation=None,
        summary="The relay has started", fields={},
    )  # fmt: skip


class Answering(ManagementClient):
    """Gets these answers at once, or after it has waited as long as it was asked to."""

    def __init__(self, answers: Iterator[EventPage | ManagementError], *, waits: bool = False) -> None:
        super().__init__(LocalAddress(Path("nowhere")))
        self._answers = answers
        self._waits = waits
        self.since: list[object] = []

    async def get(
        self, path: str, kind: type[T], *, query: Mapping[str, str | float | None] | None = None, seconds: float = 0
    ) -> T:
        assert query is not None
        self.since.append(query["since"])
        assert len(self.since) < 10_000, "it asks without a pause"
        if self._waits:
            await trio.sleep(seconds)
        await trio.lowlevel.checkpoint()
        answer = next(self._answers)
        if isinstance(answer, ManagementError):
            raise answer
        return msgspec.convert(answer, kind)


async def requests_in(seconds: float, client: Answering) -> int:
    with trio.move_on_after(seconds):
        await follow(client, LAST, as_json=False)
    return len(client.since)


def nothing(number: int) -> EventPage:
    return EventPage(value=(), last=LAST, has_all=True)


def nothing_further(number: int) -> EventPage:
    return EventPage(value=(), last=LAST + number, has_all=True)


def the_same(number: int) -> EventPage:
    return EventPage(value=(event(LAST),), last=LAST, has_all=False)


def an_error(number: int) -> ManagementError:
    return ManagementError("the answer has the status 302 and is not from the management API of a relay")


@pytest.mark.parametrize("answer", [nothing, nothing_further, the_same, an_error])
async def test_what_answers_at_once_is_asked_less_and_less(
    answer: Callable[[int], EventPage | ManagementError], autojump_clock: trio.testing.MockClock
) -> None:
    asked = await requests_in(600, Answering(map(answer, itertools.count(1))))
    assert asked <= (300 if answer is an_error else 25)


async def test_one_event_at_a_time_is_shown_soon(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = (EventPage(value=(event(LAST + n),), last=LAST + n, has_all=True) for n in itertools.count(1))
    client = Answering(pages)
    assert 40 <= await requests_in(10, client) <= 60
    assert client.since[:3] == [LAST, LAST + 1, LAST + 2]
    assert capsys.readouterr().out.count("relay.started") >= 40


async def test_a_relay_that_waits_is_asked_again_at_once(autojump_clock: trio.testing.MockClock) -> None:
    client = Answering(map(nothing, itertools.count()), waits=True)
    assert await requests_in(251, client) == 11


async def test_a_relay_that_answers_again_is_reported_before_there_is_an_event(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    failing: list[EventPage | ManagementError] = [an_error(0)]
    answers = itertools.chain(failing, map(nothing, itertools.count()))
    assert await requests_in(28, Answering(answers, waits=True)) == 3
    assert "the relay answers again" in caplog.text


async def test_an_event_after_pauses_ends_them(autojump_clock: trio.testing.MockClock) -> None:
    events = (EventPage(value=(event(n),), last=n, has_all=True) for n in itertools.count(LAST + 1))
    client = Answering(itertools.chain([nothing(0)] * 5, events))
    assert await requests_in(1 + 2 + 4 + 8 + 16 + 10, client) >= 45
