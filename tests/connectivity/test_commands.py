"""Commands as dialers: a process ends with its stream, with the block, and if the task that dials is cancelled."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
import trio

from hybridrelay._environment import SECRET_VARIABLES
from hybridrelay.connectivity.commands import Commands
from hybridrelay.events import CommandPrinted, Event, EventStream
from hybridrelay.mux.pace import BURST

from ..waiting import async_wait_until, patience

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes of POSIX")

#: Writes its process id, and then what it reads.
ECHO = ("sh", "-c", 'echo $$; exec cat "$@"', "sh")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_zombie(pid: int) -> bool:
    """It has ended, and the process that inherited it has not reaped it (Linux)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


async def receive_pid(stream: trio.abc.ReceiveStream) -> int:
    received = b""
    while not received.endswith(b"\n"):
        received += await stream.receive_some()
    return int(received)


async def test_its_input_and_output_are_one_stream() -> None:
    async with Commands(ECHO) as commands:
        async with await commands.dial() as stream:
            pid = await receive_pid(stream)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            await stream.send_eof()
            assert await stream.receive_some() == b""
        assert not is_alive(pid), "closing ends the process, and waits for that"


async def test_it_gets_the_environment_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRET_VARIABLES:
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("SHOWN_TO_THE_COMMAND", "shown")
    received = b""
    async with Commands(("sh", "-c", "env")) as commands, await commands.dial() as stream:
        while data := await stream.receive_some():
            received += data
    assert b"SHOWN_TO_THE_COMMAND=shown" in received
    assert b"hidden" not in received


async def test_whoever_reaps_other_children_knows_its_processes() -> None:
    async with Commands(ECHO) as commands:
        async with await commands.dial() as stream:
            pid = await receive_pid(stream)
            assert commands.reaps(pid)
            assert not commands.reaps(os.getpid())
        assert not commands.reaps(pid)


async def test_without_a_thread_it_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is a failure to connect, and no bug."""
    monkeypatch.setattr("hybridrelay._threads.has_memory_for_thread", lambda: False)
    async with Commands(ECHO) as commands:
        with pytest.raises(OSError, match="no thread can be started"):
            await commands.dial()


async def test_each_dial_is_a_process() -> None:
    async with Commands(ECHO) as commands, await commands.dial() as one, await commands.dial() as other:
        assert await receive_pid(one) != await receive_pid(other)


@pytest.mark.parametrize("command", [ECHO, ("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 100; done")])
async def test_the_end_of_the_block_leaves_no_process(command: tuple[str, ...]) -> None:
    async with Commands(command) as commands:
        stream = await commands.dial()
        pid = await receive_pid(stream)
        assert is_alive(pid)
    assert not is_alive(pid)
    await stream.aclose()


async def test_a_forceful_close_does_not_wait_and_the_process_ends() -> None:
    async with Commands(ECHO) as commands:
        stream = await commands.dial()
        pid = await receive_pid(stream)
        await trio.aclose_forcefully(stream)
        with trio.fail_after(patience(10)):
            await stream.aclose()
        assert not is_alive(pid)


async def test_one_that_ignores_its_input_and_sigterm_is_killed(autojump_clock: trio.testing.MockClock) -> None:
    async with Commands(("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 100; done")) as commands:
        stream = await commands.dial()
        pid = await receive_pid(stream)
        await stream.aclose()
        assert not is_alive(pid)


async def test_an_end_of_the_process_is_an_end_of_file_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def logged() -> bool:
        return "command=sh code=3" in caplog.text

    async with Commands(("sh", "-c", "echo the reason >&2; printf last; exit 3")) as commands:
        async with await commands.dial() as stream:
            assert await stream.receive_some() == b"last"
            assert await stream.receive_some() == b""
            await async_wait_until(logged, seconds=10, what="the line about the end of the process")
    assert "the reason" in caplog.text


async def test_what_it_prints_to_standard_error_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    script = r'yes "$(printf "\033[31mred")" | head -c 30000 >&2; head -c 100000 /dev/zero >&2'
    async with Commands(("sh", "-c", script)) as commands:
        async with await commands.dial() as stream:
            assert await stream.receive_some() == b""
    lines = [record.getMessage() for record in caplog.records]
    assert 0 < len(lines) < 100
    assert all(line.isprintable() and len(line) < 600 for line in lines)


async def test_a_line_without_end_is_published_in_pieces_while_it_is_printed() -> None:
    """It takes little memory, and the text of the events cannot control a terminal."""
    printed: list[Event] = []
    events = EventStream()

    async def has_several() -> bool:
        return len(printed) >= 3

    with events.subscribed(printed.append):
        script = r"printf '\033[31m%03000d' 7 >&2; exec cat"
        async with Commands(("sh", "-c", script), events=events) as commands:
            stream = await commands.dial()
            await async_wait_until(has_several, seconds=30, what="pieces of the line")
            await trio.aclose_forcefully(stream)
    details = [event.detail for event in printed if isinstance(event, CommandPrinted)]
    assert "[31m" in details[0]
    assert all(detail.isprintable() and len(detail) <= 500 for detail in details)


async def test_a_flood_of_short_lines_is_read_with_pauses() -> None:
    """The command has to wait, and this program does not: it prints for as long as it is read."""
    printed: list[Event] = []
    events = EventStream()

    async def burst_is_over() -> bool:
        return len(printed) > BURST

    with events.subscribed(printed.append):
        async with Commands(("sh", "-c", "yes >&2"), events=events) as commands:
            stream = await commands.dial()
            # The tokens of the burst are used up, so that what follows comes with pauses.
            await async_wait_until(burst_is_over, seconds=30, what="as many lines as a burst has")
            before = len(printed)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert len(printed) - before <= 2 * 1024  # a read or two, and not one for each turn
            await trio.aclose_forcefully(stream)


async def test_a_command_that_cannot_be_started() -> None:
    async with Commands(("/nonexistent/ssh",)) as commands:
        with pytest.raises(FileNotFoundError):
            await commands.dial()


async def test_without_a_command_or_outside_of_the_block() -> None:
    commands = Commands(None)
    async with commands:
        with pytest.raises(OSError, match="no command is configured"):
            await commands.dial()
    with pytest.raises(OSError, match="no command is configured"):
        await Commands(ECHO).dial()


@pytest.mark.parametrize("after", range(0, 60, 4))
async def test_cancelled_at_any_point_no_process_is_left(after: int, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    async with Commands(("sh", "-c", f"echo $$ >{file}; exec cat")) as commands:
        with trio.move_on_after(after / 10_000):
            async with await commands.dial() as stream:
                await stream.receive_some()
    with contextlib.suppress(FileNotFoundError, ValueError):
        assert not is_alive(int(file.read_text()))


def _without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def pidfd_open(pid: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("has_pidfd", [True, False])
async def test_a_command_is_not_reaped_before_the_last_signal(
    monkeypatch: pytest.MonkeyPatch, has_pidfd: bool
) -> None:
    """Once it is reaped, its number may be that of another process, which must not get the signal."""
    if not has_pidfd:
        _without_pidfd(monkeypatch)
    signalled: list[tuple[int, bool]] = []
    killpg = os.killpg

    def record(group: int, number: int) -> None:
        signalled.append((group, Path(f"/proc/{group}").exists()))
        killpg(group, number)

    monkeypatch.setattr(os, "killpg", record)
    async with Commands(("sh", "-c", "echo $$; setsid sleep 2 & exit 3")) as commands:
        async with await commands.dial() as stream:
            pid = await receive_pid(stream)
            assert await stream.receive_some() == b""
    assert signalled
    assert all(one == (pid, True) for one in signalled)
    assert not is_alive(pid)


@pytest.mark.parametrize("has_pidfd", [True, False])
async def test_what_a_command_has_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, has_pidfd: bool) -> None:
    if not has_pidfd:
        _without_pidfd(monkeypatch)

    async def has_ended() -> bool:
        return not is_alive(child) or is_zombie(child)

    with trio.fail_after(patience(20)):
        async with Commands(("sh", "-c", "sleep 1000 >/dev/null 2>&1 <&1 & echo $!")) as commands:
            async with await commands.dial() as stream:
                child = await receive_pid(stream)
                assert await stream.receive_some() == b""
    await async_wait_until(has_ended, seconds=20, what="the end of the process in the background")


async def test_a_command_that_has_to_be_reaped_when_it_has_ended_gets_no_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some systems cannot wait for an end without reaping. Then the number may be that of another process."""
    signalled: list[int] = []
    _without_pidfd(monkeypatch)
    monkeypatch.delattr(os, "waitid", raising=False)
    monkeypatch.setattr(os, "killpg", lambda group, _number: signalled.append(group))
    with trio.fail_after(patience(20)):
        async with Commands(("sh", "-c", "exit 3")) as commands, await commands.dial() as stream:
            assert await stream.receive_some() == b""
    assert signalled == []


async def test_something_that_it_started_keeps_nothing_waiting() -> None:
    """The master connection of ssh keeps standard error open in this way."""
    async with Commands(("sh", "-c", "sleep 1000 & printf x")) as commands:
        with trio.fail_after(patience(20)):
            async with await commands.dial() as stream:
                assert await stream.receive_some() == b"x"
