"""A worker in this process, round by round: bytes, ends, errors, fairness, and what the main process says."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridrelay.relay.worker.loop import TURN_BYTES, TURN_STEPS, Worker
from hybridrelay.relay.worker.messages import COUNTS_BYTES, SLOTS, Ended, Kind, Message, receive, send
from hybridrelay.relay.worker.pair import BUFFER_BYTES
from hybridrelay.relay.worker.splicing import PIPE_BYTES

from ..failing_splice import failing_splice

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need epoll and memfd_create")


class Main:
    """What the main process does, and a worker."""

    def __init__(self) -> None:
        assert sys.platform == "linux"
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        self._memory = os.memfd_create("test")
        os.ftruncate(self._memory, COUNTS_BYTES)
        self.worker = Worker(theirs, self._memory)
        assert self.told() == Message(Kind.READY, 0)

    def close(self) -> None:
        self.control.close()
        self.worker.close()
        os.close(self._memory)

    def add(self, slot: int, holder: int = 1, *, buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
        """Pass a pair to the worker. Returns the far ends."""
        (far_a, near_a), (far_b, near_b) = tcp_pair(buffers), tcp_pair(buffers)
        with near_a, near_b:
            for near in (near_a, near_b):
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            send(self.control, Kind.MOVE, slot, holder, (near_a.fileno(), near_b.fileno()))
        self.rounds()
        return far_a, far_b

    def counts(self, slot: int) -> tuple[int, int]:
        data = os.pread(self._memory, 16, 16 * slot)
        there, back = struct.unpack("=QQ", data)
        return there, back

    def rounds(self, number: int = 4) -> None:
        for _ in range(number):
            self.worker.run_round(0)

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

    def wait_told(self) -> Message:
        told: list[Message] = []

        def listen() -> bool:
            message = self.told()
            told.extend([] if message is None else [message])
            return bool(told)

        self.until(listen)
        return told[0]


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
        sock.setblocking(False)
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


SIZES = st.sampled_from([1, 100, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 200_000])
STEPS = st.lists(st.tuples(st.sampled_from(["a", "b", "read a", "read b", "round"]), SIZES), max_size=60)


@pytest.mark.parametrize("splices", [True, False])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, buffers=st.sampled_from([None, 4096, 65_536]))
def test_whatever_is_sent_arrives(splices: bool, steps: list[tuple[str, int]], buffers: int | None) -> None:
    main = Main()
    if not splices:
        main.worker._pipes.suspend(errno.EPERM)
    a, b = main.add(3, buffers=buffers)
    far = {"a": a, "b": b}
    sent = {"a": bytearray(), "b": bytearray()}
    got = {"a": bytearray(), "b": bytearray()}
    other = {"a": "b", "b": "a"}
    try:
        for what, size in steps:
            if what == "round":
                main.worker.run_round(0)
            elif what in far:
                data = os.urandom(size)
                sent[what] += data[: send_some(far[what], data)]
            else:
                name = what[-1]
                got[name] += read_some(far[name], size) or b""
        ended = set()
        for name, sock in far.items():
            sock.shutdown(socket.SHUT_WR)

            def drained(name: str = name) -> bool:
                for each, end in far.items():
                    data = read_some(end)
                    if data == b"":
                        ended.add(each)
                    got[each] += data or b""
                return other[name] in ended

            main.until(drained)
        assert {name: bytes(got[other[name]]) for name in far} == {name: bytes(sent[name]) for name in far}
        assert main.counts(3) == (len(sent["a"]), len(sent["b"]))
        if not splices:
            assert main.wait_told() == Message(Kind.COPIES, 0, errno.EPERM)
        assert main.wait_told() == Message(Kind.ENDED, 3, Ended.FINISHED)
        assert main.worker._pipes.borrowed == 0
    finally:
        a.close()
        b.close()
        main.close()


@pytest.mark.parametrize("a_first", [True, False])
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


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENOMEM])
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
        got = bytearray()

        def arrived() -> bool:
            got.extend(read_some(b) or b"")
            return len(got) == sent

        main.until(arrived)
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
        assert moved == TURN_STEPS, "there is more, and it is for the next round"
        main.rounds(6)
        assert [read_some(b) for _, b in pairs] == [b"x"] * len(pairs)


def test_a_small_message_does_not_wait_for_the_bulk_data_of_the_same_holder(main: Main) -> None:
    bulk = [main.add(slot) for slot in range(3 * TURN_STEPS)]
    a, b = main.add(3 * TURN_STEPS)
    with closing(a, b, *(sock for pair in bulk for sock in pair)):
        for far_a, _ in bulk:
            send_some(far_a, bytes(1 << 20))
        while not all(main.counts(slot)[0] for slot in range(len(bulk))):
            main.rounds(1)
        a.send(b"x")
        main.rounds(10)  # all the others would take some hundred
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
            send(main.control, kind, 8)  # it has ended at the same moment
        send(main.control, Kind.ABORT, 9)
        main.rounds()
        assert main.told() == Message(Kind.ENDED, 9, Ended.ABORTED)
        assert main.told() is None
        for sock in (a, b):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    with closing(*main.add(9)):  # the slot can be used again
        assert main.counts(9) == (0, 0)


def test_sockets_are_returned_when_nothing_is_left(main: Main) -> None:
    a, b = main.add(2)
    with closing(a, b):
        while send_some(a, bytes(1 << 20)):
            main.rounds()
        send(main.control, Kind.RETURN, 2)
        main.rounds()
        assert main.told() is None, "something was read that does not fit into the other socket"
        got = 0
        told: list[Message] = []

        def drain() -> bool:
            nonlocal got
            got += len(read_some(b) or b"")
            message = main.told()
            told.extend([] if message is None else [message])
            return bool(told)

        main.until(drain)
        (message,) = told
        assert (message.kind, message.slot, message.value) == (Kind.RETURNED, 2, 0)
        near_a, near_b = (socket.socket(fileno=one) for one in message.descriptors)
        with near_a, near_b:
            near_b.settimeout(5)
            near_a.settimeout(5)
            b.settimeout(5)
            passed_on = main.counts(2)[0]
            while got < passed_on:
                got += len(b.recv(1 << 20))
            assert read_some(near_a, 1), "the worker has left in the socket what it has not read"
            near_b.send(b"go on")
            assert b.recv(10) == b"go on"


def test_many_answers_that_do_not_fit_into_the_socket_at_once(main: Main) -> None:
    slots = range(700)
    fars = [sock for slot in slots for sock in main.add(slot)]
    with closing(*fars):
        for first in range(0, len(slots), 100):
            for slot in slots[first : first + 100]:
                send(main.control, Kind.ABORT, slot)
            main.rounds()
        ended = set()

        def listen() -> bool:
            if (message := main.told()) is not None:
                ended.add(message.slot)
            return len(ended) == len(slots)

        main.until(listen, rounds=5000)


@pytest.mark.parametrize(
    "message",
    [b"", b"x", struct.pack("=BIQ", 99, 0, 0), struct.pack("=BIQ", 2, SLOTS, 0)],
)
def test_a_worker_whose_main_process_has_gone_or_is_another_program_ends(message: bytes) -> None:
    main = Main()
    a, b = main.add(0)
    with closing(a, b):
        if message:
            main.control.send(message)
        else:
            main.control.close()
        main.worker.run()  # returns
        for sock in (a, b):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    main.control.close()


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


def test_pipes_leave_descriptors_for_pairs(main: Main) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    pipes = main.worker._pipes
    lent: list[tuple[int, int]] = []
    while (ends := pipes.borrow()) is not None and len(lent) < 50:
        lent.append(ends)
    assert len(lent) <= soft // 8
    for ends in lent:
        pipes.give_back(ends, is_empty=True)
    assert len(lent) < 50 or len(pipes._idle) == 32


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


def test_ping(main: Main) -> None:
    send(main.control, Kind.PING, 0)
    assert main.wait_told() == Message(Kind.PONG, 0)


def test_only_a_pair_whose_descriptors_do_not_fit_ends(main: Main) -> None:
    a, b = main.add(0)
    with closing(a, b):
        main.control.send(struct.pack("=BIQ", Kind.MOVE, 1, 1))  # as if the process had no descriptors left
        assert main.wait_told() == Message(Kind.ENDED, 1, Ended.ABORTED)
        a.send(b"x")
        main.rounds()
        assert read_some(b) == b"x"


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
        other[0].send(b"x")
        main.rounds()
        assert read_some(other[1]) == b"x"


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
        told: list[Message] = []

        def returned() -> bool:
            read_some(b)
            got.extend(read_some(a) or b"")
            message = main.told()
            told.extend([] if message is None else [message])
            return bool(told)

        main.until(returned)
        assert told[0].kind is Kind.RETURNED
        near_a, near_b = (socket.socket(fileno=one) for one in told[0].descriptors)
        with near_a, near_b:
            a.settimeout(5)
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


def test_what_is_left_of_one_pair_is_not_overwritten_by_another(main: Main) -> None:
    first, second = main.add(0, buffers=4096), main.add(1)
    with closing(*first, *second):
        sent, got = bytearray(), bytearray()
        for number in range(200):
            data = bytes([number]) * 3000
            sent += data[: send_some(first[0], data)]
            main.rounds(1)
            send_some(second[0], b"another" * 1000)
            main.rounds(1)
            read_some(second[1])
        assert any(direction._left for direction in main.worker._pairs[0].directions)

        def arrived() -> bool:
            got.extend(read_some(first[1]) or b"")
            return len(got) == len(sent)

        main.until(arrived)
        assert got == sent


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
