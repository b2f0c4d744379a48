"""Events as log lines."""

from __future__ import annotations

import json
import logging
from collections import Counter

import pytest
import trio
import trio.testing

from hybridrelay._log_limit import LINES, SECONDS, report_left_out
from hybridrelay.cli.logs import JSONFormatter, LineFormatter
from hybridrelay.events import (
    InternalError,
    LogSubscriber,
    ManagementCalled,
    ManagementCallRefused,
    RendezvousEnded,
    StoreReadable,
    TokenRefused,
    event_fields,
    event_text,
    logged_events,
)
from hybridrelay.protocol.reasons import Reason

ENDED = RendezvousEnded(
    connection="orders",
    activity_id="5f0a91c2",
    outcome="finished",
    reason=Reason.NO_ERROR,
    bytes_to_client=1532,
    bytes_to_connector=210,
    seconds=3.20012,
)


def test_a_log_line_has_the_summary_and_all_fields() -> None:
    assert event_text(ENDED) == (
        "A rendezvous has ended: connection=orders activity_id=5f0a91c2 outcome=finished reason=no-error "
        "bytes_to_client=1532 bytes_to_connector=210 seconds=3.2"
    )
    assert event_text(StoreReadable()) == StoreReadable.summary


def test_a_json_line_has_the_event_and_its_operation(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    LogSubscriber()(ENDED)
    (record,) = caplog.records
    record.created = 1_700_000_000.25

    assert json.loads(JSONFormatter().format(record)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "hybridrelay.events",
        "message": event_text(ENDED),
        "event": "rendezvous.ended",
        "operation": "SenderConnectionClosed",
        "connection": "orders",
        "activityId": "5f0a91c2",
        "reason": "no-error",
        "fields": {"outcome": "finished", "bytes_to_client": 1532, "bytes_to_connector": 210, "seconds": 3.2},
    }
    assert (
        LineFormatter().format(record).startswith("2023-11-14T22:13:20.250Z info    rendezvous.ended: A rendezvous")
    )


def test_fields_without_a_value_are_left_out() -> None:
    refused = TokenRefused(connection="orders", right="send", reason=Reason.RIGHT_MISSING, detail="")
    assert event_fields(refused) == {"connection": "orders", "right": "send", "reason": "right-missing"}


@pytest.mark.parametrize("sent", ["a peer=10.0.0.1", "a\nb", "it's", "\u00e9", "a\x1b[2J", 'say "x"', "a=b", "a,b"])
def test_a_peer_cannot_forge_a_field(sent: str) -> None:
    refused = TokenRefused(connection="orders", right="send", reason=Reason.RIGHT_MISSING, detail=sent)
    text = event_text(refused)
    assert text.endswith(f" detail={sent!r}")
    assert text.isprintable()


def test_an_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("why")
    except ValueError as exc:
        logged_events().publish(InternalError(where="port data", exception=exc))

    (record,) = caplog.records
    assert "ValueError: why" in LineFormatter().format(record)
    assert "why" not in record.getMessage()


async def test_events_of_one_class_are_limited(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream = logged_events()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_left_out)
        for _ in range(LINES + 3):
            stream.publish(ENDED)
        stream.publish(StoreReadable())
        await trio.sleep(SECONDS + 1)
        nursery.cancel_scope.cancel()

    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        *[event_text(ENDED)] * LINES,
        StoreReadable.summary,
        f"3 more lines like this were left out in {SECONDS:.0f} s: {event_text(ENDED)}",
    ]


async def test_events_below_the_level_of_the_log_are_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    stream = logged_events()
    for _ in range(LINES + 1):
        stream.publish(ENDED)
    caplog.set_level(logging.INFO)
    stream.publish(ENDED)

    assert [record.getMessage() for record in caplog.records] == [event_text(ENDED)]


async def test_the_calls_of_identified_administrators_are_never_left_out(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However many there are, and however many calls of strangers are refused meanwhile."""
    caplog.set_level(logging.INFO)
    subscriber = LogSubscriber()
    for number in range(3 * LINES):
        id_ = str(number)
        subscriber(ManagementCallRefused(operation_id="listKeys", peer="192.0.2.1", request_id=id_, status=401))
        subscriber(
            ManagementCalled(
                operation_id="listKeys",
                peer="192.0.2.1",
                request_id=id_,
                status=200,
                caller="token a",
                role="admin",
            )
        )
    logged = Counter(getattr(record, "event", "") for record in caplog.records)
    assert logged["management.called"] == 3 * LINES
    assert logged["management.call-refused"] <= LINES
