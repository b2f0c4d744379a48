"""Leaving a process only a few file descriptors."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Let this process open no more than `spare` files during the block."""
    assert sys.platform != "win32"
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]  # those that are free between others, first
    lowest_free = opened[-1] + 1
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + spare, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in opened:
            os.close(descriptor)
