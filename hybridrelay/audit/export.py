"""Converting records for other systems. Pure.

The formats are OCSF (Open Cybersecurity Schema Framework) and CEF (Common Event Format). Audit files contain
records as they are. They are converted only when they are exported, because these schemas change.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from .._version import __version__
from .chain import RESERVED

__all__ = ["to_cef", "to_ocsf"]

#: The version of the schema to which records are converted.
_OCSF_VERSION: Final = "1.3.0"
#: Activities of the class Network Activity (4001).
_OPEN, _CLOSE, _RESET, _FAIL, _REFUSE, _TRAFFIC = 1, 2, 3, 4, 5, 6
#: The records of streams, with their activity.
_STREAMS: Mapping[str, int] = {
    "stream.opened": _OPEN,
    "stream.requested": _OPEN,
    "stream.closed": _CLOSE,
    "stream.not-connected": _REFUSE,
    "stream.not-opened": _REFUSE,
    "stream.failed": _FAIL,
    "stream.still-open": _TRAFFIC,
}
#: The events of sessions and refused applications, with their activity in the class Authentication (3002): logon 1,
#: logoff 2; and whether they are failures.
_SESSIONS: Mapping[str, tuple[int, bool]] = {
    "session.opened": (1, False),
    "session.refused": (1, True),
    "policy.refused": (1, True),
    "session.ended": (2, False),
    "session.lost": (2, False),
}
_FAILURES: Final = frozenset({"stream.not-connected", "stream.not-opened", "stream.failed", "audit.sink-failed"})


def to_ocsf(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as an event of OCSF.

    The class is Network Activity (4001) for streams, Authentication (3002) for the beginning, refusal and end of
    sessions and for ``policy.refused``, API Activity (6003) for calls of the management API, and Base Event (0) for
    everything else. All fields of the event are also in ``unmapped``. The hash of the line before it is left out.
    """
    event = str(record.get("event"))
    if event in _STREAMS:
        class_, category, activity = 4001, 4, _activity(record, _STREAMS[event])
    elif event in _SESSIONS:
        class_, category, activity = 3002, 3, _SESSIONS[event][0]
    elif event == "management.called":
        class_, category, activity = 6003, 6, 99
    else:
        class_, category, activity = 0, 0, 99
    failed = _is_failure(event)
    converted: dict[str, Any] = {
        "class_uid": class_,
        "category_uid": category,
        "activity_id": activity,
        "type_uid": class_ * 100 + activity,
        "time": _milliseconds(record),
        "severity_id": 3 if failed else 1,
        "status_id": 2 if failed else 1,
        "metadata": {
            "version": _OCSF_VERSION,
            "product": {"name": "hybridrelay", "vendor_name": "hybridrelay", "version": __version__},
            "event_code": event,
            "sequence": record.get("seq"),
            "correlation_uid": record.get("activity_id"),
        },
    }
    if activity == 99:
        converted["activity_name"] = event
    if class_ == 4001:
        converted["traffic"] = {
            "bytes_in": record.get("bytes_to_client", 0),
            "bytes_out": record.get("bytes_to_target", 0),
        }
    if class_ == 6003:
        converted["api"] = {"operation": str(record.get("operation_id", ""))}
        converted["actor"] = {"user": {"name": str(record.get("caller", ""))}}
        converted["src_endpoint"] = {"name": str(record.get("peer", ""))}
    if target := record.get("target"):
        host, port = _host_and_port(str(target))
        converted["dst_endpoint"] = {"hostname": host, "port": port}
        if address := record.get("address"):
            converted["dst_endpoint"]["ip"] = _host_and_port(str(address))[0]
    elif class_ == 4001:
        converted["dst_endpoint"] = {"name": str(record.get("connection", ""))}
    if address := record.get("client_address"):
        converted["src_endpoint"] = {"ip": address}
    if label := record.get("label"):
        user = _user(record, str(label))
        converted |= {"actor": {"user": user}} if class_ == 4001 else {"user": user}
    elif class_ == 3002:
        converted["user"] = {"name": "unknown"}
    if detail := record.get("detail") or record.get("reason"):
        converted["status_detail"] = detail
    converted["unmapped"] = {name: value for name, value in record.items() if name not in RESERVED}
    return converted


def _is_failure(event: str) -> bool:
    return event in _FAILURES or (event in _SESSIONS and _SESSIONS[event][1])


def _user(record: Mapping[str, Any], label: str) -> dict[str, Any]:
    return {"name": label, **({"uid": record["serial"]} if record.get("serial") else {})}


def _activity(record: Mapping[str, Any], activity: int) -> int:
    return _RESET if activity == _CLOSE and record.get("outcome") == "broken" else activity


#: What the target of a flow of datagrams ends with.
_DATAGRAMS = "/udp"
#: The fields of records that have a place of their own in CEF.
_CEF_KEYS: Final = {
    "label": "suser",
    "serial": "suid",
    "client_address": "src",
    "bytes_to_target": "out",
    "bytes_to_client": "in",
    "reason": "reason",
    "outcome": "outcome",
    "detail": "msg",
    "activity_id": "externalId",
}


def to_cef(record: Mapping[str, Any]) -> str:
    """Return a record as a line of CEF, without its line end.

    The hybrid connection, the route and the record's number are custom fields (``cs1``, ``cs2``, ``cn1``).
    """
    event = str(record.get("event"))
    failed = _is_failure(event)
    fields: dict[str, object] = {"rt": _milliseconds(record)}
    for name, key in _CEF_KEYS.items():
        if name in record:
            fields[key] = record[name]
    if target := record.get("target"):
        fields["dhost"], fields["dpt"] = _host_and_port(str(target))
        if str(target).endswith(_DATAGRAMS):
            fields["proto"] = "UDP"
    if address := record.get("address"):
        fields["dst"] = _host_and_port(str(address))[0]
    for key, label, name in (
        ("cs1", "connection", "connection"),
        ("cs2", "route", "route"),
        ("cn1", "record", "seq"),
    ):
        if name in record:
            fields[key], fields[f"{key}Label"] = record[name], label
    extension = " ".join(f"{key}={_cef_value(value)}" for key, value in fields.items())
    header = "|".join(map(_cef_header, ("hybridrelay", "hybridrelay", __version__, event, event.replace(".", " "))))
    return f"CEF:0|{header}|{6 if failed else 3}|{extension}"


def _cef_header(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")


def _cef_value(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("=", "\\=")
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.removesuffix(_DATAGRAMS).rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isascii() and port.isdecimal() else (text, 0)


def _milliseconds(record: Mapping[str, Any]) -> int:
    try:
        return round(dt.datetime.fromisoformat(str(record.get("at"))).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0
