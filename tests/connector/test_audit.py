"""The audit log: what is said of a stream, and when."""

from __future__ import annotations

import logging

import attrs
import pytest

from hybridrelay.connector.audit import REPEAT_SECONDS, AuditLog, Ending, Outcome, outcome_of
from hybridrelay.mux import Bridged, Party
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, PeerIdentity, Role

PEER = PeerIdentity("orders", Role.APPLICATION, "web shop", "0A", 4e9)
RESET, CANCELLED, LOST = Reason.TARGET_RESET, Reason.CANCELLED, Reason.SESSION_LOST


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """The fields of each line, as they come."""
    caplog.set_level(logging.INFO, "hybridrelay.audit")
    found: list[dict[str, object]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.fields)  # type: ignore[attr-defined]

    logger, handler = logging.getLogger("hybridrelay.audit"), Collector()
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


RUDELY = "closed-with-reset"
GOING_AWAY = Reason.GOING_AWAY
FINISHED, STOPPED = Ending.FINISHED, Ending.STOPPED_BY_APPLICATION
BY_TARGET, BY_APPLICATION, GONE = Ending.RESET_BY_TARGET, Ending.RESET_BY_APPLICATION, Ending.LOST


@pytest.mark.parametrize(
    ("bridged", "event", "to_target", "to_client", "reason"),
    [
        # Both ended in good order.
        ({"received_all": True, "sent_all": True}, "closed", FINISHED, FINISHED, Reason.NO_ERROR),
        # PostgreSQL inside TLS: psql has said everything and ended, the server resets.
        ({"received_all": True, "ended_by": Party.LOCAL, "reason": RESET}, RUDELY, FINISHED, BY_TARGET, RESET),
        # The server has ended, and the application resets.
        ({"sent_all": True, "ended_by": Party.PEER, "reason": RESET}, RUDELY, BY_APPLICATION, FINISHED, RESET),
        # The application has ended both directions at once, and did not wait for the answer.
        (
            {"received_all": True, "peer_stopped": True, "ended_by": Party.PEER, "reason": CANCELLED},
            RUDELY, FINISHED, STOPPED, CANCELLED,
        ),
        # In the middle of a transfer.
        ({"ended_by": Party.LOCAL, "reason": RESET}, "broken", BY_TARGET, BY_TARGET, RESET),
        ({"ended_by": Party.PEER, "reason": RESET}, "broken", BY_APPLICATION, BY_APPLICATION, RESET),
        ({"ended_by": Party.SESSION, "reason": LOST}, "broken", GONE, GONE, LOST),
        ({"ended_by": Party.CALLER, "reason": CANCELLED}, "broken", GONE, GONE, GOING_AWAY),
        # One direction was complete, and the other one was cut off by somebody else.
        ({"received_all": True, "ended_by": Party.SESSION, "reason": LOST}, "broken", FINISHED, GONE, LOST),
        ({"sent_all": True, "ended_by": Party.SESSION, "reason": LOST}, "broken", GONE, FINISHED, LOST),
        ({"received_all": True, "ended_by": Party.CALLER, "reason": CANCELLED}, "broken", FINISHED, GONE, GOING_AWAY),
        # The target had ended, and resets before it has taken everything.
        ({"sent_all": True, "ended_by": Party.LOCAL, "reason": RESET}, "broken", BY_TARGET, FINISHED, RESET),
        # The application has ended, and takes back what it may still get.
        ({"received_all": True, "ended_by": Party.PEER, "reason": RESET}, "broken", FINISHED, BY_APPLICATION, RESET),
    ],
)  # fmt: skip
def test_what_is_said_of_an_ending(
    bridged: dict[str, object], event: str, to_target: Ending, to_client: Ending, reason: Reason
) -> None:
    outcome = outcome_of(attrs.evolve(Bridged(7, 5, Reason.NO_ERROR), **bridged))
    assert outcome == Outcome(event, to_target, to_client, reason)


def test_a_line_at_the_beginning_and_one_at_the_end(lines: list[dict[str, object]]) -> None:
    clock = Clock()
    audit = AuditLog(clock)
    entry = audit.begin("orders", PEER, HostPort("db", 5432))
    entry.opened(session=3, stream=17, route="tcp at relay.example")
    identity = {"id": entry.id, "connection": "orders", "label": "web shop", "serial": "0A", "target": "db:5432"}
    assert lines == [{"event": "open", **identity, "session": 3, "stream": 17, "route": "tcp at relay.example"}]
    clock.now += 1.25
    entry.ended(Bridged(7, 5, Reason.NO_ERROR, sent_all=True, received_all=True))
    assert lines[1:] == [
        {
            "event": "closed",
            **identity,
            "reason": "no-error",
            "to_target": "finished",
            "to_client": "finished",
            "bytes_to_client": 7,
            "bytes_to_target": 5,
            "seconds": 1.25,
        }
    ]
    entry.ended(Bridged(9, 9, Reason.NO_ERROR))
    entry.refused(Reason.INTERNAL_ERROR)
    assert len(lines) == 2, "there is one outcome"


def test_a_refusal(lines: list[dict[str, object]]) -> None:
    audit = AuditLog(Clock())
    audit.begin("orders", PEER, HostPort("db", 5432)).refused(Reason.TARGET_REFUSED, detail="Connection refused")
    assert [(line["event"], line["reason"], line["detail"]) for line in lines] == [
        ("refused", "target-refused", "Connection refused")
    ]


def test_the_text_has_all_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hybridrelay.audit")
    entry = AuditLog(Clock()).begin("orders", PEER, HostPort("db", 5432))
    entry.opened(session=1, stream=1, route="tcp at r")
    (text,) = caplog.messages
    assert text == (
        f"event='open' id='{entry.id}' connection='orders' label='web shop' serial='0A' target='db:5432' "
        "session=1 stream=1 route='tcp at r'"
    )


def test_ids_are_unique_also_among_runs() -> None:
    logs = [AuditLog(Clock()) for _ in range(2)]
    ids = [log.begin("orders", PEER, HostPort("db", 1)).id for log in logs for _ in range(100)]
    assert len(set(ids)) == 200


def test_what_is_open_for_days_is_told_of_each_day(lines: list[dict[str, object]]) -> None:
    clock = Clock()
    audit = AuditLog(clock)
    entry, short = (audit.begin("orders", PEER, HostPort("db", 5432)) for _ in range(2))
    waiting = audit.begin("orders", PEER, HostPort("db", 5432))
    entry.progress = short.progress = lambda: Bridged(700, 500, Reason.NO_ERROR)
    clock.now += REPEAT_SECONDS - 1
    audit.repeat()
    short.ended(Bridged(7, 5, Reason.NO_ERROR))
    lines.clear()
    for _ in range(3):
        clock.now += REPEAT_SECONDS
        audit.repeat()
        audit.repeat()
    assert [(line["event"], line["id"], line["bytes_to_client"], line["bytes_to_target"]) for line in lines] == [
        ("still-open", entry.id, 700, 500)
    ] * 3
    assert waiting.progress is None
