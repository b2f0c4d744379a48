"""What is read about the threads of an application, which chooses their names."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import pytest

from hybridrelay.client.application.interception import _process_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses prctl(2) and /proc")

_PR_SET_NAME = 15


@pytest.mark.parametrize(
    "name",
    [b"a", b"a\rTgid:\t1", b"a\rTgid:\tx", b"a\rTgid:", b"a\nTgid:\t1", b"a\x0bTgid:\t1", b"a\x85Tgid:\t1", b"\xff"],
)
def test_a_threads_name_does_not_change_its_process(name: bytes) -> None:
    found: list[int] = []

    def look() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name)
        found.append(_process_of(threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [os.getpid()]
