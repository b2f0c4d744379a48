"""A system that refuses to splice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest


def failing_splice(monkeypatch: pytest.MonkeyPatch, *, call: int, number: int) -> Callable[[], int]:
    """Let the `call`-th splice and all later ones fail with this error. Returns a function that counts the calls."""
    assert sys.platform == "linux"
    real, calls = os.splice, 0

    def splice(*args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, "splice", splice)
    return lambda: calls
