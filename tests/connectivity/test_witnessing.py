"""Checkpoints over a control channel: what a relay may answer, and what is made of it."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.audit.chain import Checkpoint
from hybridrelay.audit.witnessing import Witnessing
from hybridrelay.connectivity import candidates, discover
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.witnessing import send_checkpoints
from hybridrelay.errors import RelayUnreachable
from hybridrelay.mux import CONTROL_CONFIG
from hybridrelay.protocol import RemoteProtocolError, control
from hybridrelay.protocol.control_codec import ControlDecoder, encode_message
from hybridrelay.protocol.reasons import Reason
from hybridrelay.testing import session_pair

from ..waiting import patience

CARRIER = candidates(discover(), "tcp")[0]
HOST = "relay.example.com"
ONE = Checkpoint("0f" * 8, 5, "ab" * 32, "2026-11-30T05:00:00.000Z", "ed25519:" + "A" * 43 + "=", "A" * 86 + "==")


@attrs.define
class Channel:
    """A control channel whose relay answers as the test wants."""

    answer: control.Witnessed | control.Failed | None = None
    has_ended: bool = False
    asked: list[tuple[str, Checkpoint]] = attrs.field(factory=list)

    async def witness(self, connection: str, checkpoint: Checkpoint) -> control.Witnessed | control.Failed:
        await trio.lowlevel.checkpoint()
        self.asked.append((connection, checkpoint))
        if self.answer is None:
            raise RelayUnreachable("no answer", reason=Reason.PEER_SILENT)
        return self.answer


@pytest.mark.parametrize(
    ("answer", "names", "why"),
    [
        (control.Failed(1, Reason.LIMIT, "no room"), ["orders"], "no room"),
        (control.Failed(1, Reason.BUSY), ["orders", "other"], Reason.BUSY.describe),
        (None, ["orders", "other"], "it does not answer; its version may be too old to keep checkpoints"),
        (control.Witnessed(1), [], "no hybrid connection is registered there at the moment"),
    ],
    ids=["refused", "without a text", "no answer", "nothing registered"],
)
async def test_why_a_relay_is_not_a_witness(
    nursery: trio.Nursery, answer: control.Witnessed | control.Failed | None, names: list[str], why: str
) -> None:
    witnessing, channel = Witnessing(), Channel(answer)
    witnessing.signed(ONE)
    nursery.start_soon(partial(send_checkpoints, channel, HOST, lambda: names, witnessing))  # type: ignore[arg-type]
    await trio.testing.wait_all_tasks_blocked()
    (problem,) = witnessing.witnesses.problems([lambda _: True], [HOST], trio.current_time() + 1000)
    assert problem.detail == why
    assert channel.asked == [(name, ONE) for name in names[:1]]
    nursery.cancel_scope.cancel()


async def test_without_room_under_one_name_the_next_ones_are_asked(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    names = ["a", "b", "c", "d", "e"]
    has_room = {"e"}

    class Full(Channel):
        async def witness(self, connection: str, checkpoint: Checkpoint) -> control.Witnessed | control.Failed:
            is_kept = connection in has_room
            self.answer = control.Witnessed(1) if is_kept else control.Failed(1, Reason.LIMIT, "no room")
            return await super().witness(connection, checkpoint)

    witnessing, channel = Witnessing(), Full()
    nursery.start_soon(partial(send_checkpoints, channel, HOST, lambda: names, witnessing))  # type: ignore[arg-type]
    for seq, asked in ((1, ["a", "b", "c", "d", "e"]), (2, ["e"])):
        channel.asked.clear()
        witnessing.signed(attrs.evolve(ONE, seq=seq))
        await trio.sleep(100)
        assert [name for name, _ in channel.asked] == asked
        assert witnessing.witnesses.wanted(HOST, trio.current_time()) is None
    channel.asked.clear()
    has_room.clear()
    names.remove("b")
    witnessing.signed(attrs.evolve(ONE, seq=3))
    await trio.testing.wait_all_tasks_blocked(0.0)
    assert [name for name, _ in channel.asked] == ["e", "a", "c"]  # a few at once, the one with room first
    has_room.add("a")
    await trio.sleep(200)
    assert witnessing.witnesses.wanted(HOST, trio.current_time()) is None
    nursery.cancel_scope.cancel()


async def test_a_channel_that_is_lost_ends_it() -> None:
    witnessing, channel = Witnessing(), Channel(has_ended=True)
    witnessing.signed(ONE)
    with trio.fail_after(patience(10)):
        await send_checkpoints(channel, HOST, lambda: ["orders"], witnessing)  # type: ignore[arg-type]


async def test_confirmations_that_a_relay_makes_up_do_not_count(nursery: trio.Nursery) -> None:
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    witnessing = Witnessing()
    ended = trio.Event()

    async def serve() -> None:
        with pytest.raises(RemoteProtocolError, match="another kind of request"):
            await channel._serve(ControlDecoder(), [])
        ended.set()

    nursery.start_soon(serve)
    nursery.start_soon(send_checkpoints, channel, HOST, lambda: ["orders"], witnessing)
    for number in (0, 1, 2**48):  # before anything was asked
        await theirs.send_all(encode_message(control.Witnessed(number)))
    await trio.testing.wait_all_tasks_blocked()
    witnessing.signed(ONE)
    decoder = ControlDecoder()
    (asked,) = decoder.receive_data_untrusted(await theirs.receive_some())
    assert isinstance(asked, control.Witness)
    await theirs.send_all(encode_message(control.Witnessed(asked.id + 1)))
    await trio.testing.wait_all_tasks_blocked()
    assert witnessing.witnesses.wanted(HOST, trio.current_time()) == ONE
    await theirs.send_all(encode_message(control.Witnessed(asked.id)))
    await trio.testing.wait_all_tasks_blocked()
    assert witnessing.witnesses.wanted(HOST, trio.current_time()) is None

    async def check() -> None:
        with pytest.raises(RelayUnreachable):
            await channel.check("orders", "token")

    nursery.start_soon(check)
    (other,) = decoder.receive_data_untrusted(await theirs.receive_some())
    assert isinstance(other, control.Check)
    await theirs.send_all(encode_message(control.Witnessed(other.id)))
    with trio.fail_after(patience(10)):
        await ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()
