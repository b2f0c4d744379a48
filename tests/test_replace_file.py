"""Replacing files: attributes and links are kept, and a failure changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hybridrelay import _replace_file
from hybridrelay._replace_file import (
    create_file,
    create_file_once,
    create_whole_file,
    prepare_replacement,
    prepared_replacements,
    remove_leftovers,
    replace_file,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
#: What is there before, and after.
OLD, NEW = "old content\n", "new content, and longer than the old one\n"


@pytest.fixture
def path() -> Iterator[Path]:
    """A file in a directory that other users can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        made = Path(directory) / "file"
        made.write_text(OLD)
        yield made


@posix
@as_root
def test_root_gives_nobody_another_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of the directory replaces the new file by a link before it gets its attributes."""
    os.chown(path.parent, 1000, 1000)
    os.chown(path, 1000, 1000)
    path.chmod(0o666)
    with tempfile.TemporaryDirectory() as elsewhere:
        secret = Path(elsewhere) / "secret"
        secret.write_text("of root")
        secret.chmod(0o600)
        copy = _replace_file._copy_attributes

        def swap_first(*arguments: Any) -> None:
            (fresh,) = [one for one in path.parent.iterdir() if one != path]
            fresh.unlink()
            fresh.symlink_to(secret)
            copy(*arguments)

        monkeypatch.setattr(_replace_file, "_copy_attributes", swap_first)
        replace_file(path, NEW)

        status = secret.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode), secret.read_text()) == (0, 0o600, "of root")


@posix
def test_a_new_file_runs_for_nobody_as_its_owner(path: Path) -> None:
    path.chmod(0o4755)
    replace_file(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def _names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


@posix
@as_root
def test_root_changes_neither_owner_nor_mode(path: Path) -> None:
    os.chown(path, 1000, 1001)
    path.chmod(0o640)
    replace_file(path, NEW)

    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 1001, 0o640)
    assert path.read_text() == NEW
    assert _names(path) == ["file"]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o664])
def test_the_mode_stays_whatever_the_umask(path: Path, mode: int) -> None:
    path.chmod(mode)
    before = os.umask(0o777)
    try:
        replace_file(path, NEW)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == NEW


@posix
def test_a_new_file_is_private(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", NEW)

    assert (tmp_path / "file").read_text() == NEW
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def _set_attribute(path: Path, name: str, value: bytes) -> None:
    if sys.platform != "linux":
        pytest.skip("extended attributes are Linux's here")
    try:
        os.setxattr(path, name, value)
    except OSError as exc:
        pytest.skip(f"no {name} on this file system: {exc.strerror}")


def _access_control_list(user: int) -> bytes:
    """rw- for the owner and one more user, as the kernel has it (acl(5); version 2, then tag, permissions, id)."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 6, nobody), (0x02, 6, user), (0x04, 0, nobody), (0x10, 6, nobody), (0x20, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@posix
@pytest.mark.parametrize(
    ("name", "value"),
    [("system.posix_acl_access", _access_control_list(12345)), ("user.origin", b"somewhere")],
)
def test_extended_attributes_stay(path: Path, name: str, value: bytes) -> None:
    _set_attribute(path, name, value)
    replace_file(path, NEW)

    assert os.getxattr(path, name) == value
    assert path.read_text() == NEW


@posix
def test_the_default_access_control_list_of_the_directory_opens_no_file(path: Path) -> None:
    _set_attribute(path.parent, "system.posix_acl_default", _access_control_list(12345))
    path.chmod(0o600)
    replace_file(path, NEW)

    assert "system.posix_acl_access" not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
@as_root
def test_an_owner_who_cannot_be_kept_is_kept_all_the_same(path: Path) -> None:
    """Another user may write to the file, but may not change its owner. So the file is overwritten in place."""
    os.chown(path, 1000, 1000)
    path.chmod(0o666)
    path.parent.chmod(0o777)
    assert _as_user(2000, lambda: replace_file(path, NEW)) == "done"

    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 1000, 0o666)
    assert path.read_text() == NEW
    assert _names(path) == ["file"]


@posix
@as_root
def test_a_directory_that_is_not_writable(path: Path) -> None:
    os.chown(path, 2000, 2000)
    assert _as_user(2000, lambda: replace_file(path, NEW)) == "done"

    assert path.read_text() == NEW
    assert _names(path) == ["file"]


@posix
@as_root
def test_what_may_not_be_written_at_all_is_refused_at_once(path: Path) -> None:
    said = _as_user(2000, lambda: prepare_replacement(path, NEW).discard())

    assert said == f"PermissionError: {path}"
    assert path.read_text() == OLD
    assert _names(path) == ["file"]


@as_root
@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr(1)")
@pytest.mark.parametrize("attribute", ["i", "a"])
def test_what_may_not_be_replaced_is_refused_at_once(path: Path, attribute: str) -> None:
    """An immutable file can be neither written nor renamed over, and a new file beside it could be made."""
    done = subprocess.run(["chattr", f"+{attribute}", path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no such attribute here: {done.stderr.strip()}")
    try:
        with pytest.raises(PermissionError) as caught:
            prepare_replacement(path, NEW)
        assert caught.value.filename == str(path)
        assert path.read_text() == OLD
        assert _names(path) == ["file"]
    finally:
        subprocess.run(["chattr", f"-{attribute}", path], check=True)


@posix
def test_the_directory_is_synced_after_a_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the old file could be there again after a power failure."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_IFMT(os.fstat(descriptor).st_mode)))
    replace_file(path, NEW)
    assert synced == [stat.S_IFREG, stat.S_IFDIR]


def _as_user(uid: int, function: Callable[[], None]) -> str:
    """Call a function in a child process of another user, which can reach the files. Returns "done", or the error."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() where there are threads
        child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            function()
            said = "done"
        except OSError as exc:
            said = f"{type(exc).__name__}: {exc.filename}"
        except BaseException as exc:  # noqa: BLE001 - told to the parent
            said = repr(exc)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def test_what_a_link_leads_to_is_replaced(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to("file")
    replace_file(link, NEW)

    assert link.is_symlink()
    assert path.read_text() == NEW


def test_a_link_to_a_directory_elsewhere(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(path.parent)
    replace_file(tmp_path / "other" / "file", NEW)

    assert path.read_text() == NEW
    assert _names(path) == ["file"]


def test_a_hard_link_stays_one_file(path: Path) -> None:
    other = path.with_name("other")
    other.hardlink_to(path)
    replace_file(path, NEW)

    assert other.read_text() == NEW


@pytest.mark.parametrize("kind", ["directory", "pipe", "loop"])
def test_what_is_not_a_file_is_refused(path: Path, kind: str) -> None:
    other = path.with_name("other")
    if kind == "directory":
        other.mkdir()
    elif kind == "loop":
        other.symlink_to("other")
    elif hasattr(os, "mkfifo"):
        os.mkfifo(other)
    else:
        pytest.skip("no named pipes here")

    with pytest.raises(OSError) as caught:
        prepare_replacement(other, NEW)
    assert caught.value.filename == str(other)


def test_nothing_is_in_force_before_commit_and_nothing_is_left_after_discard(path: Path) -> None:
    other = path.with_name("other")
    other.write_text(OLD)
    with prepared_replacements({path: NEW, other: NEW}) as (first, _second):
        assert path.read_text() == OLD
        first.commit()

    assert (path.read_text(), other.read_text()) == (NEW, OLD)
    assert _names(path) == ["file", "other"]


def test_the_second_file_fails_and_the_first_is_as_it_was(path: Path) -> None:
    missing = path.parent / "missing" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        with prepared_replacements({path: NEW, missing: NEW}):
            pytest.fail("the block was entered")

    assert caught.value.filename == str(missing)
    assert path.read_text() == OLD
    assert _names(path) == ["file"]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_full_disk_is_noticed_before_anything_has_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    if in_place:
        path.with_name("hard link").hardlink_to(path)
    names = _names(path)

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space") as caught:
        prepare_replacement(path, NEW)

    assert caught.value.filename == str(path)
    assert path.read_text() == OLD
    assert _names(path) == names


def test_a_write_that_fails_in_place_restores_the_old_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.with_name("hard link").hardlink_to(path)
    replacement = prepare_replacement(path, NEW)
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output") as caught:
        replacement.commit()

    assert caught.value.filename == str(path)
    assert path.read_text() == OLD


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.EACCES])
def test_a_file_that_cannot_be_renamed_over_is_overwritten(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def replace(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", replace)
    replace_file(path, NEW)

    assert path.read_text() == NEW
    assert _names(path) == ["file"]


@pytest.mark.parametrize("text", [NEW, "x", ""])
def test_in_place_the_new_content_is_whole_whatever_its_length(path: Path, text: str) -> None:
    path.with_name("hard link").hardlink_to(path)
    replacement = prepare_replacement(path, text)
    assert path.read_text().rstrip("\n") == OLD.rstrip("\n")
    replacement.commit()
    replacement.discard()

    assert path.read_text() == text

    discarded = prepare_replacement(path, NEW + NEW)
    discarded.discard()
    assert path.read_text() == text


def test_a_content_that_is_there_already_needs_no_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replace_file, "create_file", pytest.fail)
    replace_file(path, OLD)


def test_a_new_file_that_cannot_be_written_leaves_nothing_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space") as caught:
        create_file(tmp_path / "file", b"x")
    monkeypatch.undo()

    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


_IN_A_NAMESPACE = """\
set -e
mount --bind {source} {target}
{python} - <<'END'
from hybridrelay._replace_file import prepare_replacement, _InPlace
with prepare_replacement({target!r}, {new!r}) as replacement:
    assert isinstance(replacement, _InPlace), replacement
    replacement.commit()
END
"""


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_a_file_that_is_a_mount_point(path: Path, tmp_path: Path) -> None:
    """This happens in containers, where a single file is mounted from outside."""
    source = tmp_path / "mounted from here"
    source.write_text(OLD)
    source.chmod(0o640)
    os.chown(source, 1000, 1000)
    script = _IN_A_NAMESPACE.format(
        source=f"'{source}'", target=str(path), new=NEW, python=sys.executable
    )  # fmt: skip
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")

    assert (done.returncode, done.stderr) == (0, "")
    assert source.read_text() == NEW
    assert (source.stat().st_uid, stat.S_IMODE(source.stat().st_mode)) == (1000, 0o640)
    assert path.read_text() == OLD
    assert _names(path) == ["file"]


def test_what_a_killed_process_left_is_removed(path: Path) -> None:
    prepare_replacement(path, "new")  # and never discarded
    others = [
        path.with_name(name) for name in (f".{path.name}.bak", f".{path.name}.0123456", f".x{path.name}.01234567")
    ]
    for other in others:
        other.touch()
    (left,) = remove_leftovers(path)
    assert not left.exists()
    assert path.exists()
    assert all(other.exists() for other in others)
    assert remove_leftovers(path) == []
    assert remove_leftovers(path.parent / "absent" / "file") == []


def test_what_cannot_be_removed_does_not_protect_the_others(path: Path) -> None:
    names = {f".{path.name}.{number:08x}" for number in range(20)}
    kept = {name for number, name in enumerate(sorted(names)) if number % 2}
    for name in names:
        if name in kept:
            path.with_name(name).mkdir()  # a directory cannot be unlinked
        else:
            path.with_name(name).touch()
    assert {one.name for one in remove_leftovers(path)} == names - kept
    assert set(_names(path)) == {path.name, *kept}


def test_of_many_that_create_a_file_at_once_one_succeeds(tmp_path: Path) -> None:
    path, count = tmp_path / "file", 8
    together = threading.Barrier(count)

    def create(number: int) -> tuple[bool, bytes]:
        together.wait()
        return create_file_once(path, b"%d" % number * 1000), path.read_bytes()

    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(create, range(count)))
    (winner,) = [number for number, (created, _) in enumerate(done) if created]
    assert {content for _, content in done} == {b"%d" % winner * 1000}
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
def test_a_file_is_created_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert create_file_once(tmp_path / "link", b"x")
    assert not create_file_once(tmp_path / "link", b"y")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_file_is_created_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert create_file_once(tmp_path / "file", b"x")
    assert not create_file_once(tmp_path / "file", b"y")
    assert (tmp_path / "file").read_bytes() == b"x"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


#: Creates the file that is named first, and is killed before the given one of the calls that change the directory or
#: the file.
_KILLED = """
import os, pathlib, signal, sys
path, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])
from hybridrelay._replace_file import create_whole_file

def killing(function):
    def called(*args, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)
    return called

for name in ("open", "write", "fsync", "close", "link"):
    setattr(os, name, killing(getattr(os, name)))
pathlib.Path.unlink = killing(pathlib.Path.unlink)
create_whole_file(path, b"whole" * 1000)
"""


@posix
def test_whenever_a_process_is_killed_the_file_is_whole_or_missing(tmp_path: Path) -> None:
    found = list[bool]()
    for calls in range(20):
        path = tmp_path / str(calls) / "file"
        path.parent.mkdir()
        done = subprocess.run([sys.executable, "-c", _KILLED, str(path), str(calls)], check=False)
        found.append(path.exists())
        assert not found[-1] or path.read_bytes() == b"whole" * 1000
        remove_leftovers(path)
        assert [one.name for one in path.parent.iterdir()] == ["file"] * found[-1], "the rest is found and removed"
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert found == sorted(found), "it appears at some moment"
    assert not found[0]
    assert len(found) >= 6


def test_a_whole_file_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError) as caught:
            create_whole_file(tmp_path / name, b"new")
        assert caught.value.filename == str(tmp_path / name)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "old"
