"""Standard output inside an event loop: a reader that stalls holds up nobody else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.cli import async_output

_MUCH = "x" * 300_000


@contextlib.contextmanager
def stalled_stdout() -> Iterator[int]:
    """Standard output is a pipe that nobody reads; gives its other end.

    No fixture, because pytest puts back its own standard output between a fixture and the test.
    """
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, contextlib.redirect_stdout(stream):
        yield reading
    os.close(reading)


async def test_other_tasks_run_while_the_reader_stalls() -> None:
    with stalled_stdout() as reading:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(async_output.say, _MUCH)
            await trio.testing.wait_all_tasks_blocked()
            async_output.maybe_say("left out")
            nursery.cancel_scope.cancel()
        os.set_blocking(reading, False)
        found = os.read(reading, 1 << 20)
    assert 0 < len(found) < len(_MUCH)
    assert set(found) == {ord("x")}


async def test_on_windows_progress_is_dropped_because_printing_it_may_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.cli.async_output.sys.platform", "win32")
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, contextlib.redirect_stdout(stream):
        async_output.maybe_say("left out")
    assert os.read(reading, 100) == b""
    os.close(reading)


async def test_a_reader_that_comes_back_gets_everything() -> None:
    found = b""
    with stalled_stdout() as reading:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(async_output.say, _MUCH)
            await trio.testing.wait_all_tasks_blocked()
            while len(found) <= len(_MUCH):
                found += await trio.to_thread.run_sync(os.read, reading, 65536)
    assert found.decode() == _MUCH + "\n"


async def test_a_reader_that_left_is_not_an_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, contextlib.redirect_stdout(stream):
        await async_output.say("a")
        await async_output.say("b")
        async_output.maybe_say("c")


async def test_what_is_said_reaches_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        await async_output.say_ready("relay", [("probe", "*:9350")])
        async_output.maybe_say("ö")
    assert (tmp_path / "out").read_text("utf-8") == "ready relay probe=*:9350\nö\n"


async def test_text_from_elsewhere_does_not_control_the_terminal(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        await async_output.say("a\x1b]0;title\x07\u202eb\x9bc\r\n\x1b[31mred\x1b[0m")
        await async_output.draw("\x1b[H")
    assert (tmp_path / "out").read_text("utf-8") == "a ]0;title  b c \n\x1b[31mred\x1b[0m\n\x1b[H"


async def test_a_stream_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    await async_output.say("a")
    assert capsys.readouterr().out == "a\n"
