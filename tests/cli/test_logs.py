"""The log: lines that nobody can forge, or one JSON object each."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from hybridrelay.cli.logs import JSONFormatter, LineFormatter, set_up_logs


def _record(message: str, *args: object, **extra: Any) -> logging.LogRecord:
    record = logging.LogRecord("hybridrelay.x", logging.WARNING, "file.py", 1, message, args, None)
    record.created = 1_700_000_000.25
    record.__dict__.update(extra)
    return record


def _with_traceback(record: logging.LogRecord) -> logging.LogRecord:
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    return record


def test_a_line_has_time_level_logger_and_message() -> None:
    line = LineFormatter().format(_record("%s is %d", "x", 1))

    assert line == "2023-11-14T22:13:20.250Z warning hybridrelay.x: x is 1"


def test_a_peer_cannot_forge_a_line() -> None:
    assert len(LineFormatter().format(_record("a\nb\r\x1b[2Jc")).splitlines()) == 1


def test_a_json_object_is_one_line() -> None:
    line = JSONFormatter().format(_record("a\n%s", "b", fields={"bytes": 1, "path": object}))

    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "hybridrelay.x",
        "message": "a\nb",
        "fields": {"bytes": 1, "path": str(object)},
    }


def test_a_traceback_follows_in_both_forms() -> None:
    assert LineFormatter().format(_with_traceback(_record("a"))).splitlines()[-1] == "  | ValueError: why"
    assert "ValueError: why" in json.loads(JSONFormatter().format(_with_traceback(_record("a"))))["traceback"]


def test_setting_up_twice_leaves_one_handler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger("root of this test")
    monkeypatch.setattr(root, "propagate", False)
    monkeypatch.setattr(logging, "getLogger", lambda: root)
    set_up_logs("debug", as_json=True)
    set_up_logs("info", as_json=False)
    root.info("seen")
    root.debug("not seen")

    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["seen"]
