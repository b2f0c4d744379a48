"""What the benchmark of strangers sends is what the relay understands, although it has a wire format of its own."""

from __future__ import annotations

from benchmarks.strangers import mix
from benchmarks.strangers.peers import ACK, HELLO, OPEN, control_hello, frame, preamble
from hybridrelay.abc import Purpose
from hybridrelay.protocol import control, frames
from hybridrelay.protocol.control_codec import ControlDecoder
from hybridrelay.protocol.frames import FrameDecoder
from hybridrelay.protocol.preamble import PREAMBLE_SIZE, decode_preamble_untrusted
from hybridrelay.relay.limits import NESTED_HANDSHAKES, UNAUTHENTICATED_SLOTS


def test_its_preamble_asks_for_a_control_channel() -> None:
    assert len(preamble()) == PREAMBLE_SIZE
    assert decode_preamble_untrusted(preamble()).purpose is Purpose.CONTROL


def test_its_frames_are_those_of_a_session() -> None:
    data = HELLO + OPEN + frame(5, 1, b"x") + ACK
    decoded = list(FrameDecoder().decode_untrusted(data))
    assert [type(one) for one in decoded] == [frames.Hello, frames.Open, frames.Data, frames.Ack]


def test_its_first_message_is_a_hello() -> None:
    (message,) = ControlDecoder().receive_data_untrusted(control_hello())
    assert isinstance(message, control.Hello)


def test_every_mix_has_as_many_connections_as_the_relay_lets_in() -> None:
    for parts in mix.MIXES.values():
        assert sum(count for _, _, count in parts) == mix.CONNECTIONS == UNAUTHENTICATED_SLOTS
    assert mix.NESTED == mix.CONNECTIONS * NESTED_HANDSHAKES
