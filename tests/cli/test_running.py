"""Signals: the first one ends things gracefully."""

from __future__ import annotations

import gc
import json
import logging
import signal
import sys
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.cli import exits, running
from hybridrelay.cli.logs import set_up_logs
from hybridrelay.cli.reloading import ReloadRequests
from hybridrelay.cli.running import GracefulStop, run_until_stopped
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


def test_full_collections_are_short_while_a_program_runs() -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        gc.collect()
        frozen.append(gc.get_freeze_count())

    frozen: list[int] = []
    run_until_stopped(main)
    assert frozen[0] > 0
    assert gc.get_freeze_count() == 0


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


@pytest.mark.parametrize("is_ready", [False, True])
def test_an_error_of_a_program_that_was_ready_says_so(is_ready: bool) -> None:
    stop = GracefulStop(1.0)

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        if is_ready:
            stop.arm()
        raise RelayUnreachable("away")

    with pytest.raises(exits.EndedWhileServing if is_ready else RelayUnreachable) as caught:
        run_until_stopped(main, stop=stop)
    assert isinstance(caught.value.__cause__ if is_ready else caught.value, RelayUnreachable)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(name: str) -> None:
    """This is so under nohup, and for programs that a script starts in the background."""
    number = signal.Signals[name]

    async def main() -> None:
        signal.raise_signal(number)
        await trio.lowlevel.checkpoint()

    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert run_until_stopped(main) is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP there")
@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN])
def test_sighup_reloads_and_ends_nothing(inherited: signal.Handlers) -> None:
    """The signal comes before the program runs, while it runs, or while it reloads; also with nohup."""
    reloads = 0
    requests = ReloadRequests()

    async def reload() -> None:
        nonlocal reloads
        reloads += 1
        if reloads == 2:
            for _ in range(20):
                signal.raise_signal(signal.SIGHUP)
            # What is asked for during a reload may have been changed after the files were read.
            await trio.testing.wait_all_tasks_blocked()

    async def main() -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert reloads == 1
        signal.raise_signal(signal.SIGHUP)
        await trio.testing.wait_all_tasks_blocked(0.01)

    before = signal.signal(signal.SIGHUP, inherited)
    try:
        with requests.caught():
            signal.raise_signal(signal.SIGHUP)
            assert run_until_stopped(main, reloads=partial(requests.serve, reload)) is None
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is inherited
    finally:
        signal.signal(signal.SIGHUP, before)
    assert reloads == 3


def test_a_reload_that_hits_a_bug_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    requests = ReloadRequests()

    async def reload() -> None:
        raise RuntimeError("a bug")

    async def main() -> None:
        for _ in range(2):
            requests.request()
            await trio.testing.wait_all_tasks_blocked()

    assert run_until_stopped(main, reloads=partial(requests.serve, reload)) is None
    assert caplog.text.count("where='the reload'") == 2
    caplog.clear()


def test_nothing_is_reloaded_once_the_program_stops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    requests, stop = ReloadRequests(), GracefulStop(5.0)

    async def reload() -> None:
        raise AssertionError("reloaded")

    async def main() -> None:
        stop.arm()
        signal.raise_signal(signal.SIGTERM)
        await stop.event.wait()
        requests.request()
        await trio.testing.wait_all_tasks_blocked()

    assert (
        run_until_stopped(main, stop=stop, reloads=partial(requests.serve, stop.unless_stopping(reload)))
        is signal.SIGTERM
    )
    assert "the program is stopping" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1 there")
@pytest.mark.usefixtures("logs_restored")
def test_sigusr1_is_answered_whatever_the_level_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGUSR1)
        await trio.testing.wait_all_tasks_blocked()

    before = signal.getsignal(signal.SIGUSR1)
    for as_json in (False, True):
        set_up_logs("error", as_json=as_json)
        assert run_until_stopped(main) is None
    assert signal.getsignal(signal.SIGUSR1) is before

    line, record = capsys.readouterr().err.splitlines()
    found = json.loads(line.partition(" hybridrelay.statistics: ")[2])
    assert found["tasks"] == sum(found["tasks_by_name"].values())
    assert any(name.endswith("_Stopper.supervise") for name in found["tasks_by_name"])
    assert json.loads(record)["fields"].keys() == found.keys()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1 there")
def test_a_question_that_cannot_be_answered_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    async def main() -> None:
        signal.raise_signal(signal.SIGUSR1)
        await trio.testing.wait_all_tasks_blocked()

    monkeypatch.setattr(running, "program_statistics", broken)
    assert run_until_stopped(main) is None
    assert "a bug" in caplog.text
    caplog.clear()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_second_signal_ends_the_process_at_once() -> None:
    """This needs a process of its own, whose main task is never cancelled."""
    import subprocess

    code = """
import signal, trio
from hybridrelay.cli.reloading import ReloadRequests
from hybridrelay.cli.running import GracefulStop, run_until_stopped
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
