"""Preamble and status, byte for byte."""

from __future__ import annotations

import pytest

from hybridrelay.protocol import Reason, RemoteProtocolError
from hybridrelay.protocol.preamble import (
    PREAMBLE_SIZE,
    STATUS_SIZE,
    Preamble,
    Purpose,
    decode_preamble_untrusted,
    decode_status_untrusted,
    encode_status,
)

TICKET = bytes(range(32))
PREAMBLES = [
    (Preamble(Purpose.PROBE), "4859524c 01 00 0000" + "00" * 32),
    (Preamble(Purpose.CONTROL), "4859524c 01 01 0000" + "00" * 32),
    (Preamble(Purpose.CONTROL, TICKET), "4859524c 01 01 0000" + TICKET.hex()),
    (Preamble(Purpose.CONTROL, by_ca=True), "4859524c 01 01 0001" + "00" * 32),
    (Preamble(Purpose.CONTROL, TICKET, by_ca=True), "4859524c 01 01 0001" + TICKET.hex()),
    (Preamble(Purpose.DATA, TICKET), "4859524c 01 02 0000" + TICKET.hex()),
]
STATUSES = [
    (Reason.NO_ERROR, "48595253 01 00 0000"),
    (Reason.TICKET_UNKNOWN, "48595253 01 00 0044"),
    (Reason.BUSY, "48595253 01 00 0051"),
]


@pytest.mark.parametrize(("preamble", "hex_bytes"), PREAMBLES)
def test_a_preamble_has_these_bytes(preamble: Preamble, hex_bytes: str) -> None:
    data = bytes.fromhex(hex_bytes)
    assert len(data) == PREAMBLE_SIZE
    assert preamble.encode() == data
    assert decode_preamble_untrusted(data) == preamble


@pytest.mark.parametrize(("reason", "hex_bytes"), STATUSES)
def test_a_status_has_these_bytes(reason: Reason, hex_bytes: str) -> None:
    data = bytes.fromhex(hex_bytes)
    assert len(data) == STATUS_SIZE
    assert encode_status(reason) == data
    assert decode_status_untrusted(data) is reason


GOOD = Preamble(Purpose.DATA, TICKET).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.PROTOCOL_ERROR),
        (GOOD[:-1], Reason.PROTOCOL_ERROR),
        (GOOD + b"\0", Reason.PROTOCOL_ERROR),
        (b"GET " + GOOD[4:], Reason.PROTOCOL_ERROR),
        (GOOD[:4] + b"\x02" + GOOD[5:], Reason.VERSION_MISMATCH),
        (GOOD[:5] + b"\x03" + GOOD[6:], Reason.PROTOCOL_ERROR),
    ],
)
def test_what_is_not_a_preamble(data: bytes, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_preamble_untrusted(data)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.PROTOCOL_ERROR),
        (b"HTTP/1.1", Reason.PROTOCOL_ERROR),
        (b"HYRS\x02\0\0\0", Reason.VERSION_MISMATCH),
    ],
)
def test_what_is_not_a_status(data: bytes, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_status_untrusted(data)
    assert caught.value.reason is reason


def test_an_unknown_status_is_an_internal_error() -> None:
    assert decode_status_untrusted(b"HYRS\x01\0\xff\xff") is Reason.INTERNAL_ERROR


@pytest.mark.parametrize(("flags", "by_ca"), [("fffe", False), ("ffff", True), ("8001", True), ("0100", False)])
def test_flags_of_the_future_are_ignored(flags: str, by_ca: bool) -> None:
    data = bytes.fromhex("4859524c 01 01" + flags + "00" * 32)
    assert decode_preamble_untrusted(data) == Preamble(Purpose.CONTROL, by_ca=by_ca)


def test_a_ticket_has_32_bytes_and_does_not_print() -> None:
    with pytest.raises(ValueError):
        Preamble(Purpose.DATA, b"short")
    assert repr(TICKET) not in repr(Preamble(Purpose.DATA, TICKET))
