"""Checking the arguments of stream methods."""

from __future__ import annotations


def check_max_bytes(max_bytes: object) -> None:
    """Check the argument of `trio.abc.ReceiveStream.receive_some`, before the call waits.

    Raises:
        TypeError: it is neither an integer nor None.
        ValueError: it is less than 1.
    """
    if max_bytes is None:
        return
    if not isinstance(max_bytes, int):
        raise TypeError("max_bytes must be an integer or None")
    if max_bytes < 1:
        raise ValueError("max_bytes must be at least 1")
