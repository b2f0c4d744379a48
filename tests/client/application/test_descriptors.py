"""A process that cannot be prepared leaves no descriptors open."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from hybridrelay.client.application import processes
from hybridrelay.client.application.addresses import Published
from hybridrelay.client.application.networks import Network, NetworkSetup

if sys.platform != "linux":
    pytest.skip("hybridrelay run needs Linux", allow_module_level=True)


@pytest.mark.parametrize("fails", ["pidfd_open", "dup"])
def test_when_the_table_of_descriptors_is_full(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    setup = NetworkSetup(Network.HOST, has_mounts=True, has_network=True, intercepts=True)
    published = Published((), {}, ())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(theirs, [processes._LAST], [theirs.fileno()] * 2)
        monkeypatch.setattr(f"{'os' if fails == 'pidfd_open' else 'socket.socket'}.{fails}", fail)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="Too many open files"):
            processes._receive(ours, os.getpid(), published, setup)
        assert os.listdir("/proc/self/fd") == before
