"""Events as they were logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def logged_fields(caplog: pytest.LogCaptureFixture, name: str) -> list[Mapping[str, Any]]:
    """The fields of each event of this name that was logged, in the order of the log."""
    records = [vars(record) for record in caplog.records]
    return [record["fields"] for record in records if record.get("event") == name]
