"""The file that names the relay's ports: written only when they change; the relay serves also without it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hybridrelay.relay.store import public_ports
from hybridrelay.relay.store.public_ports import load_public_ports, save_public_ports


def _no_space(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_it_is_read_again(tmp_path: Path) -> None:
    save_public_ports(tmp_path, {"https": 444, "http": None})
    assert load_public_ports(tmp_path) == {"https": 444, "http": None}


def test_what_has_not_changed_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_public_ports(tmp_path, {"https": 444})
    monkeypatch.setattr(public_ports, "replace_file", _no_space)
    save_public_ports(tmp_path, {"https": 444})


def test_a_full_disk_is_a_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_public_ports(tmp_path, {"https": 444})
    monkeypatch.setattr(public_ports, "replace_file", _no_space)
    save_public_ports(tmp_path, {"https": 445})
    assert os.strerror(errno.ENOSPC) in caplog.text
    assert "free disk space" in caplog.text
    assert load_public_ports(tmp_path) == {"https": 444}
