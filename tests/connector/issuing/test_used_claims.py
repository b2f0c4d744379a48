"""The file of used claims: written before anything is signed, shared, and never taken for empty by mistake."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from hybridrelay._file_lock import locked_files
from hybridrelay.connector.issuing import UsedClaimsFile, used_claims
from hybridrelay.connector.issuing.decision import Decision, UsedClaims, decide_issue
from hybridrelay.errors import ConfigurationError
from hybridrelay.protocol.reasons import Reason

from .test_decision import CLAIM, DAY, KEY, NOW, OTHER


def decide(used: UsedClaims, key: bytes = KEY) -> Decision:
    return decide_issue(CLAIM, key, used=used, renewals=(), issuer_ends=NOW + 300 * DAY, now=NOW)


def test_what_is_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new" / "used.json"
    assert UsedClaimsFile(path).decide(decide).reason is Reason.NO_ERROR
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    later = UsedClaimsFile(path)
    assert later.decide(decide).earlier is not None
    assert later.decide(partial(decide, key=OTHER)).reason is Reason.CLAIM_USED


def test_of_many_at_once_one_key_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "used.json"
    given: list[bytes] = []

    def use(number: int) -> None:
        key = bytes([number]) * 32
        if UsedClaimsFile(path).decide(partial(decide, key=key)).reason is Reason.NO_ERROR:
            given.append(key)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 1


ENTRY = (
    '{"format": "hybridrelay-used-claims", "version": 1, "used": [{"connection": %s, "serial": "", "label": "", '
    '"key": "", "used_at": %s, "not_after": 0}]}'
)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"format": "hybridrelay-used-claims", "version": 2, "used": []}',
        '{"format": "hybridrelay-used-claims", "version": 1, "used": [{}]}',
        '{"format": "hybridrelay-used-claims", "version": 1, "used": [5]}',
        ENTRY % ("1", "0"),
        ENTRY % ('""', "true"),
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "used.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="is damaged, or of another version"):
        UsedClaimsFile(path).decide(decide)
    assert path.read_text() == content


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        UsedClaimsFile(tmp_path / "file" / "used.json").decide(decide)


def test_a_full_disk_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "used.json"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(used_claims, "replace_file", full)
        with pytest.raises(ConfigurationError, match="No space left"):
            UsedClaimsFile(path).decide(decide)
    assert UsedClaimsFile(path).decide(decide).earlier is None


def test_a_file_that_another_program_is_changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "used.json"
    path.write_text("")
    monkeypatch.setattr(used_claims, "_LOCK_SECONDS", 0.0)
    with locked_files([path], seconds=0), pytest.raises(ConfigurationError, match="another program"):
        UsedClaimsFile(path).decide(decide)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_the_file_may_be_elsewhere(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("")
    os.symlink(real, tmp_path / "used.json")
    UsedClaimsFile(tmp_path / "used.json").decide(decide)
    assert (tmp_path / "used.json").is_symlink()
    assert json.loads(real.read_text())["used"][0]["serial"] == CLAIM.serial
