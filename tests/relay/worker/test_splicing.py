"""The pipes through which bytes stay in the kernel."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import pytest

from hybridrelay.relay.worker.splicing import PIPE_BYTES, open_pipe

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux splices"),
    pytest.mark.usefixtures("no_descriptor_leaks"),
]


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_pipe_is_large_if_the_system_allows_it(is_refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sys.platform == "linux"
    import fcntl

    real, default = fcntl.fcntl, 65_536

    def refuses(*args: Any) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fcntl, "fcntl", refuses if is_refused else real)
    ends = open_pipe()
    try:
        for end in ends:
            assert not os.get_inheritable(end)
            assert not os.get_blocking(end)
        size = real(ends[1], getattr(fcntl, "F_GETPIPE_SZ", 1032))
        assert size <= default if is_refused else size == PIPE_BYTES
    finally:
        for end in ends:
            os.close(end)
