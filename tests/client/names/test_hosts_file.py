"""Changing a hosts file: real files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridrelay._file_lock import locked_files
from hybridrelay.client.names import hosts_file
from hybridrelay.client.names.hosts_block import HostsLine, with_lines
from hybridrelay.client.names.hosts_file import apply_lines, read_hosts_file, remove_lines
from hybridrelay.errors import ConfigurationError, HybridRelayError

LINES = (HostsLine("127.64.3.7", "sql01.corp.example"),)
CONTENT = b"127.0.0.1 localhost\n\xff\xfe not text\n10.0.0.1 printer"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_bytes(CONTENT)
    path.chmod(0o644)
    return path


def test_apply_and_remove(hosts: Path) -> None:
    assert apply_lines(hosts, LINES)
    assert hosts.read_bytes() == with_lines(CONTENT, LINES)
    assert not apply_lines(hosts, LINES)
    assert remove_lines(hosts)
    assert hosts.read_bytes() == CONTENT
    assert not remove_lines(hosts)
    assert sorted(hosts.parent.iterdir()) == [hosts]


@pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o664])
def test_mode_and_owner_stay(hosts: Path, mode: int) -> None:
    hosts.chmod(mode)
    if os.geteuid() == 0:
        os.chown(hosts, 12345, 54321)
    before = hosts.stat()
    apply_lines(hosts, LINES)
    after = hosts.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_symbolic_link_stays(hosts: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(hosts)
    apply_lines(link, LINES)
    assert link.is_symlink()
    assert hosts.read_bytes() == with_lines(CONTENT, LINES)


def test_what_a_killed_command_has_left_is_removed(hosts: Path) -> None:
    left = hosts.with_name(".hosts.0123abcd")
    left.write_bytes(b"half of it")
    apply_lines(hosts, LINES)
    assert not left.exists()


#: Applies a line in a child, which kills itself at its n-th system call, for n from 1 until it survives. Prints what
#: the file has after each.
_KILLS = """
import os, signal, sys
from pathlib import Path
from hybridrelay.client.names.hosts_file import apply_lines
from hybridrelay.client.names.hosts_block import HostsLine

path, before = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
calls = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "close", "ftruncate", "chown")}

def child(left):
    def counting(call):
        def counted(*args, **more):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)
        return counted
    for name, call in calls.items():
        setattr(os, name, counting(call))
    apply_lines(path, [HostsLine("127.64.3.7", "sql01.corp.example")])

for left in range(1, 100):
    pid = os.fork()
    if pid == 0:
        try:
            child(left)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(path.read_bytes().hex())
    path.write_bytes(before)
    if not os.WIFSIGNALED(status):
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_command_that_is_killed(hosts: Path, in_place: bool) -> None:
    """It is killed at each of its system calls. The file is unchanged or complete, and the next command works."""
    if in_place:
        os.link(hosts, hosts.with_name("second name"))  # so that nothing is renamed over it
    done = subprocess.run([sys.executable, "-c", _KILLS, hosts], capture_output=True, text=True, check=True)
    found = [bytes.fromhex(line) for line in done.stdout.split()]
    assert len(found) > 5
    for content in found:
        # In place, space is reserved with empty lines first.
        assert content.rstrip(b"\n") == CONTENT or content == with_lines(CONTENT, LINES)
    assert found[-1] == with_lines(CONTENT, LINES)
    apply_lines(hosts, LINES)
    assert not list(hosts.parent.glob(".hosts.*")), "what was left behind is removed"
    remove_lines(hosts)
    assert hosts.read_bytes() == CONTENT


def test_a_change_by_another_program_is_kept(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes after the file was read, and before it is replaced."""
    read = hosts_file.read_hosts_file
    writes: list[Callable[[], object]] = [lambda: None, lambda: hosts.write_bytes(CONTENT + b"\n10.0.0.2 new\n")]

    def read_later(path: Path) -> bytes:
        if writes:
            writes.pop(0)()
        return read(path)

    monkeypatch.setattr(hosts_file, "read_hosts_file", read_later)
    assert apply_lines(hosts, LINES)
    assert not writes
    assert hosts.read_bytes() == with_lines(CONTENT + b"\n10.0.0.2 new\n", LINES)


def test_who_may_only_read_the_file_cannot_keep_it_from_being_changed(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can lock it. Temporary files may belong to whoever has the lock, and stay."""
    monkeypatch.setattr(hosts_file, "_LOCK_SECONDS", 0.1)
    left = hosts.with_name(".hosts.0123abcd")
    left.touch()
    with locked_files([hosts], seconds=0.0):
        assert apply_lines(hosts, LINES)
        assert hosts.read_bytes() == with_lines(CONTENT, LINES)
    with locked_files([hosts], seconds=0.0):
        assert remove_lines(hosts)
        assert hosts.read_bytes() == CONTENT
    assert left.exists()


def test_a_file_that_changes_all_the_time(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = hosts_file.read_hosts_file

    def read_and_change(path: Path) -> bytes:
        content = read(path)
        path.write_bytes(content + b"#\n")
        return content

    monkeypatch.setattr(hosts_file, "read_hosts_file", read_and_change)
    with pytest.raises(HybridRelayError, match="keeps changing it"):
        apply_lines(hosts, LINES)
    assert hosts.read_bytes().startswith(CONTENT)
    assert b"sql01" not in hosts.read_bytes()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the hosts file"):
        apply_lines(tmp_path / "hosts", LINES)
    assert not (tmp_path / "hosts").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="drops rights, so it needs root")
def test_without_rights_it_says_what_to_do() -> None:
    # The directories of pytest cannot be entered by other users.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        hosts = Path(directory, "hosts")
        hosts.write_bytes(CONTENT)
        hosts.chmod(0o644)
        _check_without_rights(hosts)


def _check_without_rights(hosts: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; "
        "from hybridrelay.client.names.hosts_file import *; from hybridrelay.client.names.hosts_block import *; "
        "from hybridrelay.errors import HybridRelayError\n"
        "os.setgid(12345); os.setuid(12345)\n"
        "try: apply_lines(Path(sys.argv[1]), [HostsLine('127.64.0.1', 'a')])\n"
        "except HybridRelayError as exc: print(exc, exc.remedy)"
    )
    done = subprocess.run([sys.executable, "-c", code, hosts], capture_output=True, text=True, check=True)
    assert "cannot change the hosts file" in done.stdout
    assert "run this command as root" in done.stdout
    assert hosts.read_bytes() == CONTENT


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="mounts a file over another one, so it needs root on Linux",
)
def test_a_mount_point_stays_mounted(hosts: Path, tmp_path: Path) -> None:
    """In Docker and Kubernetes, the hosts file is a mount point, and nothing can be renamed over it."""
    mounted = tmp_path / "mounted"
    mounted.write_bytes(b"the file beneath\n")
    script = (
        'set -e; mount --bind "$1" "$2"; '
        '"$3" -m hybridrelay hosts remove --hosts-file "$2"; '
        'cat "$2" > "$2.seen"; umount "$2"'
    )
    hosts.write_bytes(with_lines(CONTENT, LINES))
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    done = subprocess.run([*command, hosts, mounted, sys.executable], capture_output=True, text=True, check=False)
    if "mount" in done.stderr and done.returncode:
        pytest.skip(f"this machine allows no mounts: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mounted.seen").read_bytes() == CONTENT
    assert hosts.read_bytes() == CONTENT, "the file that was mounted has the change"
    assert mounted.read_bytes() == b"the file beneath\n"
    assert read_hosts_file(hosts) == CONTENT
