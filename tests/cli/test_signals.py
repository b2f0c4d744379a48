"""What signals do to a command before, while and after it does its work."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridrelay.cli import main
from hybridrelay.cli.signals import Signals
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.store.state_dir import REGISTRY_FILE

from ..deployments import HYBRIDRELAY
from ..waiting import wait_until
from .conftest import Created, Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Whatever started the tests may ignore some of them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (*ENDING, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals(defaults: None) -> Iterator[Signals]:
    """They are handled."""
    signals = Signals()
    with signals.handled():
        yield signals


def code_of(number: signal.Signals) -> int:
    """The exit code of a command that a signal ended."""
    return 128 + number


@contextlib.contextmanager
def ends_with(code: int) -> Iterator[None]:
    """The block raises what ends a command with this code."""
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        yield
    raised = caught.value
    assert (raised.code if isinstance(raised, SystemExit) else code_of(signal.SIGINT)) == code


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_remembered_until_the_command_is_known(signals: Signals, number: signal.Signals) -> None:
    signal.raise_signal(number)
    with ends_with(code_of(number)):
        signals.command_is_known(is_service=False)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_a_command(signals: Signals, number: signal.Signals) -> None:
    signals.command_is_known(is_service=False)
    with ends_with(code_of(number)):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("before", [True, False])
def test_a_service_that_does_not_run_yet_ends_with_success(
    signals: Signals, number: signal.Signals, before: bool
) -> None:
    with ends_with(0):
        if before:
            signal.raise_signal(number)
        assert not signals.command_is_known(is_service=True)
        signal.raise_signal(number)


@pytest.mark.parametrize("is_service", [True, False])
def test_sigusr1_ends_nothing(signals: Signals, is_service: bool) -> None:
    signal.raise_signal(signal.SIGUSR1)
    signals.command_is_known(is_service=is_service)
    signal.raise_signal(signal.SIGUSR1)
    signals.finish()
    signal.raise_signal(signal.SIGUSR1)
    signals.leave()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("sighup_first", [True, False])
def test_a_reload_takes_the_place_of_no_stop(signals: Signals, number: signal.Signals, sighup_first: bool) -> None:
    both = (signal.SIGHUP, number) if sighup_first else (number, signal.SIGHUP)
    for one in both:
        signal.raise_signal(one)
    with ends_with(0):
        signals.command_is_known(is_service=True)


def test_sighup_before_a_service_is_known_asks_it_to_reload(signals: Signals) -> None:
    signal.raise_signal(signal.SIGHUP)
    assert signals.command_is_known(is_service=True)
    signals.finish()
    signal.raise_signal(signal.SIGHUP)
    signals.leave()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_change_is_not_interrupted(signals: Signals) -> None:
    signals.command_is_known(is_service=False)
    signals.hold()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    with ends_with(code_of(signal.SIGTERM)):
        signals.release()


def test_what_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    with signals.handled():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_handles_none() -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]


def open_when_read(pipe: Path, process: subprocess.Popen[str]) -> int:
    """Wait until a process reads from a pipe; the end that is written to."""
    found: list[int] = []

    def is_open() -> bool:
        assert process.poll() is None
        with contextlib.suppress(OSError):  # ENXIO: nobody reads
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(found)

    def is_reading() -> bool:
        # A signal that arrives just before the system call begins is noticed only after it, as in any Python program.
        assert process.poll() is None
        threads = Path(f"/proc/{process.pid}/task").glob("*/wchan")
        return any("pipe_read" in thread.read_text() for thread in threads)

    wait_until(is_open, seconds=60, what="the pipe is opened")
    if Path(f"/proc/{process.pid}/wchan").exists():
        wait_until(is_reading, seconds=60, what="the pipe is read")
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["connector", "forward"])
def test_a_service_that_waits_for_its_connection_string(tmp_path: Path, command: str, number: signal.Signals) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = [*HYBRIDRELAY, command, "--connection-string-file", str(pipe)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        writing = open_when_read(pipe, process)
        for harmless in (signal.SIGHUP, signal.SIGUSR1):
            process.send_signal(harmless)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        os.close(writing)
    assert (process.returncode, out, err) == (0, "", "")


@contextlib.contextmanager
def reader_of(registry: Path) -> Iterator[sqlite3.Connection]:
    """Another program reads the registry, as a backup does: a change waits for it after it was made."""
    with contextlib.closing(sqlite3.connect(registry, isolation_level=None)) as database:
        database.execute("BEGIN")
        database.execute("SELECT * FROM keys").fetchall()
        yield database


def interrupted_after_change(created: Created, number: signal.Signals, *command: str | Path) -> str:
    """Run a command on the state directory, and interrupt it when the registry was changed; its output."""
    arguments = [*HYBRIDRELAY, *map(str, command), "--state", str(created.state)]
    with SQLiteStore.open(created.state) as registry, reader_of(created.state / REGISTRY_FILE) as reader:
        before = registry.data_version()
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:

            def has_changed() -> bool:
                assert process.poll() is None, process.communicate()
                return registry.data_version() != before

            wait_until(has_changed, seconds=60, what="the registry is changed")
            process.send_signal(number)
            reader.close()
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code_of(number), "")
    return out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_key_that_was_replaced_is_written_and_reported_before_the_end(
    created: Created, run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    out = interrupted_after_change(
        created, number, "keys", "regenerate", "orders", "--rule", "application", "--key", "primary",
        "--update", created.application, created.authority, "--out", tmp_path / "new-key",
    )  # fmt: skip
    key = (tmp_path / "new-key").read_text().strip()
    assert "regenerated the primary key" in out
    assert "start it again with the new" in out
    assert key in created.application.read_text()
    assert key in created.authority.read_text()
    assert key in run("keys", "list", "orders", "--show-keys", "--state", created.state).out
    assert not list(tmp_path.glob(".*"))


def test_a_hybrid_connection_that_was_created_keeps_its_files(created: Created, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("b.connector", "b.application", "billing.authority")]
    out = interrupted_after_change(
        created, signal.SIGINT, "connections", "create", "billing", "--target", "db:1", "--endpoint", "127.0.0.1",
        "--connector-file", files[0], "--application-file", files[1],
    )  # fmt: skip
    assert "created billing" in out
    assert all(file.exists() for file in files)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("keys", "revoke", "orders", "--rule", "connector", "--key", "secondary"), "revoked the secondary key"),
        (("connections", "delete", "orders"), "deleted orders"),
        (("connections", "endpoints", "orders", "--endpoint", "b.example.com"), "is now b.example.com"),
    ],
)
def test_every_change_is_reported_before_the_end(created: Created, command: tuple[str, ...], says: str) -> None:
    assert says in interrupted_after_change(created, signal.SIGINT, *command)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_has_changed_nothing_yet_leaves_nothing_behind(
    created: Created, tmp_path: Path, number: signal.Signals
) -> None:
    """It waits for the key that it is to use."""
    before = {path: path.read_text() for path in (created.application, created.authority)}
    out = tmp_path / "new-key"
    arguments = [
        *HYBRIDRELAY, "keys", "regenerate", "orders", "--rule", "application", "--key", "primary",
        "--update", *before, "--out", out, "--state", created.state,
    ]  # fmt: skip
    pipe = tmp_path / "key"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [*map(str, arguments), "--new-key-file", str(pipe)], stderr=subprocess.PIPE, text=True
    ) as process:
        writing = open_when_read(pipe, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        os.close(writing)
    assert (process.returncode, err) == (code_of(number), "")
    assert not out.exists()
    assert {path: path.read_text() for path in before} == before
    assert not list(tmp_path.glob(".*"))
