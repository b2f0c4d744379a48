"""What `hybridrelay status` shows: problems first, then tables; and how `--watch` draws it."""

from __future__ import annotations

from os import terminal_size

import attrs
import msgspec
import pytest

from hybridrelay.cli.screen import redrawn
from hybridrelay.cli.status_text import duration, size, status_text
from hybridrelay.management import RelayStatus
from hybridrelay.management.live_values import (
    ConnectionState,
    ListenerValue,
    Places,
    RelayProblem,
    RelayValue,
    SenderValue,
    SessionValue,
)
from hybridrelay.management.paging import Rows

from ..management.live import listener, sender, session

PLACES = Places(used=1, total=100)
RELAY = RelayValue(
    version="1.2.3", problems=(), draining_since=None, pin="sha256:pin", ports={"control": ("127.0.0.1:5671",)},
    certificates=(), connection_count=1, listener_count=1, sender_count=1, session_count=1,
    unauthenticated=PLACES, pairs=PLACES, control_channels=PLACES,
)  # fmt: skip
STATUS = RelayStatus(
    RELAY,
    Rows.of(ConnectionState),
    Rows.of(ListenerValue, [ListenerValue.of(listener())]),
    Rows.of(SenderValue, [SenderValue.of(sender())]),
    Rows.of(SessionValue, [SessionValue.of(session())]),
)


def test_problems_come_first() -> None:
    problems = tuple(RelayProblem(code="x", detail=f"problem {number}", remedy="do it") for number in (1, 2))
    relay = msgspec.structs.replace(RELAY, problems=problems, draining_since=5.0)
    text = status_text(attrs.evolve(STATUS, relay=relay), now=1060.0)
    assert text.startswith("relay draining, version 1.2.3, pin sha256:pin\n")
    assert text.index("! problem 1\n    what to do: do it\n! problem 2") < text.index("listeners: 1")


def test_the_status_has_a_row_for_each_listener_sender_and_session() -> None:
    lines = status_text(STATUS, now=1060.0).splitlines()
    rows = [line.split() for line in lines if line.startswith("orders")]
    assert rows == [
        [
            *("orders", "1" * 32, "192.0.2.1", "tcp", "test/1", "connector/primary"),
            *("1", "min", "0", "s", "1", "7", "B", "5", "B", "no", "healthy", "5", "random,", "2", "only"),
        ],
        [
            *("orders", "2" * 32, "192.0.2.2", "websocket", "test/1", "application/secondary"),
            *("59", "s", "1", "7", "B", "5", "B"),
        ],
        ["orders", "4" * 32, "192.0.2.2", "websocket", "192.0.2.1", "tcp", "58", "s", "7", "B", "5", "B"],
    ]
    assert "hybrid connections: 0" in lines


def test_json_is_made_in_parts_that_belong_together() -> None:
    status = attrs.evolve(
        STATUS,
        listeners=Rows(
            ListenerValue,
            [msgspec.json.encode([ListenerValue.of(listener(f"n{one}"))] * 2) for one in range(3)] + [b"[]"],
        ),
        senders=Rows(SenderValue, [b"[]", b"[]"]),
    )
    text = "".join(status.json_parts())
    expected = {
        "relay": RELAY,
        "hybridConnections": [],
        "listeners": list(status.listeners),
        "senders": [],
        "sessions": list(status.sessions),
    }
    assert text == msgspec.json.format(msgspec.json.encode(expected), indent=2).decode()


def test_very_long_tables_are_aligned() -> None:
    rows = [ListenerValue.of(listener(f"n{number}")) for number in range(2500)]
    text = status_text(attrs.evolve(STATUS, listeners=Rows.of(ListenerValue, rows)), now=1060.0)
    lines = [line for line in text.splitlines() if line.startswith("n")]
    assert [line.split()[0] for line in lines] == [f"n{number}" for number in range(2500)]
    assert len({line.index("1" * 32) for line in lines}) == 1
    assert "listeners: 2500" in text.splitlines()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_499, "999 kB"),
        (999_500, "1.00 MB"), (9_996_000, "10.0 MB"), (99_960_000_000, "100 GB"), (10**21, "1000 EB"),
    ],
)  # fmt: skip
def test_a_size_is_shown_with_its_unit(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1.0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_a_duration_is_shown_with_its_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_picture_is_drawn_over_the_one_before_and_fits() -> None:
    assert redrawn("ab\nc", terminal_size((80, 24))) == "\x1b[Hab\x1b[K\r\nc\x1b[K\r\n\x1b[J"
    drawn = redrawn("\n".join("x" * 50 for _ in range(50)), terminal_size((40, 10)))
    lines = drawn.removeprefix("\x1b[H").removesuffix("\x1b[J").split("\x1b[K\r\n")[:-1]
    assert lines == ["x" * 40] * 8 + ["... 42 more lines: see them without --watch"[:40]]
