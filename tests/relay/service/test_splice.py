"""Bytes that the kernel moves: each pipe is returned empty, and where `splice` fails, bytes go through a buffer."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from hybridrelay.events.base import Event
from hybridrelay.events.stream import EventStream
from hybridrelay.relay.service import splice as splice_module
from hybridrelay.relay.service.pump import Moved, PumpOutcome, pump
from hybridrelay.relay.service.splice import PipePool, can_splice
from hybridrelay.relay.worker import splicing
from hybridrelay.relay.worker.splicing import SPLICE_RETRY_SECONDS
from hybridrelay.streams.nowait import Turn
from hybridrelay.streams.sockets import reset_on_close
from hybridrelay.testing import tcp_pair

from ..failing_splice import ICMP_ERRORS, failing_splice, splice_that_finds_an_end

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="splice is Linux's"),
    pytest.mark.usefixtures("no_descriptor_leaks"),
]

DATA = os.urandom(3 * 1024 * 1024)


async def through_a_pump(data: bytes, pipes: PipePool) -> tuple[bytes, PumpOutcome]:
    """Send `data` one way through a pump between TCP sockets."""
    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    received = bytearray()

    async def send() -> None:
        await far_a.send_all(data)
        await far_a.send_eof()

    async def receive() -> None:
        async for block in far_b:
            received.extend(block)
        await far_b.aclose()

    with trio.fail_after(30):
        async with far_a, far_b, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
            moved = Moved()
            outcome = await pump(near_a, near_b, moved=moved, pipes=pipes)
    assert (moved.a_to_b, moved.b_to_a) == (len(received), 0)
    return bytes(received), outcome


REFUSALS = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOMEM, errno.EUCLEAN)


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("call", range(1, 9))
async def test_where_the_kernel_refuses_nothing_is_lost(
    call: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mostly, odd calls fill the pipe and even ones empty it, so that each kind of call is refused once.
    failing_splice(monkeypatch, call=call, number=number)
    with PipePool() as pipes:
        received, outcome = await through_a_pump(DATA, pipes)
        assert pipes.borrowed == 0
    assert received == DATA
    assert outcome is PumpOutcome.FINISHED


async def test_splice_is_tried_again_some_time_after_it_has_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    real, calls, works = os.splice, 0, False

    def splice(*args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        if works:
            return real(*args, **kwargs)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "splice", splice)
    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    with PipePool() as pipes:
        async with far_a, far_b, trio.open_nursery() as nursery:
            nursery.start_soon(partial(pump, near_a, near_b, pipes=pipes))
            for _ in range(5):
                await far_a.send_all(b"some")
                assert await far_b.receive_some() == b"some"
            assert calls == 1, "after the first refusal it is not tried again"
            mock_clock.jump(SPLICE_RETRY_SECONDS + 1)
            works = True
            for _ in range(5):
                await far_a.send_all(b"more")
                assert await far_b.receive_some() == b"more"
            assert calls > 5, "the kernel moves the bytes of the same pair again"
            nursery.cancel_scope.cancel()
    assert caplog.text.count("splice fails: detail='Operation not permitted'") == 1


SOCKET_ERRORS = (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENOTCONN)


@pytest.mark.parametrize("number", SOCKET_ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize(("call", "outcome"), [(1, PumpOutcome.A_BROKE), (2, PumpOutcome.B_BROKE)])
async def test_the_stream_whose_splice_fails_is_the_broken_one(
    call: int, number: int, outcome: PumpOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_splice(monkeypatch, call=call, number=number)
    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    async with far_a, far_b:
        await far_a.send_all(b"something")
        with PipePool() as pipes:
            assert await pump(near_a, near_b, pipes=pipes) is outcome
            assert pipes.borrowed == 0
        with pytest.raises(trio.BrokenResourceError):
            await far_b.receive_some()


@pytest.mark.parametrize("number", ICMP_ERRORS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize(("call", "outcome"), [(1, PumpOutcome.A_BROKE), (2, PumpOutcome.B_BROKE)])
async def test_a_connection_that_ends_for_an_unusual_reason_never_looks_like_an_end_of_file(
    call: int, number: int, outcome: PumpOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    breaks, other = (far_a, far_b) if call == 1 else (far_b, far_a)

    def end() -> None:
        reset_on_close(breaks, on=True)
        breaks.socket.close()

    splice_that_finds_an_end(monkeypatch, call=call, end=end, number=number)
    events: list[Event] = []
    async with far_a, far_b:
        await far_a.send_all(b"something")
        with PipePool(events=EventStream(events.append)) as pipes:
            assert await pump(near_a, near_b, pipes=pipes) is outcome
        with pytest.raises(trio.BrokenResourceError):
            await other.receive_some()
    assert not events, "an error of the connection is not reported as a failure of splice"


async def test_an_interpreter_without_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for Linux, Python may have been built without `splice`: the module can be imported and copies bytes."""
    for name in [name for name in vars(os) if name.lower().startswith("splice")]:
        monkeypatch.delattr(os, name)
    loader = importlib.util.spec_from_file_location("hybridrelay.relay.worker.without", splicing.__file__)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    assert not module.HAS_SPLICE
    monkeypatch.setattr(splice_module, "HAS_SPLICE", module.HAS_SPLICE)
    near, far = await tcp_pair()
    async with near, far:
        assert not can_splice(near, far)


async def test_without_pipes_bytes_go_through_a_buffer() -> None:
    with PipePool(max_borrowed=0) as pipes:
        received, outcome = await through_a_pump(DATA, pipes)
    assert received == DATA
    assert outcome is PumpOutcome.FINISHED


async def test_without_descriptors_bytes_go_through_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pipe(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", no_pipe)
    with PipePool() as pipes:
        received, _ = await through_a_pump(DATA, pipes)
        assert (pipes.borrowed, pipes.idle) == (0, 0)
    assert received == DATA


async def test_a_long_burst_yields(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    class Short(Turn):
        def __init__(self) -> None:
            nonlocal turns
            turns += 1
            super().__init__()

        def is_over(self, moved: int) -> bool:
            return True

    monkeypatch.setattr(splice_module, "Turn", Short)
    with PipePool() as pipes:
        received, _ = await through_a_pump(DATA, pipes)
    assert received == DATA
    assert turns > 1


async def test_a_pipe_with_bytes_in_it_is_not_lent_again() -> None:
    with PipePool() as pipes:
        pipe = pipes.maybe_borrow()
        assert pipe is not None
        pipe.held = 1
        pipes.give_back(pipe)
        assert (pipes.borrowed, pipes.idle) == (0, 0)


async def test_both_borrowed_and_idle_pipes_are_limited() -> None:
    with PipePool(max_idle=1, max_borrowed=2) as pipes:
        lent = [pipes.maybe_borrow() for _ in range(3)]
        assert lent[2] is None
        for pipe in lent[:2]:
            assert pipe is not None
            pipes.give_back(pipe)
        assert (pipes.borrowed, pipes.idle) == (0, 1)
        assert pipes.maybe_borrow() in lent, "an idle pipe is lent before a new one is made"
        pipes.give_back(next(pipe for pipe in lent if pipe))


async def test_a_closed_pool_closes_pipes_that_are_given_back() -> None:
    pipes = PipePool()
    pipe = pipes.maybe_borrow()
    assert pipe is not None
    pipes.close()
    pipes.give_back(pipe)
    pipes.close()
    assert pipes.idle == 0


async def test_only_plain_sockets_are_spliced() -> None:
    near, far = await tcp_pair()
    wrapped = trio.StapledStream(far, far)
    async with near, far:
        assert can_splice(near, far)
        assert not can_splice(near, wrapped)
        assert not can_splice(wrapped, near)
