"""Benchmarks without sockets, of the codec, the session core and tokens. Each figure is the time of one step, such as
one frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from hybridrelay.protocol import Reason, SessionCore, SessionRole
from hybridrelay.protocol.events import StreamOffered
from hybridrelay.protocol.frames import FrameDecoder, data_header
from hybridrelay.protocol.stream import Stream
from hybridrelay.security import Right, Rule, generate_key, make_token, verify_token

_SIZES = (64, 65536)
_NOW = 1000.0


class Runner(Protocol):
    """The part of pyperf's runner that is used."""

    def bench_time_func(self, name: str, *arguments: object, **options: object) -> None: ...


def add(runner: Runner) -> None:
    """Add the benchmarks."""
    for size in _SIZES:
        runner.bench_time_func(f"codec: decode DATA, {size} bytes", _decode, size)
        runner.bench_time_func(f"session: DATA there, acknowledgement back, {size} bytes", _exchange, size)
    runner.bench_time_func("session: open, answer, reset", _open)
    runner.bench_time_func("sas: make", _make_token)
    runner.bench_time_func("sas: verify", _verify_token)


def _timed(loops: int, step: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(loops):
        step()
    return time.perf_counter() - began


def _decode(loops: int, size: int) -> float:
    decoder = FrameDecoder()
    data = data_header(1, size) + bytes(size)
    return _timed(loops, lambda: list(decoder.decode_untrusted(data)))


class _Pair:
    """Two session cores that a loop connects. Their time does not advance."""

    def __init__(self) -> None:
        self.ours = SessionCore(SessionRole.INITIATOR, session_id=bytes(16), secret=bytes(32))
        self.theirs = SessionCore(SessionRole.ACCEPTOR)
        self.offered: list[Stream] = []
        for core in (self.ours, self.theirs):
            core.channel_opened(_NOW)
        self.pump()

    def pump(self) -> None:
        """Pass bytes between the cores until there are none."""
        moved = True
        while moved:
            moved = False
            for source, sink in ((self.ours, self.theirs), (self.theirs, self.ours)):
                if data := b"".join(source.data_to_send(_NOW)):
                    moved = True
                    for event in sink.receive_data(data, _NOW):
                        if isinstance(event, StreamOffered):
                            self.offered.append(event.stream)

    def open(self) -> tuple[Stream, Stream]:
        """Open a stream, and return both ends."""
        ours = self.ours.open_stream()
        self.pump()
        theirs = self.offered.pop()
        self.theirs.accept(theirs, _NOW)
        self.pump()
        return ours, theirs


def _exchange(loops: int, size: int) -> float:
    pair = _Pair()
    ours, theirs = pair.open()
    data = bytes(size)

    def step() -> None:
        pair.ours.send_data(ours, data)
        pair.pump()
        pair.theirs.read(theirs, size, _NOW)
        pair.pump()

    return _timed(loops, step)


def _open(loops: int) -> float:
    pair = _Pair()

    def step() -> None:
        ours, _ = pair.open()
        pair.ours.reset(ours, Reason.CANCELLED)
        pair.pump()

    return _timed(loops, step)


_AUDIENCE = "http://relay.example.com/orders"


def _make_token(loops: int) -> float:
    key = generate_key()
    return _timed(loops, lambda: make_token(_AUDIENCE, "send", key, _NOW + 3600))


def _verify_token(loops: int) -> float:
    rule = Rule("send", frozenset({Right.SEND}), generate_key(), generate_key())
    assert rule.secondary is not None
    token = make_token(_AUDIENCE, "send", rule.secondary, _NOW + 3600)

    def step() -> object:
        return verify_token(
            token, hosts=["relay.example.com"], entity="orders", right=Right.SEND, rules=[rule], now=_NOW
        )

    return _timed(loops, step)
