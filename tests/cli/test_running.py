"""Signals: the first one ends things gracefully."""

from __future__ import annotations

import signal
import sys

import pytest
import trio

from hybridrelay.cli.running import run_until_stopped
from hybridrelay.errors import RelayUnreachable

SIGNALS = [signal.SIGINT, signal.SIGTERM]
# Under nohup it is ignored, as it has to be (see below).
if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    SIGNALS.append(signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_cancels(number: signal.Signals) -> None:
    ended = False

    async def main() -> None:
        nonlocal ended
        signal.raise_signal(number)
        try:
            await trio.sleep_forever()
        finally:
            ended = True

    handlers = [signal.getsignal(one) for one in SIGNALS]

    assert run_until_stopped(main) is number
    assert ended
    assert [signal.getsignal(one) for one in SIGNALS] == handlers


def test_work_that_ends_by_itself() -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()

    assert run_until_stopped(main) is None


def test_an_error_leaves_as_itself() -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        raise RelayUnreachable("away")

    with pytest.raises(RelayUnreachable, match="away"):
        run_until_stopped(main)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP there")
def test_nohup_is_respected() -> None:
    async def main() -> None:
        signal.raise_signal(signal.SIGHUP)
        await trio.lowlevel.checkpoint()

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_until_stopped(main) is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_second_signal_ends_the_process_at_once() -> None:
    """In a process of its own, whose main task never gives way to being cancelled."""
    import subprocess

    code = """
import signal, trio
from hybridrelay.cli.running import run_until_stopped
async def main():
    with trio.CancelScope(shield=True):
        signal.raise_signal(signal.SIGTERM)
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()
run_until_stopped(main, on_abort=lambda: print("cleaned up", flush=True))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "cleaned up\n", "")
