"""The audit log: a line for each event of a stream, and for no other event."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TypedDict

import pytest

from hybridrelay import events
from hybridrelay.connector.audit_logger import AuditLogger
from hybridrelay.protocol.reasons import Reason


class Stream(TypedDict):
    """What every event of a stream says."""

    connection: str
    activity_id: str
    label: str
    serial: str
    target: str


class Amounts(TypedDict):
    """What the events at the end of a stream, and those meanwhile, say of it."""

    bytes_to_client: int
    bytes_to_target: int
    seconds: float


STREAM: Stream = {
    "connection": "orders",
    "activity_id": "ab-17",
    "label": "web shop",
    "serial": "0A",
    "target": "db:5432",
}
SHOWN = {"id": "ab-17", "connection": "orders", "label": "web shop", "serial": "0A", "target": "db:5432"}
OPENED = events.StreamOpened(**STREAM, session="ab", stream=17, route="tcp at relay.example")
AMOUNTS: Amounts = {"bytes_to_client": 7, "bytes_to_target": 5, "seconds": 1.25}


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    """The fields of each line, as they come."""
    found: list[dict[str, object]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(vars(record)["fields"])

    logger, handler = logging.getLogger("hybridrelay.audit"), Collector()
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(before)
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (OPENED, {"event": "open", "session": "ab", "stream": 17, "route": "tcp at relay.example"}),
        (
            events.StreamNotConnected(
                **STREAM, reason=Reason.TARGET_REFUSED, detail="Connection refused", seconds=1.25
            ),
            {
                "event": "refused",
                "reason": "target-refused",
                "bytes_to_client": 0,
                "bytes_to_target": 0,
                "seconds": 1.25,
                "detail": "Connection refused",
            },
        ),
        (
            events.StreamClosed(
                **STREAM,
                outcome="closed",
                reason=Reason.NO_ERROR,
                to_target="finished",
                to_client="finished",
                **AMOUNTS,
            ),
            {
                "event": "closed",
                "reason": "no-error",
                "to_target": "finished",
                "to_client": "finished",
                **AMOUNTS,
            },
        ),
        (events.StreamStillOpen(**STREAM, **AMOUNTS), {"event": "still-open", **AMOUNTS}),
    ],
    ids=["open", "refused", "closed", "still-open"],
)
def test_a_line_has_the_facts(event: events.Event, fields: dict[str, object], lines: list[dict[str, object]]) -> None:
    AuditLogger()(event)

    kind = fields.pop("event")
    assert lines == [{"event": kind, **SHOWN, **fields}]


def test_a_refusal_without_a_detail_has_none(lines: list[dict[str, object]]) -> None:
    AuditLogger()(events.StreamNotConnected(**STREAM, reason=Reason.LIMIT))

    assert "detail" not in lines[0]


def test_the_text_has_all_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hybridrelay.audit")

    AuditLogger()(OPENED)

    assert caplog.text.endswith(
        "event='open' id='ab-17' connection='orders' label='web shop' serial='0A' target='db:5432' "
        "route='tcp at relay.example' session='ab' stream=17\n"
    )


def test_other_events_are_not_logged(lines: list[dict[str, object]]) -> None:
    AuditLogger()(events.SessionEnded(connection="orders", activity_id="ab", reason=Reason.NO_ERROR))

    assert lines == []
