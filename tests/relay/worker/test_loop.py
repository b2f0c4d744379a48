"""A worker in this process, round by round: bytes, ends, errors, fairness, and the main process's messages."""

from __future__ import annotations

import array
import errno
import fcntl
import itertools
import math
import os
import resource
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridrelay.relay.worker.loop import _MAX_TURNS, TURN_BYTES, TURN_STEPS, Worker, _Holder
from hybridrelay.relay.worker.messages import MEMORY_BYTES, SLOTS, Ended, Kind, Message, receive, send
from hybridrelay.relay.worker.pair import BUFFER_BYTES, Channel, Pipes
from hybridrelay.relay.worker.splicing import PIPE_BYTES

from ..failing_splice import ICMP_ERRORS, failing_splice, splice_that_finds_an_end

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers need epoll and memfd_create"),
    pytest.mark.usefixtures("no_descriptor_leaks"),
]

each_end = pytest.mark.parametrize("a_first", [True, False], ids=["a", "b"])


class Main:
    """A worker in this process, and the main process's end of its socket."""

    def __init__(self, *, keep: float = 0.0) -> None:
        assert sys.platform == "linux"
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        self._memory = os.memfd_create("test")
        os.ftruncate(self._memory, MEMORY_BYTES)
        self.worker = Worker(theirs, self._memory, keep=keep)
        assert self.told() == Message(Kind.READY, 0)

    def close(self) -> None:
        self.control.close()
        self.worker.close()
        os.close(self._memory)

    def add(self, slot: int, holder: int = 1, *, buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
        """Pass a pair to the worker. Returns the far ends."""
        fars = self.send_pair(slot, holder, buffers=buffers)
        self.rounds()
        return fars

    def send_pair(
        self, slot: int, holder: int = 1, *, buffers: int | None = None
    ) -> tuple[socket.socket, socket.socket]:
        """Send a pair to the worker, which has not received it yet. Returns the far ends."""
        (far_a, near_a), (far_b, near_b) = tcp_pair(buffers), tcp_pair(buffers)
        with near_a, near_b:
            for near in (near_a, near_b):
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            send(self.control, Kind.MOVE, slot, holder, (near_a.fileno(), near_b.fileno()))
        return far_a, far_b

    def counts(self, slot: int) -> tuple[int, int]:
        data = os.pread(self._memory, 16, 16 * slot)
        there, back = struct.unpack("=QQ", data)
        return there, back

    def rounds(self, number: int = 4) -> None:
        """Run some rounds. On a busy machine, what was sent to a socket may reach it a moment later."""
        for _ in range(number):
            self.worker.run_round(0.002)

    def until(self, happened: Callable[[], object], *, rounds: int = 2000) -> None:
        for _ in range(rounds):
            if happened():
                return
            self.worker.run_round(0.01)
        raise AssertionError("it did not happen")

    def told(self) -> Message | None:
        try:
            return receive(self.control)
        except BlockingIOError:
            return None

    def wait_told(self, meanwhile: Callable[[], object] = lambda: None) -> Message:
        """Run rounds until the worker has sent a message, and return it. `meanwhile` is called before each round."""
        told: list[Message] = []

        def listen() -> bool:
            meanwhile()
            message = self.told()
            told.extend([] if message is None else [message])
            return bool(told)

        self.until(listen)
        return told[0]

    def wait_received(self, sock: socket.socket, size: int) -> bytes:
        """Run rounds until this many bytes have arrived at a far end, and return them."""
        got = bytearray()

        def arrived() -> bool:
            got.extend(read_some(sock) or b"")
            return len(got) >= size

        self.until(arrived)
        return bytes(got)

    def check_moves(self, a: socket.socket, b: socket.socket) -> None:
        """Check that the worker moves the bytes of a pair with these far ends."""
        a.send(b"x")
        self.rounds()
        assert read_some(b) == b"x"


def tcp_pair(buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        if buffers is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        far = socket.socket()
        if buffers is not None:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    for sock in (far, near):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffers is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
    far.setblocking(False)
    return far, near


@pytest.fixture
def main() -> Iterator[Main]:
    made = Main()
    yield made
    made.close()


@contextmanager
def closing(*socks: socket.socket) -> Iterator[None]:
    try:
        yield
    finally:
        for sock in socks:
            sock.close()


def read_some(sock: socket.socket, size: int = 1 << 20) -> bytes | None:
    """Returns None if there is nothing at present."""
    try:
        return sock.recv(size)
    except BlockingIOError:
        return None


def send_some(sock: socket.socket, data: bytes) -> int:
    """Returns how much was sent."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def ends_by_reset(sock: socket.socket) -> bool:
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return False


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_messages_and_both_ends(main: Main) -> None:
    a, b = main.add(7)
    with closing(a, b):
        for source, sink in ((a, b), (b, a)) * 3:
            source.send(b"x" * 100)
            main.rounds()
            assert read_some(sink) == b"x" * 100
        assert main.counts(7) == (300, 300)
        a.shutdown(socket.SHUT_WR)
        main.rounds()
        assert read_some(b) == b""
        assert main.told() is None
        b.send(b"the answer")
        main.rounds()
        assert read_some(a) == b"the answer"
        b.shutdown(socket.SHUT_WR)
        main.rounds()
        assert read_some(a) == b""
        assert main.told() == Message(Kind.ENDED, 7, Ended.FINISHED)


def test_the_last_bytes_and_the_end_arrive_together(main: Main) -> None:
    a, b = main.add(0)
    with closing(a, b):
        for sock in (a, b):
            sock.send(b"last")
            sock.shutdown(socket.SHUT_WR)
        assert main.wait_told() == Message(Kind.ENDED, 0, Ended.FINISHED)
        assert [read_some(sock) for sock in (a, b, a, b)] == [b"last", b"last", b"", b""]


@pytest.mark.parametrize("order", ["early", "late"])
def test_what_follows_urgent_data_does_not_wait_for_more(main: Main, order: str) -> None:
    """A read stops at urgent data, although there is more to read. Urgent data itself is not passed on."""
    a, b = main.add(0)
    with closing(a, b):
        a.send(b"x" * 100)
        if order == "late":
            main.rounds()
        a.send(b"!", socket.MSG_OOB)
        a.send(b"y" * 100)
        assert main.wait_received(b, 200) == b"x" * 100 + b"y" * 100


def test_what_is_still_on_its_way_arrives_when_a_pair_has_finished(main: Main) -> None:
    a, b = main.add(0, buffers=65_536)
    with closing(a, b):
        b.shutdown(socket.SHUT_WR)
        sent = 0
        while sent < 100_000:
            sent += send_some(a, bytes(10_000))
            main.rounds()
        a.shutdown(socket.SHUT_WR)
        assert main.wait_told() == Message(Kind.ENDED, 0, Ended.FINISHED)
        b.settimeout(60)
        assert len(b"".join(iter(lambda: b.recv(1 << 20), b""))) == sent > 65_536


SIZES = st.sampled_from([1, 100, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 200_000])
STEPS = st.lists(st.tuples(st.sampled_from(["a", "b", "read a", "read b", "round"]), SIZES), max_size=60)


class Ends:
    """The far ends of a pair, `a` and `b`: what was sent at each of them, and what has arrived there."""

    def __init__(self, main: Main, slot: int, buffers: int | None) -> None:
        self._main = main
        self._far = dict(zip("ab", main.add(slot, buffers=buffers), strict=True))
        self.sent = {"a": b"", "b": b""}
        self.got = {"a": b"", "b": b""}
        self._ended: set[str] = set()

    @property
    def have_ended(self) -> bool:
        """Whether both ends of file have arrived."""
        return len(self._ended) == 2

    def take_steps(self, steps: list[tuple[str, int]]) -> None:
        for what, size in steps:
            if what == "round":
                self._main.worker.run_round(0)
            elif what in self._far:
                data = os.urandom(size)
                self.sent[what] += data[: send_some(self._far[what], data)]
            else:
                self._read(what[-1], size)

    def _read(self, name: str, size: int) -> None:
        data = read_some(self._far[name], size)
        if data == b"":
            self._ended.add(name)
        self.got[name] += data or b""

    def read_all(self) -> None:
        """Read what is there at present."""
        for name in self._far:
            self._read(name, 1 << 20)

    def end(self, name: str) -> None:
        self._far[name].shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for far in self._far.values():
            far.close()


@pytest.mark.parametrize("splices", [True, False])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, buffers=st.sampled_from([None, 4096, 65_536]), ends_at_once=st.booleans())
def test_whatever_is_sent_arrives(
    splices: bool, steps: list[tuple[str, int]], buffers: int | None, ends_at_once: bool
) -> None:
    main = Main()
    if not splices:
        main.worker._pipes.suspend(errno.EPERM)
    ends = Ends(main, 3, buffers)
    try:
        ends.take_steps(steps)

        def arrived() -> bool:
            ends.read_all()
            return (ends.got["b"], ends.got["a"]) == (ends.sent["a"], ends.sent["b"])

        def ended() -> bool:
            return arrived() and ends.have_ended

        if not ends_at_once:
            main.until(arrived)
            main.rounds()
            assert not main.worker._ready, "there is nothing to do"
        for name in "ab":
            ends.end(name)
        main.until(ended)
        assert main.counts(3) == (len(ends.sent["a"]), len(ends.sent["b"]))
        if not splices:
            assert main.wait_told() == Message(Kind.COPIES, 0, errno.EPERM)
        assert main.wait_told() == Message(Kind.ENDED, 3, Ended.FINISHED)
        assert main.worker._pipes.borrowed == 0
    finally:
        ends.close()
        main.close()


@settings(max_examples=40, deadline=None)
@given(
    before=STEPS, after=STEPS, ended=st.sampled_from(["", "a", "b"]), buffers=st.sampled_from([None, 4096, 65_536])
)
def test_a_pair_is_returned_whatever_was_sent(
    before: list[tuple[str, int]], after: list[tuple[str, int]], ended: str, buffers: int | None
) -> None:
    """What the worker has not passed on is still in the sockets."""
    main = Main()
    ends = Ends(main, 3, buffers)
    told: list[Message] = []
    try:
        ends.take_steps(before)
        for name in ended:
            ends.end(name)
        main.rounds(1)
        send(main.control, Kind.RETURN, 3)
        ends.take_steps([(what, size) for what, size in after if what != ended])

        def returned() -> bool:
            ends.read_all()
            message = main.told()
            told.extend([] if message is None else [message])
            return bool(told)

        main.until(returned)
        (message,) = told
        assert (message.kind, message.slot) == (Kind.RETURNED, 3)
        assert main.worker._pipes.borrowed == 0
        near_a, near_b = (socket.socket(fileno=one) for one in message.descriptors)
        with near_a, near_b:
            rest = {}
            for name, near in (("a", near_a), ("b", near_b)):
                if name != ended:
                    ends.end(name)
                near.settimeout(60)
                rest[name] = b"".join(iter(lambda near=near: near.recv(1 << 20), b""))  # type: ignore[misc]
            for near, bit in ((near_a, 2), (near_b, 1)):
                if not message.value & bit:
                    near.shutdown(socket.SHUT_WR)
            main.until(lambda: ends.read_all() or ends.have_ended)  # type: ignore[func-returns-value]
        assert (ends.got["b"] + rest["a"], ends.got["a"] + rest["b"]) == (ends.sent["a"], ends.sent["b"])
        assert main.counts(3) == (len(ends.got["b"]), len(ends.got["a"]))
    finally:
        ends.close()
        main.close()


@each_end
@pytest.mark.parametrize("stalls", [True, False])
def test_an_error_resets_both(main: Main, a_first: bool, stalls: bool) -> None:
    a, b = main.add(5)
    breaks, other = (a, b) if a_first else (b, a)
    with closing(a, b):
        if stalls:  # so that the socket that breaks is not read at that moment
            while send_some(breaks, bytes(1 << 20)):
                main.rounds()
        reset(breaks)
        assert main.wait_told() == Message(Kind.ENDED, 5, Ended.A_BROKE if a_first else Ended.B_BROKE)
        assert ends_by_reset(other)


class Kernel:
    """Changes what the kernel reports about one socket.

    Args:
        real: reports what has happened.
        sock: the socket.
        reports: called with what has happened to it; returns what is reported.
    """

    def __init__(self, real: select.epoll, sock: socket.socket, reports: Callable[[int], int]) -> None:
        self._real = real
        self._sock = sock
        self._reports = reports

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        return [
            (descriptor, self._reports(events) if descriptor == self._sock.fileno() else events)
            for descriptor, events in self._real.poll(timeout, most)
        ]


def change_reports(main: Main, channel: Channel, reports: Callable[[int], int], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(main.worker, "_epoll", Kernel(main.worker._epoll, channel.sock, reports))


@each_end
@pytest.mark.parametrize("flag", [select.EPOLLRDHUP, select.EPOLLHUP, select.EPOLLERR])
def test_the_end_arrives_whatever_the_kernel_reports(
    main: Main, a_first: bool, flag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = main.add(0)
    ends, other = (a, b) if a_first else (b, a)
    with closing(a, b):
        pair = main.worker._pairs[0]
        end = select.EPOLLIN | select.EPOLLRDHUP
        change_reports(
            main, pair.a if a_first else pair.b, lambda events: flag if events & end else events, monkeypatch
        )
        ends.send(b"last")
        ends.shutdown(socket.SHUT_WR)
        main.rounds()
        assert [read_some(other), read_some(other)] == [b"last", b""]
        assert main.told() is None


@each_end
@pytest.mark.parametrize("is_bulk", [True, False])
@pytest.mark.parametrize(
    ("when", "reported"),
    [
        ("it is read", select.EPOLLIN),
        ("something is sent to it", 0),
        ("something is left for it", select.EPOLLOUT),
    ],
)
def test_an_error_that_a_call_finds_first(
    main: Main, a_first: bool, is_bulk: bool, when: str, reported: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It occurs when the kernel has just been asked for events."""
    a, b = main.add(5)
    breaks, other = (a, b) if a_first else (b, a)
    with closing(a, b):
        pair, size = main.worker._pairs[5], 4 * BUFFER_BYTES if is_bulk else 100
        source, sink = (breaks, other) if when == "it is read" else (other, breaks)
        source.send(bytes(size))
        main.rounds()
        if when == "something is left for it":
            while send_some(source, bytes(10_000)):
                main.rounds()
        else:
            read_some(sink)
        broken = pair.a if a_first else pair.b
        change_reports(main, broken, lambda events: events & reported, monkeypatch)
        reset(breaks)
        if when == "something is sent to it":
            source.send(bytes(size))
        assert main.wait_told() == Message(Kind.ENDED, 5, Ended.A_BROKE if a_first else Ended.B_BROKE)
        assert ends_by_reset(other)
        main.rounds()
        assert main.told() is None


@pytest.mark.parametrize("call", [1, 2], ids=["from", "to"])
@pytest.mark.parametrize(
    "number", [errno.EPIPE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN]
)
def test_an_error_of_a_socket_does_not_mean_that_the_system_does_not_splice(
    main: Main, call: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_splice(monkeypatch, call=call, number=number)
    a, b = main.add(0)
    with closing(a, b):
        a.send(bytes(8 * BUFFER_BYTES))
        assert main.wait_told() == Message(Kind.ENDED, 0, Ended.A_BROKE if call == 1 else Ended.B_BROKE)
        main.rounds()
        assert main.told() is None


@pytest.mark.parametrize("number", ICMP_ERRORS)
@pytest.mark.parametrize("call", [1, 2], ids=["from", "to"])
def test_a_connection_that_ends_for_an_unusual_reason_never_looks_like_an_end_of_file(
    main: Main, call: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = main.add(0)
    breaks, other = (a, b) if call == 1 else (b, a)
    splice_that_finds_an_end(monkeypatch, call=call, end=lambda: reset(breaks), number=number)
    with closing(a, b):
        a.send(bytes(8 * BUFFER_BYTES))
        assert main.wait_told() == Message(Kind.ENDED, 0, Ended.A_BROKE if call == 1 else Ended.B_BROKE)
        assert ends_by_reset(other)
        main.rounds()
        assert main.told() is None, "it is not the system that refuses to splice"


def test_both_break_at_once(main: Main) -> None:
    pairs = [main.add(slot) for slot in range(3)]
    a, b = main.add(3)
    with closing(a, b):
        for far in [far for pair in pairs for far in pair]:
            reset(far)
        main.rounds()
        told = [main.told() for _ in pairs]
        assert {(one.kind, one.slot) for one in told if one is not None} == {(Kind.ENDED, slot) for slot in range(3)}
        assert main.told() is None
        main.check_moves(a, b)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENOMEM, errno.EOPNOTSUPP])
@pytest.mark.parametrize("call", range(1, 7))
def test_where_the_kernel_refuses_to_splice_nothing_is_lost(
    main: Main, call: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = failing_splice(monkeypatch, call=call, number=number)
    data, got, at = os.urandom(3_000_000), bytearray(), 0
    a, b = main.add(1)
    with closing(a, b):

        def pass_on() -> bool:
            nonlocal at
            at += send_some(a, data[at:])
            got.extend(read_some(b) or b"")
            return len(got) == len(data)

        main.until(pass_on)
        assert bytes(got) == data
        assert calls() == call, "it is not tried again"
        assert main.counts(1) == (len(data), 0)
        told = None if number == errno.EINVAL else Message(Kind.COPIES, 0, number)
        assert main.told() == told


def test_without_descriptors_for_pipes_bytes_are_copied(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pipe(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", no_pipe)
    a, b = main.add(1)
    with closing(a, b):
        sent = a.send(bytes(200_000))
        assert len(main.wait_received(b, sent)) == sent
    assert main.worker._pipes.borrowed == 0


def test_a_holder_of_many_pairs_has_one_turn_in_a_round(main: Main) -> None:
    pairs = [main.add(slot, holder=1) for slot in range(3 * TURN_STEPS)]
    victim = main.add(3 * TURN_STEPS, holder=2)
    with closing(*(sock for pair in (*pairs, victim) for sock in pair)):
        for a, _ in (*pairs, victim):
            a.send(b"x")
        main.worker.run_round(1)
        assert read_some(victim[1]) == b"x"
        moved = sum(main.counts(slot)[0] for slot in range(len(pairs)))
        assert moved == TURN_STEPS, "the rest has to wait for the next round"
        main.rounds(6)
        assert [read_some(b) for _, b in pairs] == [b"x"] * len(pairs)


def test_very_many_holders_have_their_turns_in_several_rounds(main: Main) -> None:
    """So messages of the main process do not have to wait until all holders were served."""
    number = 3 * _MAX_TURNS
    pairs = [main.add(slot, holder=slot) for slot in range(number)]
    with closing(*(sock for pair in pairs for sock in pair)):
        main.rounds(6)
        for a, _ in pairs:
            a.send(b"x")
        moved: list[int] = []
        while len(moved) < 3:
            main.worker.run_round(1)
            moved.append(sum(main.counts(slot)[0] for slot in range(number)))
        assert moved == [_MAX_TURNS, 2 * _MAX_TURNS, number], "one after the other"


@given(st.lists(st.sampled_from(["fresh", "served", "take", "take"]), max_size=100))
def test_the_order_of_the_directions_of_a_holder(steps: list[str]) -> None:
    """Directions of each kind are served in the order in which they began to wait. While there are both kinds, three
    of four are directions that have just become ready."""
    holder, numbers = _Holder(), itertools.count()
    waiting: dict[str, list[int]] = {"fresh": [], "served": []}
    kinds: list[str] = []
    for step in ["fresh", "served"] * 4 + steps:
        if step != "take":
            waiting[step].append(next(numbers))
            getattr(holder, step).append(waiting[step][-1])
            continue
        if not any(waiting.values()):
            continue
        has_both = all(waiting.values())
        taken: object = holder.take()
        (kind,) = [kind for kind, those in waiting.items() if those[:1] == [taken]]
        waiting[kind].pop(0)
        kinds = [*kinds, kind] if has_both else []
        assert len(kinds) < 4 or sorted(kinds[-4:]) == ["fresh", "fresh", "fresh", "served"]


def test_a_worker_with_work_does_not_wait(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Waiting(Kernel):
        def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
            waits.append(timeout)
            return self._real.poll(0, most)

    pairs = [main.add(slot) for slot in range(3 * TURN_STEPS)]
    with closing(*(sock for pair in pairs for sock in pair)):
        monkeypatch.setattr(main.worker, "_epoll", Waiting(main.worker._epoll, main.control, int))
        for a, _ in pairs:
            a.send(b"x")
        for _ in range(4):
            main.worker.run_round(-1)
        assert waits == [-1, 0, 0, -1]
        assert [read_some(b) for _, b in pairs] == [b"x"] * len(pairs)


def test_a_holder_is_forgotten_with_its_last_pair(main: Main) -> None:
    pairs = [main.add(slot, holder=slot // 2) for slot in range(6)]
    with closing(*(sock for pair in pairs for sock in pair)):
        for slot in (0, 2, 3):
            send(main.control, Kind.ABORT, slot)
        main.rounds()
        assert len(main.worker._holders) == 2
        main.check_moves(*pairs[1])
        for slot in (1, 4, 5):
            send(main.control, Kind.RETURN, slot)
        main.rounds()
        assert not main.worker._holders
        while (message := main.told()) is not None:
            for descriptor in message.descriptors:
                os.close(descriptor)


def test_a_small_message_does_not_wait_for_the_bulk_data_of_the_same_holder(main: Main) -> None:
    bulk = [main.add(slot) for slot in range(3 * TURN_STEPS)]
    a, b = main.add(3 * TURN_STEPS)
    with closing(a, b, *(sock for pair in bulk for sock in pair)):
        for far_a, _ in bulk:
            send_some(far_a, bytes(1 << 20))
        while not all(main.counts(slot)[0] for slot in range(len(bulk))):
            main.rounds(1)
        a.send(b"x")
        main.rounds(10)  # serving all other pairs first would take some hundred
        assert read_some(b) == b"x"


def test_many_small_messages_do_not_keep_bulk_data_of_the_same_holder_from_flowing(main: Main) -> None:
    small = [main.add(slot) for slot in range(2 * TURN_STEPS)]
    a, b = main.add(2 * TURN_STEPS)
    with closing(a, b, *(sock for pair in small for sock in pair)):
        got = 0
        for _ in range(20):
            send_some(a, bytes(1 << 20))
            for far_a, far_b in small:
                far_a.send(b"x")
                read_some(far_b)
            main.worker.run_round(1)
            got += len(read_some(b) or b"")
        assert got > 10 * BUFFER_BYTES


def test_bulk_is_divided_into_turns(main: Main) -> None:
    a, b = main.add(0)
    with closing(a, b):
        before = 0
        for _ in range(50):
            send_some(a, bytes(1 << 20))
            read_some(b, 4 << 20)
            main.worker.run_round(0)
            now = main.counts(0)[0]
            assert now - before <= TURN_BYTES + PIPE_BYTES
            before = now
        assert before > 0


def test_abort_and_slots_that_are_unknown(main: Main) -> None:
    a, b = main.add(9)
    with closing(a, b):
        for kind in (Kind.ABORT, Kind.RETURN):
            send(main.control, kind, 8)  # as if the pair had ended at the same moment
        send(main.control, Kind.ABORT, 9)
        main.rounds()
        assert main.told() == Message(Kind.ENDED, 9, Ended.ABORTED)
        assert main.told() is None
        for sock in (a, b):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    with closing(*main.add(9)):  # the slot can be used again
        assert main.counts(9) == (0, 0)


def test_a_slot_that_is_used_again_while_a_direction_of_the_earlier_pair_waits(main: Main) -> None:
    slots = range(2 * TURN_STEPS)
    pairs = [main.add(slot) for slot in slots]
    with closing(*(sock for pair in pairs for sock in pair)):
        for a, _ in pairs:
            a.send(b"x")
        main.rounds(1)
        *_, slot = (slot for slot in slots if not main.counts(slot)[0])  # one turn is not enough for all
        send(main.control, Kind.ABORT, slot)
        far_a, far_b = main.send_pair(slot)
        with closing(far_a, far_b):
            main.rounds()
            assert main.told() == Message(Kind.ENDED, slot, Ended.ABORTED)
            main.check_moves(far_a, far_b)
            assert main.told() is None


def test_sockets_are_returned_when_nothing_is_left(main: Main) -> None:
    a, b = main.add(2)
    with closing(a, b):
        while send_some(a, bytes(1 << 20)):
            main.rounds()
        send(main.control, Kind.RETURN, 2)
        main.rounds()
        assert main.told() is None, "something was read that does not fit into the other socket"
        got = 0

        def drain() -> None:
            nonlocal got
            got += len(read_some(b) or b"")

        message = main.wait_told(drain)
        assert (message.kind, message.slot, message.value) == (Kind.RETURNED, 2, 0)
        near_a, near_b = (socket.socket(fileno=one) for one in message.descriptors)
        with near_a, near_b:
            near_b.settimeout(60)
            near_a.settimeout(60)
            b.settimeout(60)
            passed_on = main.counts(2)[0]
            while got < passed_on:
                got += len(b.recv(1 << 20))
            assert read_some(near_a, 1), "the worker has left in the socket what it has not read"
            near_b.send(b"go on")
            assert b.recv(10) == b"go on"
            b.send(b"an answer")
            assert select.select([near_b], [], [], 5)[0]
            assert not main.worker._epoll.poll(0), "the worker no longer watches the sockets"


def test_many_answers_that_do_not_fit_into_the_socket_at_once(main: Main) -> None:
    slots = range(700)
    fars = [sock for slot in slots for sock in main.add(slot)]
    with closing(*fars):
        for first in range(0, len(slots), 100):
            for slot in slots[first : first + 100]:
                send(main.control, Kind.ABORT, slot)
            main.rounds()
        ended: list[int] = []

        def listen() -> bool:
            if (message := main.told()) is not None:
                ended.append(message.slot)
            return len(ended) == len(slots)

        main.until(listen, rounds=5000)
        assert ended == list(slots)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x",
        struct.pack("=BIQ", 99, 0, 0),
        struct.pack("=BIQ", Kind.ABORT, SLOTS, 0),
        struct.pack("=BIQ", Kind.ABORT, 0, 0) + b"x",
        struct.pack("=BIQ", Kind.PING, 0, 0),
    ],
)
def test_a_worker_whose_main_process_has_gone_or_is_another_program_ends(message: bytes) -> None:
    main = Main()
    a, b = main.add(0)
    with closing(a, b):
        if message:
            main.control.send(message)
        main.rounds()
        if message[:1] in (b"", bytes([Kind.PING])):  # PING leaves an answer that nobody receives
            main.control.close()
        main.worker.run()  # returns
        for sock in (a, b):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    main.close()


def test_descriptors_of_a_message_that_is_not_expected_are_closed() -> None:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with first, second:
        second.setblocking(False)
        before = len(os.listdir("/proc/self/fd"))
        for kind in (Kind.ABORT, Kind.ENDED):
            send(first, kind, 0, 0, (0, 1))
            with pytest.raises(ValueError, match="descriptors"):
                receive(second)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_message_that_comes_without_a_part_of_its_descriptors() -> None:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with first, second:
        second.setblocking(False)
        before = len(os.listdir("/proc/self/fd"))
        send(first, Kind.MOVE, 1, 2, (0,))
        assert receive(second) == Message(Kind.MOVE, 1, 2)
        rights = array.array("i", [0, 1])
        first.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert receive(second) is None
        assert len(os.listdir("/proc/self/fd")) == before


@given(st.lists(st.sampled_from(["borrow", "give back", "give back full", "refuse", "wait 1", "wait 60"])))
def test_pipes_that_are_lent(steps: list[str]) -> None:
    """There are at most a certain number at a time, and none for a minute after the system has refused to splice."""
    most, now, until = 2, 0.0, -math.inf
    lent: list[tuple[int, int]] = []
    idle: list[tuple[int, int]] = []
    before = len(os.listdir("/proc/self/fd"))
    pipes = Pipes(most, lambda: now)
    for number, step in enumerate(steps):
        if step == "borrow":
            ends = pipes.borrow()
            assert (ends is None) == (len(lent) == most or now < until)
            if ends is not None:
                assert ends not in lent
                assert not idle or ends == idle.pop(), "those that exist are used first"
                lent.append(ends)
        elif step.startswith("give") and lent:
            is_empty = step == "give back"
            idle += lent[-1:] if is_empty else []
            pipes.give_back(lent.pop(), is_empty=is_empty)
        elif step == "refuse":
            pipes.suspend(number)
            # A pipe that was lent before may be refused, too, which is not reported again.
            assert pipes.error == (number if now >= until else None)
            pipes.error, until = None, max(until, now + 60) if now >= until else until
        elif step.startswith("wait"):
            now += float(step.split()[1])
        assert pipes.borrowed == len(lent)
        assert len(os.listdir("/proc/self/fd")) - before == 2 * len(lent) + 2 * len(idle)
    for ends in lent:
        pipes.give_back(ends, is_empty=True)
    for _ in range(2):
        pipes.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_worker_that_cannot_send_ends(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    a, b = main.add(0)
    with closing(a, b):
        monkeypatch.setattr("hybridrelay.relay.worker.loop.send", fails)
        send(main.control, Kind.PING, 0)
        main.worker.run()  # returns
        for sock in (a, b):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_pipes_leave_descriptors_for_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 400
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    main = Main()
    pipes = main.worker._pipes
    lent: list[tuple[int, int]] = []
    before = len(os.listdir("/proc/self/fd"))
    while (ends := pipes.borrow()) is not None:
        lent.append(ends)
    assert len(lent) == limit // 8
    for ends in lent:
        pipes.give_back(ends, is_empty=True)
    assert len(os.listdir("/proc/self/fd")) - before == 2 * 32, "some are kept"
    again = pipes.borrow()
    assert again in lent
    pipes.give_back(again, is_empty=True)
    main.close()


def test_a_returned_pair_says_which_ends_of_file_were_passed_on(main: Main) -> None:
    for slot, (a_ends, b_ends) in enumerate([(True, False), (False, True)]):
        a, b = main.add(slot)
        with closing(a, b):
            (a if a_ends else b).shutdown(socket.SHUT_WR)
            main.rounds()
            send(main.control, Kind.RETURN, slot)
            message = main.wait_told()
            assert (message.kind, message.value) == (Kind.RETURNED, a_ends + 2 * b_ends)
            for descriptor in message.descriptors:
                os.close(descriptor)


def test_a_ping_is_answered(main: Main) -> None:
    send(main.control, Kind.PING, 0)
    assert main.wait_told() == Message(Kind.PONG, 0)


@each_end
def test_a_pair_that_the_kernel_does_not_watch_ends(
    main: Main, a_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 0 if a_first else 1

    class Full(Kernel):
        def register(self, *args: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._real.register(*args)

    a, b = main.add(0)
    monkeypatch.setattr(main.worker, "_epoll", Full(main.worker._epoll, a, int))
    with closing(a, b, *main.add(1)):
        assert main.told() == Message(Kind.ENDED, 1, Ended.ABORTED)
        main.check_moves(a, b)
        assert main.told() is None


def test_only_a_pair_whose_descriptors_do_not_fit_ends(main: Main) -> None:
    a, b = main.add(0)
    with closing(a, b):
        main.control.send(struct.pack("=BIQ", Kind.MOVE, 1, 1))  # as if the process had no descriptors left
        assert main.wait_told() == Message(Kind.ENDED, 1, Ended.ABORTED)
        main.check_moves(a, b)


def test_a_pair_that_cannot_be_returned_at_this_moment_is_reset(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*args: Any) -> None:
        if args[1] is Kind.RETURNED:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        send(*args)

    monkeypatch.setattr("hybridrelay.relay.worker.loop.send", refuses)
    a, b = main.add(0)
    other = main.add(1)
    with closing(a, b, *other):
        send(main.control, Kind.RETURN, 0)
        assert main.wait_told() == Message(Kind.ENDED, 0, Ended.ABORTED)
        for sock in (a, b):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        main.check_moves(*other)


def test_a_pair_that_is_to_be_returned_does_not_get_stuck(main: Main) -> None:
    """One side does not read before it has been able to send everything."""
    a, b = main.add(2)
    with closing(a, b):
        while send_some(a, bytes(1 << 20)):
            main.rounds()
        send(main.control, Kind.RETURN, 2)
        main.rounds()
        data, sent, got = os.urandom(20 << 20), 0, bytearray()

        def passed() -> bool:
            nonlocal sent
            sent += send_some(b, data[sent : sent + (1 << 20)])
            got.extend(read_some(a) or b"")
            return sent == len(data)

        main.until(passed)
        assert main.told() is None

        def read_both() -> None:
            read_some(b)
            got.extend(read_some(a) or b"")

        returned = main.wait_told(read_both)
        assert returned.kind is Kind.RETURNED
        near_a, near_b = (socket.socket(fileno=one) for one in returned.descriptors)
        with near_a, near_b:
            a.settimeout(60)
            while len(got) < main.counts(2)[1]:
                got.extend(a.recv(1 << 20))
        assert data.startswith(bytes(got))
        assert len(got) > 10 << 20


@pytest.mark.parametrize("end", [Kind.ABORT, Kind.RETURN])
def test_no_pipe_is_lost_and_none_with_bytes_in_it_is_used_again(main: Main, end: Kind) -> None:
    pipes = main.worker._pipes
    for _ in range(3):
        a, b = main.add(4)
        with closing(a, b):
            while send_some(a, bytes(1 << 20)):
                main.rounds()
            assert pipes.borrowed == 1
            send(main.control, end, 4)
            if end is Kind.RETURN:

                def drained(b: socket.socket = b) -> bool:
                    read_some(b)
                    return main.worker._pairs == {}

                main.until(drained)
            main.rounds()
            message = main.told()
            assert message is not None
            for descriptor in message.descriptors:
                os.close(descriptor)
        assert pipes.borrowed == 0
        assert len(pipes._idle) == (0 if end is Kind.ABORT else 1)


def test_what_is_left_is_passed_on_although_nothing_more_arrives(main: Main) -> None:
    a, b = main.add(0, buffers=4096)
    with closing(a, b):
        pair, sent = main.worker._pairs[0], 0
        while not pair.a_to_b.has_something_left:
            sent += send_some(a, bytes(3000))
            main.rounds(1)
        assert not pair.a.is_readable
        assert len(main.wait_received(b, sent)) == sent


def test_a_direction_that_has_ended_holds_no_pipe(main: Main) -> None:
    a, b = main.add(0)
    with closing(a, b):
        sent = sum(send_some(a, bytes(BUFFER_BYTES)) for _ in range(8))
        a.shutdown(socket.SHUT_WR)
        got = 0

        def ended() -> bool:
            nonlocal got
            data = read_some(b)
            got += len(data or b"")
            return data == b""

        main.until(ended)
        assert got == sent
        assert main.worker._pipes.borrowed == 0
        assert len(main.worker._pipes._idle) == 1, "it was used"


def test_an_end_that_was_reported_before_the_bulk_data_was_moved_is_passed_on(main: Main) -> None:
    a, b = main.add(0)
    with closing(a, b):
        main.rounds(1)
        sent = send_some(a, bytes(4 * BUFFER_BYTES))
        assert sent > 2 * BUFFER_BYTES
        a.shutdown(socket.SHUT_WR)
        # All of it is there before the worker looks, so that one event reports everything.
        poll = select.poll()
        poll.register(main.worker._pairs[0].a.sock, select.POLLRDHUP)
        assert poll.poll(60_000)
        got = bytearray()

        def ended() -> bool:
            data = read_some(b)
            got.extend(data or b"")
            return data == b""

        main.until(ended)
        assert len(got) == sent


def test_what_did_not_fit_into_a_pipe_follows_without_another_event(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_tiny_pipe() -> tuple[int, int]:
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
        return ends

    monkeypatch.setattr("hybridrelay.relay.worker.pair.open_pipe", open_tiny_pipe)
    a, b = main.add(0)
    with closing(a, b):
        main.rounds(1)
        sent = send_some(a, bytes(20 * BUFFER_BYTES))
        assert sent > BUFFER_BYTES
        assert len(main.wait_received(b, sent)) == sent
        main.rounds(2)
        assert not main.worker._pairs[0].a.is_readable, "it has asked, and nothing was left"


def test_what_is_left_of_one_pair_is_not_overwritten_by_another(main: Main) -> None:
    first, second = main.add(0, buffers=4096), main.add(1)
    with closing(*first, *second):
        sent = bytearray()
        for number in range(200):
            data = bytes([number]) * 3000
            sent += data[: send_some(first[0], data)]
            main.rounds(1)
            send_some(second[0], b"another" * 1000)
            main.rounds(1)
            read_some(second[1])
        assert any(direction._left for direction in main.worker._pairs[0].directions)
        assert main.wait_received(first[1], len(sent)) == sent


def test_a_worker_without_work_waits(main: Main) -> None:
    stalled, half_closed, returning = main.add(0), main.add(1), main.add(2)
    with closing(*stalled, *half_closed, *returning, *main.add(3)):
        for a, _ in (stalled, returning):
            while send_some(a, bytes(1 << 20)):
                main.rounds()
        half_closed[0].shutdown(socket.SHUT_WR)
        send(main.control, Kind.RETURN, 2)
        main.rounds(20)
        assert not main.worker._ready
        assert not main.worker._epoll.poll(0)
