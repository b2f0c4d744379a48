"""When a ClientHello is complete, in whatever pieces it arrives, and what is not a ClientHello."""

from __future__ import annotations

import contextlib
import itertools
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.streams.client_hello import MAX_CLIENT_HELLO, MAX_RECORDS, ClientHelloReader


def real_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="relay").do_handshake()
    return outgoing.read()


def record(payload: bytes, kind: int = 22, version: int = 0x0301) -> bytes:
    return struct.pack(">BHH", kind, version, len(payload)) + payload


def hello(size: int) -> bytes:
    """The handshake message, with its header of four bytes."""
    return b"\x01" + (size - 4).to_bytes(3, "big") + bytes(size - 4)


REAL = real_hello()


@given(st.lists(st.integers(1, len(REAL) - 1), max_size=20))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    reader = ClientHelloReader()
    edges = [0, *sorted(set(cuts)), len(REAL)]
    answers = [reader.receive_untrusted(REAL[begin:end]) for begin, end in itertools.pairwise(edges)]
    assert answers == [False] * (len(answers) - 1) + [True]
    assert reader.take() == REAL
    assert len(reader) == 0


@given(st.lists(st.integers(1, 199), max_size=MAX_RECORDS - 1))
def test_records_do_not_matter(cuts: list[int]) -> None:
    message = hello(200)
    edges = [0, *sorted(set(cuts)), len(message)]
    records = [record(message[begin:end]) for begin, end in itertools.pairwise(edges)]
    reader = ClientHelloReader()
    assert [reader.receive_untrusted(one) for one in records] == [False] * (len(records) - 1) + [True]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\x01\x03\x01",
        record(b"\x02\x28", kind=21),
        record(b"\x02\x00\x00\x10"),
        record(hello(100), version=0x0201),
        struct.pack(">BHH", 22, 0x0301, 0),
        struct.pack(">BHH", 22, 0x0301, 16_385),
    ],
    ids=["HTTP", "SSL 2", "alert", "ServerHello", "version", "empty record", "long record"],
)
def test_what_is_not_a_client_hello_is_left_to_openssl_at_once(data: bytes) -> None:
    assert ClientHelloReader().receive_untrusted(data) is True


def test_what_follows_is_kept_with_it() -> None:
    reader = ClientHelloReader()
    assert reader.receive_untrusted(REAL + b"more")
    assert reader.take() == REAL + b"more"


def test_one_that_is_too_long_or_cut_too_small_is_an_error() -> None:
    reader = ClientHelloReader()
    long = record(hello(60_000)[:16_384])
    with pytest.raises(ValueError, match="longer"):  # noqa: PT012
        for begin in range(0, len(long), 1000):
            assert not reader.receive_untrusted(long[begin : begin + 1000])
    reader = ClientHelloReader()
    with pytest.raises(ValueError, match="records"):
        reader.receive_untrusted(b"".join(record(bytes([byte])) for byte in hello(100)))


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_garbage_raises_nothing_else_and_is_bounded(pieces: list[bytes]) -> None:
    reader = ClientHelloReader()
    with contextlib.suppress(ValueError):
        for piece in pieces:
            if reader.receive_untrusted(piece):
                break
    assert len(reader) <= MAX_CLIENT_HELLO + 200


@pytest.mark.parametrize(
    "said",
    [b"G", b"\x16\x02", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x40\x01"],
    ids=["type", "version", "empty", "long"],
)
def test_what_cannot_be_a_client_hello_is_passed_on_with_the_first_wrong_byte(said: bytes) -> None:
    reader = ClientHelloReader()
    if len(said) > 1:
        assert not reader.receive_untrusted(said[:-1])
    assert reader.receive_untrusted(said[-1:])
