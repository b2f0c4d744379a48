"""Files that only one command at a time may change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridrelay._file_lock import lock_file, locked_files

#: Locks the files that it is given, says so, and holds them until its input ends.
_HOLDER = """
import sys
from pathlib import Path
from hybridrelay._file_lock import locked_files
with locked_files(map(Path, sys.argv[1:]), seconds=30):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("content")
    return path


def holder(*paths: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLDER, *map(str, paths)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_another_process_is_waited_for_and_named_in_the_error(file: Path) -> None:
    process = holder(file)
    with pytest.raises(TimeoutError) as caught, locked_files([file], seconds=0):
        pass
    assert caught.value.filename == os.path.realpath(file)
    end(process)
    with locked_files([file], seconds=0):
        pass


def test_a_process_that_is_killed_holds_nothing(file: Path) -> None:
    process = holder(file)
    process.kill()
    process.communicate()
    with locked_files([file], seconds=0):
        pass


def test_the_lock_is_of_the_file_that_is_there_now(file: Path) -> None:
    """A command that has replaced the file still has the lock of the earlier one. The next must lock the new file."""
    process = holder(file)
    fresh = file.with_name("fresh")
    fresh.write_text("new content")
    fresh.replace(file)
    with locked_files([file], seconds=0):
        again = holder(file.with_name("other"))
        end(again)
    end(process)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_and_its_file_are_the_same(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    process = holder(link)
    with pytest.raises(TimeoutError), locked_files([file], seconds=0):
        pass
    end(process)
    with locked_files([link, file, link], seconds=0):
        pass


def test_what_cannot_be_opened_is_left_to_whatever_reads_it(tmp_path: Path) -> None:
    with locked_files([tmp_path / "missing", tmp_path], seconds=0):
        pass


def test_a_file_that_was_replaced_before_it_was_locked_is_not_the_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command has replaced the file before the lock was taken: the new file has to be locked."""
    real = lock_file

    def replace_and_lock(descriptor: int) -> bool:
        monkeypatch.setattr("hybridrelay._file_lock.lock_file", real)
        fresh = file.with_name("fresh")
        fresh.write_text("new content")
        fresh.replace(file)
        return real(descriptor)

    monkeypatch.setattr("hybridrelay._file_lock.lock_file", replace_and_lock)
    with locked_files([file], seconds=10), file.open() as found:
        assert found.read() == "new content"
        assert not real(found.fileno())
