"""A worker without a main process: its pairs go on, the next main process gets them, or they end by a reset."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import pytest

from hybridrelay.relay.worker import orphaned
from hybridrelay.relay.worker.loop import Worker
from hybridrelay.relay.worker.messages import (
    MEMORY_BYTES,
    SETTLED,
    SOCKET_NAME,
    VERSION,
    Ended,
    Kind,
    Message,
    receive,
    send,
)

from .test_loop import Main, closing, ends_by_reset, read_some, reset, tcp_pair

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need epoll and memfd_create")


class Clock:
    """The clock of the worker."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@attrs.define(eq=False)
class Scene:
    """A worker whose main process can end, and a socket on which the next one waits."""

    main: Main
    clock: Clock
    listener: socket.socket

    def lose_main(self) -> None:
        self.main.control.close()
        self.main.rounds()

    def rounds(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.main.rounds()

    def accept(self) -> Next:
        """Let the worker connect and send `HELLO`."""
        self.rounds(1.0)
        control, _ = self.listener.accept()
        control.setblocking(False)
        return Next(self, control)

    def accept_with_list(self) -> tuple[Next, list[Message]]:
        """Let the worker connect and list its pairs. Returns the next main process, and the list."""
        successor = self.accept()
        successor.hear_hello()
        return successor, successor.hear_list()

    @property
    def is_over(self) -> bool:
        return self.main.worker._is_over


@attrs.define(eq=False)
class Next:
    """The next main process."""

    scene: Scene
    control: socket.socket

    def hear(self) -> Message | None:
        self.scene.rounds()
        try:
            return receive(self.control)
        except BlockingIOError:
            return None

    def say(self, kind: Kind, slot: int = 0, value: int = 0) -> None:
        send(self.control, kind, slot, value)
        self.scene.rounds()

    def hear_hello(self) -> None:
        hello = self.hear()
        assert hello is not None
        assert (hello.kind, hello.value) == (Kind.HELLO, VERSION)
        (memory,) = hello.descriptors
        assert os.fstat(memory).st_size == MEMORY_BYTES
        os.close(memory)

    def hear_list(self) -> list[Message]:
        self.say(Kind.HELLO, 0, VERSION)
        heard = []
        while (message := self.hear()) is not None:
            heard.append(message)
        return heard


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hybridrelay.relay.worker.loop._close_inherited_output", lambda: None)
    clock = Clock()
    monkeypatch.setattr(
        "hybridrelay.relay.worker.orphaned.OrphanedWorker.__init__.__kwdefaults__",
        {"clock": clock, "path": SOCKET_NAME},
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(SOCKET_NAME)
        listener.listen()
        listener.setblocking(False)
        main = Main(keep=60.0)
        yield Scene(main, clock, listener)
        main.close()


@contextmanager
def pair(scene: Scene, slot: int = 7, holder: int = 3) -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = scene.main.add(slot, holder)
    with closing(a, b):
        yield a, b


def talk(scene: Scene, a: socket.socket, b: socket.socket, data: bytes = b"ping") -> None:
    for source, sink in ((a, b), (b, a)):
        source.sendall(data)
        got = b""
        for _ in range(100):
            scene.main.worker.run_round(0.01)
            got += read_some(sink) or b""
            if len(got) >= len(data):
                break
        assert got == data


def test_pairs_go_on_and_the_next_main_process_gets_them_with_their_counts(scene: Scene) -> None:
    with pair(scene) as (a, b):
        talk(scene, a, b, b"x" * 10)
        scene.lose_main()
        talk(scene, a, b, b"y" * 5)
        assert scene.main.counts(7) == (15, 15)
        assert scene.main.counts(7 + SETTLED // 2) == (10, 10)  # when the main process ended

        successor = scene.accept()
        successor.hear_hello()
        assert successor.hear_list() == [Message(Kind.HAS, 7, 3), Message(Kind.READY, 0)]
        talk(scene, a, b)
        successor.say(Kind.TAKEN, value=60_000)
        talk(scene, a, b)
        assert scene.main.counts(7) == (23, 23)

        # It is as if that main process had started the worker.
        successor.say(Kind.PING)
        assert successor.hear() == Message(Kind.PONG, 0)
        successor.say(Kind.ABORT, 7)
        assert successor.hear() == Message(Kind.ENDED, 7, Ended.ABORTED)
        assert ends_by_reset(a)
        assert ends_by_reset(b)
        successor.control.close()
        scene.rounds()
        assert scene.is_over


def test_a_worker_without_pairs_ends_at_once(scene: Scene) -> None:
    scene.lose_main()
    assert scene.is_over


def test_a_worker_that_a_signal_has_asked_to_leave_ends_with_the_main_process(scene: Scene) -> None:
    with pair(scene) as (a, b):
        scene.main.worker.end_with_main_process()
        talk(scene, a, b)
        scene.main.control.shutdown(socket.SHUT_WR)
        scene.rounds()
        assert scene.is_over
        assert scene.main.told() == Message(Kind.ENDED, 7, Ended.ABORTED)
        assert ends_by_reset(a)
        assert ends_by_reset(b)


def test_a_worker_that_is_alone_ends_at_a_signal(scene: Scene) -> None:
    with pair(scene):
        scene.lose_main()
        assert not scene.is_over
        scene.main.worker.end_with_main_process()
        scene.rounds()
        assert scene.is_over


def test_pairs_are_reset_if_no_main_process_takes_over_in_time(scene: Scene) -> None:
    with pair(scene) as (a, b):
        scene.lose_main()
        scene.rounds(59.9)
        talk(scene, a, b)
        scene.rounds(0.2)
        assert scene.is_over
        scene.main.worker.close()
        assert ends_by_reset(a)
        assert ends_by_reset(b)


def test_a_takeover_that_fails_does_not_extend_the_time(scene: Scene) -> None:
    with pair(scene) as (a, b):
        scene.lose_main()
        for _ in range(3):
            successor, _ = scene.accept_with_list()
            scene.rounds(15.0)
            successor.control.close()
            talk(scene, a, b)
        assert not scene.is_over
        scene.rounds(15.0)
        assert scene.is_over


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_main_process_that_ends_while_it_takes_over_is_followed_by_another(scene: Scene, steps: int) -> None:
    with pair(scene) as (a, b):
        scene.lose_main()
        first = scene.accept()
        if steps >= 1:
            first.hear_hello()
        if steps >= 2:
            first.hear_list()
        first.control.close()
        second, listed = scene.accept_with_list()
        assert listed == [Message(Kind.HAS, 7, 3), Message(Kind.READY, 0)]
        second.say(Kind.TAKEN, value=60_000)
        talk(scene, a, b)
        second.control.close()


def test_a_second_main_process_that_ends_is_followed_by_a_third(scene: Scene) -> None:
    with pair(scene) as (a, b):
        scene.lose_main()
        for _ in range(3):
            successor, _ = scene.accept_with_list()
            talk(scene, a, b)
            successor.say(Kind.TAKEN, value=60_000)
            scene.rounds(40.0)
            successor.control.close()
            scene.rounds()
        assert not scene.is_over
        assert scene.main.counts(7 + SETTLED // 2) == (12, 12)


@pytest.mark.parametrize("keep", [0, 5_000, 120_000])
def test_how_long_pairs_are_kept_is_decided_by_the_main_process_that_has_ended_last(scene: Scene, keep: int) -> None:
    with pair(scene) as (a, b):
        scene.lose_main()
        successor, _ = scene.accept_with_list()
        successor.say(Kind.TAKEN, value=keep)
        talk(scene, a, b)
        successor.control.close()
        scene.rounds()
        if keep:
            scene.rounds(keep / 1000 - 0.1)
            assert not scene.is_over
            talk(scene, a, b)
            scene.rounds(0.1)
        assert scene.is_over


def test_a_main_process_that_has_answered_may_need_longer_than_pairs_are_kept_without_one(scene: Scene) -> None:
    with pair(scene) as (a, b):
        scene.lose_main()
        scene.rounds(50.0)
        successor, _ = scene.accept_with_list()
        scene.rounds(orphaned._TAKING_SECONDS - 0.1)
        assert not scene.is_over
        talk(scene, a, b)
        successor.say(Kind.TAKEN, value=60_000)
        scene.rounds(orphaned._TAKING_SECONDS)
        assert not scene.is_over
        successor.control.close()


def test_a_main_process_that_has_answered_and_ended_gains_no_time(scene: Scene) -> None:
    with pair(scene):
        scene.lose_main()
        scene.rounds(50.0)
        successor, _ = scene.accept_with_list()
        scene.rounds(10.0)
        assert not scene.is_over
        successor.control.close()
        scene.rounds()
        assert scene.is_over


def test_a_main_process_that_has_answered_does_not_have_forever(scene: Scene) -> None:
    with pair(scene):
        scene.lose_main()
        successor, _ = scene.accept_with_list()
        scene.rounds(orphaned._TAKING_SECONDS + 0.1)
        assert scene.is_over
        successor.control.close()


def test_the_next_main_process_learns_how_pairs_have_ended_meanwhile(scene: Scene) -> None:
    with pair(scene, 1), pair(scene, 2) as (a, _), pair(scene, 4) as (c, d):
        scene.lose_main()
        reset(a)
        for sock in (c, d):
            sock.shutdown(socket.SHUT_WR)
        scene.main.until(lambda: len(scene.main.worker._pairs) == 1)
        successor = scene.accept()
        successor.hear_hello()
        listed = successor.hear_list()
        assert [one.slot for one in listed] == [1, 2, 4, 0]
        successor.say(Kind.TAKEN, value=60_000)
        ends = {message.slot: message.value for _ in range(2) if (message := successor.hear()) is not None}
        assert ends == {2: Ended.A_BROKE, 4: Ended.FINISHED}
        successor.control.close()


def test_a_worker_whose_pairs_have_all_ended_waits_only_a_moment_to_report_it(scene: Scene) -> None:
    with pair(scene) as (a, _):
        scene.lose_main()
        reset(a)
        scene.main.until(lambda: not scene.main.worker._pairs)
        assert not scene.is_over
        scene.rounds(orphaned._REPORT_SECONDS)
        assert scene.is_over


@pytest.mark.parametrize("other", [(Kind.HELLO, VERSION + 1), (Kind.END, 0)])
def test_a_main_process_that_does_not_take_it_over_ends_the_worker(scene: Scene, other: tuple[Kind, int]) -> None:
    kind, value = other
    with pair(scene) as (a, b):
        scene.lose_main()
        successor = scene.accept()
        successor.say(kind, 0, value)
        assert scene.is_over
        scene.main.worker.close()
        assert ends_by_reset(a)
        assert ends_by_reset(b)
        successor.control.close()


@pytest.mark.parametrize("data", [b"x", struct.pack("=BIQ", Kind.PING, 0, 0), struct.pack("=BIQ", 99, 0, 0)])
def test_the_worker_disconnects_from_another_program_at_the_socket(scene: Scene, data: bytes) -> None:
    with pair(scene) as (a, b):
        scene.lose_main()
        other = scene.accept()
        other.control.send(data)
        scene.rounds()
        other.control.close()
        talk(scene, a, b)
        successor = scene.accept()
        successor.hear_hello()
        assert len(successor.hear_list()) == 2
        successor.control.close()


def test_nobody_listens_for_a_while(scene: Scene) -> None:
    with pair(scene) as (a, b):
        os.rename(SOCKET_NAME, "elsewhere")
        scene.lose_main()
        for _ in range(20):
            scene.rounds(0.5)
            talk(scene, a, b)
        os.rename("elsewhere", SOCKET_NAME)
        successor = scene.accept()
        successor.hear_hello()
        successor.control.close()


def test_a_worker_that_keeps_its_pairs_says_so_last(scene: Scene) -> None:
    with pair(scene, 1), pair(scene, 2) as (a, _):
        reset(a)
        scene.main.control.shutdown(socket.SHUT_WR)
        scene.main.until(lambda: scene.main.worker._orphaned is not None)
        told = []
        while (message := scene.main.told()) is not None:
            told.append((message.kind, message.slot))
        # In either order, the end of the second pair is reported once: now, or to the next main process.
        assert told in ([(Kind.ENDED, 2), (Kind.KEPT, 0)], [(Kind.KEPT, 0)])


def test_a_pair_that_was_to_be_returned_is_kept(scene: Scene) -> None:
    with pair(scene) as (a, b):
        # The receiver does not read, so that something is left, and the sockets cannot be returned.
        a.setblocking(False)
        sent = 0
        for _ in range(200):
            with suppress(BlockingIOError):
                sent += a.send(bytes(1 << 16))
            scene.main.worker.run_round(0)
        send(scene.main.control, Kind.RETURN, 7)
        scene.rounds()
        scene.lose_main()
        received = 0
        for _ in range(5000):
            scene.main.worker.run_round(0.001)
            received += len(read_some(b) or b"")
            if received == sent:
                break
        assert received == sent
        talk(scene, a, b)


def test_many_pairs_are_listed_although_they_do_not_fit_into_the_socket_at_once(scene: Scene) -> None:
    ours, theirs = tcp_pair()
    with closing(ours, theirs):
        holders = dict.fromkeys(range(3000), 5)
        scene.main.control.close()
        worker: Worker = scene.main.worker
        worker._orphaned = orphaned.OrphanedWorker(
            holders, scene.main._memory, worker._epoll, 60.0, clock=scene.clock
        )
        successor = scene.accept()
        successor.hear_hello()
        listed = successor.hear_list()
        assert [one.slot for one in listed] == [*range(3000), 0]
        successor.control.close()
