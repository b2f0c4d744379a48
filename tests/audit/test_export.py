"""Records in the formats of other systems."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from hybridrelay import __version__
from hybridrelay.audit.chain import Chain, time_text
from hybridrelay.audit.export import to_cef, to_ocsf
from hybridrelay.audit.keys import SigningKey
from hybridrelay.audit.record import record_of
from hybridrelay.events import all_events

from ..events.examples import example

STREAM: dict[str, Any] = {
    "seq": 7,
    "prev": "0" * 64,
    "at": "2026-03-01T12:00:00.250Z",
    "event": "stream.closed",
    "connection": "orders",
    "activity_id": "ab-17",
    "label": "a|b=c\\d",
    "serial": "0A",
    "target": "db:5432",
    "route": "tcp at relay.example.com",
    "client_address": "203.0.113.7",
    "address": "[2001:db8::1]:5432",
    "outcome": "closed",
    "reason": "no-error",
    "bytes_to_target": 210,
    "bytes_to_client": 1532,
}


def test_a_stream_in_ocsf() -> None:
    converted = to_ocsf(STREAM)

    assert {name: converted[name] for name in converted.keys() - {"metadata", "unmapped"}} == {
        "class_uid": 4001,
        "category_uid": 4,
        "activity_id": 2,
        "type_uid": 400102,
        "time": 1772366400250,
        "severity_id": 1,
        "status_id": 1,
        "status_detail": "no-error",
        "traffic": {"bytes_in": 1532, "bytes_out": 210},
        "dst_endpoint": {"hostname": "db", "port": 5432, "ip": "2001:db8::1"},
        "src_endpoint": {"ip": "203.0.113.7"},
        "actor": {"user": {"name": "a|b=c\\d", "uid": "0A"}},
    }
    assert converted["metadata"]["correlation_uid"] == "ab-17"


@pytest.mark.parametrize(
    ("record", "class_", "activity", "status"),
    [
        ({"event": "stream.opened"}, 4001, 1, 1),
        ({"event": "stream.closed", "outcome": "broken"}, 4001, 3, 1),
        ({"event": "stream.not-connected", "reason": "denied-by-policy"}, 4001, 5, 2),
        ({"event": "session.opened", "label": "shop"}, 3002, 1, 1),
        ({"event": "session.ended"}, 3002, 2, 1),
        ({"event": "policy.refused", "label": "shop"}, 3002, 1, 2),
        ({"event": "management.called", "operation_id": "listKeys", "caller": "token ci"}, 6003, 99, 1),
        ({"event": "log.checkpoint"}, 0, 99, 1),
    ],
)
def test_a_record_becomes_the_ocsf_event_of_its_class(
    record: dict[str, str], class_: int, activity: int, status: int
) -> None:
    converted = to_ocsf({**record, "at": "", "seq": 1})

    assert (converted["class_uid"], converted["activity_id"], converted["status_id"]) == (class_, activity, status)
    assert converted["type_uid"] == class_ * 100 + activity
    assert converted["metadata"]["event_code"] == record["event"]


def test_a_stream_in_cef() -> None:
    assert to_cef(STREAM) == (
        f"CEF:0|hybridrelay|hybridrelay|{__version__}|stream.closed|stream closed|3|rt=1772366400250 "
        "suser=a|b\\=c\\\\d suid=0A src=203.0.113.7 out=210 in=1532 reason=no-error outcome=closed externalId=ab-17 "
        "dhost=db dpt=5432 dst=2001:db8::1 cs1=orders cs1Label=connection cs2=tcp at relay.example.com "
        "cs2Label=route cn1=7 cn1Label=record"
    )


def test_a_text_cannot_forge_a_line_of_cef() -> None:
    line = to_cef({**STREAM, "event": "a|b\nc", "detail": "x\nCEF:0|forged"})

    assert "\n" not in line
    assert "|a\\|b c|" in line
    assert "msg=x\\nCEF:0|forged" in line


def test_every_record_can_be_converted() -> None:
    chain = Chain(SigningKey.generate())
    for event in all_events():
        record = record_of(example(event), 1.0)
        if record is not None:
            content = json.loads(chain.record(time_text(record.at), record.event, record.fields))
            assert json.loads(json.dumps(to_ocsf(content)))["time"] == 1000
            assert re.match(r"CEF:0(\|[^|]+){5}\|[36]\|rt=1000 ?", to_cef(content))
