"""Two sessions over TLS over real sockets, bridges at both ends, and everything that can happen to them at the same
time.

What is drawn at random: sizes, who reads slowly, who ends which direction when, who resets, and when the channel is
cut. What has to hold: an end of file comes after every byte and after nothing else, what was received is the start
of what was sent, a side that was not reset gets all of it, and every bridge ends exactly once.
"""

from __future__ import annotations

import itertools
import random
import socket
from contextlib import suppress
from functools import partial

import attrs
import pytest
import trio

from hybridrelay.errors import HybridRelayError, StreamRefused
from hybridrelay.mux import (
    DATA_CONFIG,
    Bridged,
    BridgeProgress,
    Metadata,
    MetadataEntry,
    MuxStream,
    Session,
    SessionRole,
    bridge,
    receive_hello,
)
from hybridrelay.protocol import Reason
from hybridrelay.streams import TLSStream
from hybridrelay.streams.sockets import abort_stream
from hybridrelay.testing import tcp_pair

from ..stream_pairs import CLIENT, SERVER

PATTERN = random.Random(0).randbytes(3_000_000)
CONNECTIONS = 12
NUMBERS = itertools.count()
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define(eq=False)
class Direction:
    """One direction of one connection, as its two users see it."""

    offset: int
    size: int
    sent: int = 0
    ended: bool = False
    received: int = 0
    #: Whether its receiver has read everything, and the end of file.
    complete: bool = False


@attrs.define(eq=False)
class User:
    """The application, or the target."""

    stream: trio.SocketStream
    #: Whether sending has failed. The kernel reports a reset only once; what is received after that looks like an end
    #: of file.
    was_told: bool = False


@attrs.define(eq=False)
class Link:
    """The channel between the sessions, which is cut from time to time and replaced."""

    nursery: trio.Nursery
    #: Both ends of the current channel.
    channel: tuple[trio.SocketStream, trio.SocketStream] | None = None
    server: Session | None = None
    cuts: int = 0

    async def connect(self) -> TLSStream:
        with trio.CancelScope(shield=True):
            near, far = await tcp_pair()
        self.channel = near, far
        ours, theirs = TLSStream(near, CLIENT), TLSStream(far, SERVER, server_side=True)
        self.nursery.start_soon(self._accept, theirs)
        try:
            await ours.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(ours)
            raise
        return ours

    async def _accept(self, channel: TLSStream) -> None:
        try:
            await channel.do_handshake()
            hello, initial = await receive_hello(channel)
        except BaseException as exc:
            await trio.aclose_forcefully(channel)
            if isinstance(exc, HybridRelayError):
                return  # cut already
            raise
        if self.server is None:
            self.server = Session.create(SessionRole.ACCEPTOR, config=DATA_CONFIG)
            await self.server.run(channel, initial=initial)
        else:
            assert self.server.attach_refusal(hello) is None
            await self.server.replace_channel(channel, initial)

    async def reconnect(self) -> TLSStream:
        while True:
            try:
                return await self.connect()
            except HybridRelayError:
                await trio.lowlevel.checkpoint()  # cut within the handshake

    async def cut(self) -> None:
        if self.channel is not None:
            self.cuts += 1
            # As if something on the path had ended the connection, towards both ends.
            for end in self.channel:
                with suppress(OSError):
                    end.socket.shutdown(socket.SHUT_RDWR)


async def pause(rng: random.Random) -> None:
    for _ in range(rng.choice([0, 0, 1, 3, 30])):
        await trio.lowlevel.checkpoint()


async def say(rng: random.Random, user: User, direction: Direction) -> None:
    try:
        while direction.sent < direction.size:
            size = min(rng.choice([1, 100, 20_000, 300_000]), direction.size - direction.sent)
            at = direction.offset + direction.sent
            piece = PATTERN[at : at + size]
            await user.stream.send_all(piece)
            direction.sent += len(piece)
            await pause(rng)
        direction.ended = True
        await user.stream.send_eof()
    except _BROKEN:
        user.was_told = True


async def hear(rng: random.Random, user: User, direction: Direction) -> None:
    slow = rng.random() < 0.3
    try:
        while data := await user.stream.receive_some(rng.choice([10, 1000, 70_000, 1_000_000])):
            at = direction.offset + direction.received
            assert data == PATTERN[at : at + len(data)], f"other bytes at {direction.received}"
            direction.received += len(data)
            if slow:
                await pause(rng)
        for _ in range(5):
            await trio.lowlevel.checkpoint()  # trio lets others run before it raises what `send_all` met
        if user.was_told:
            return
        assert direction.ended, "an end of file that nobody sent"
        assert direction.received == direction.size, "an end of file before the last byte"
        direction.complete = True
    except _BROKEN:
        pass


async def interrupt(rng: random.Random, user: trio.SocketStream, broken: trio.Event) -> None:
    for _ in range(rng.randrange(200)):
        await trio.lowlevel.checkpoint()
    broken.set()
    await abort_stream(user)


async def connection(rng: random.Random, client: Session, outcomes: list[Bridged]) -> None:
    """One connection of an application to a target, and what both do."""
    local, application = await tcp_pair()
    towards, target = await tcp_pair()
    sizes = [0, 1, 16_384, 150_000, 1_500_000, 1_500_000]
    directions = [Direction(rng.randrange(1_000_000), rng.choice(sizes)) for _ in range(2)]
    broken = trio.Event()
    opened: list[MuxStream] = []
    delivered: list[Bridged] = []

    def reopened() -> MuxStream:
        opened.append(client.open_stream_nowait(metadata=Metadata([MetadataEntry(0x4000, b"%d" % next(NUMBERS))])))
        targets[opened[-1].metadata] = (towards, rng.random() < 0.3 and len(opened) == 1)
        return opened[-1]

    async def reopen(refusal: StreamRefused) -> MuxStream:
        return reopened()

    async def join() -> None:
        progress, settled = BridgeProgress(), trio.Event()
        await bridge(reopened(), local, reopen=reopen, progress=progress)
        progress.when_settled(settled.set)
        if opened[-1].metadata in targets:  # the other session never heard of it, or refused it
            await abort_stream(towards)
        await settled.wait()
        outcomes.append(progress.so_far())
        delivered.append(progress.so_far())

    one, other = User(application), User(target)
    async with trio.open_nursery() as users:
        users.start_soon(join)
        users.start_soon(say, rng, one, directions[0])
        users.start_soon(hear, rng, other, directions[0])
        users.start_soon(say, rng, other, directions[1])
        users.start_soon(hear, rng, one, directions[1])
        if rng.random() < 0.25:
            users.start_soon(interrupt, rng, rng.choice([application, target]), broken)
    for stream in (application, target, local, towards):
        await trio.aclose_forcefully(stream)
    if not broken.is_set():
        assert all(direction.complete for direction in directions), "bytes were lost, or an end of file"
        expected = Bridged(directions[0].size, directions[1].size, Reason.NO_ERROR, sent_all=True, received_all=True)
        assert delivered == [expected], "the outcome says what was delivered"


targets: dict[Metadata, tuple[trio.SocketStream, bool]] = {}


async def serve_targets(server: Session, nursery: trio.Nursery, outcomes: list[Bridged]) -> None:
    async def join(stream: MuxStream, target: trio.SocketStream) -> None:
        progress = BridgeProgress()
        await bridge(stream, target, progress=progress)
        progress.when_settled(lambda: outcomes.append(progress.so_far()))

    async for offer in server.offers:
        target, refuse = targets[offer.metadata]
        if refuse:
            offer.refuse(Reason.GOING_AWAY)
        else:
            del targets[offer.metadata]
            nursery.start_soon(join, offer.accept(), target)


@pytest.mark.parametrize("seed", range(12))
async def test_bytes_arrive_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    ours: list[Bridged] = []
    theirs: list[Bridged] = []
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            link = Link(nursery)
            client = Session.create(SessionRole.INITIATOR, config=DATA_CONFIG)
            await nursery.start(partial(client.run, await link.connect(), reconnect=link.reconnect))
            assert link.server is not None
            nursery.start_soon(serve_targets, link.server, nursery, theirs)

            async def cut_now_and_then() -> None:
                while True:
                    for _ in range(rng.randrange(10, 100)):
                        await trio.lowlevel.checkpoint()
                    await client.wait_attached()
                    await link.cut()

            nursery.start_soon(cut_now_and_then)
            async with trio.open_nursery() as connections:
                for _ in range(CONNECTIONS):
                    connections.start_soon(connection, random.Random(rng.random()), client, ours)
            assert len(ours) == CONNECTIONS, "every bridge has one outcome"
            assert link.cuts > 0
            nursery.cancel_scope.cancel()
