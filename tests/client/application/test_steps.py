"""An error in preparing an application names the step that has failed."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("namespaces are only on Linux", allow_module_level=True)

from hybridrelay.client.application import namespaces
from hybridrelay.client.application.loopback import bring_up_loopback


def test_a_name_server_that_cannot_listen_is_named() -> None:
    with pytest.raises(OSError) as caught:  # an address of documentation, which no machine has
        namespaces._open_name_server(("192.0.2.1", 53))
    assert (caught.value.errno, caught.value.filename) == (errno.EADDRNOTAVAIL, "listen at 192.0.2.1:53 (UDP)")


def test_a_network_that_may_not_be_configured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(PermissionError) as caught:
        bring_up_loopback([])
    assert caught.value.filename == "bring up the loopback interface"


def test_a_large_hosts_file_is_used_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    monkeypatch.setattr(namespaces, "_MAX_FILE", 100)
    path.write_text("x" * 100)
    assert namespaces._read(str(path)) == "x" * 100
    path.write_text("x" * 101)
    with pytest.raises(OSError) as caught:
        namespaces._read(str(path))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert namespaces._read(str(tmp_path / "missing")) == ""
