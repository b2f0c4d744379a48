"""The chunked coding: against h11's client, one byte at a time, and attacked."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.http import RequestError
from hybridrelay.http.chunked import ChunkedReader


def decode(data: bytes, *, size: int | None = None) -> tuple[bytes, bool, bytes]:
    """Payload, whether the body is complete, and what is left."""
    reader = ChunkedReader()
    payload = b""
    size = size or max(1, len(data))
    for start in range(0, len(data), size):
        payload += reader.receive_untrusted(data[start : start + size])
        if reader.is_done:
            return payload, True, reader.rest + data[start + size :]
    return payload, reader.is_done, reader.rest


ACCEPTED = {
    "empty": (b"0\r\n\r\n", b""),
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "two chunks": (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc"),
    "upper and lower case": (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    "leading zeros": (b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "an extension": (b"3;name=value\r\nabc\r\n0;x\r\n\r\n", b"abc"),
    "an extension in quotes": (b'3 ; a="b c"\r\nabc\r\n0\r\n\r\n', b"abc"),
    "trailers": (b"3\r\nabc\r\n0\r\nX: y\r\nContent-Length: 99\r\n\r\n", b"abc"),
    "line breaks as data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("size", [None, 1, 2, 3])
def test_a_chunked_body_ends_where_its_last_chunk_ends(name: str, size: int | None) -> None:
    data, payload = ACCEPTED[name]

    assert decode(data + b"next", size=size) == (payload, True, b"next")


REFUSED = {
    "no size": b"\r\nabc\r\n",
    "no hexadecimal": b"g\r\n",
    "a sign": b"+3\r\nabc\r\n",
    "a prefix": b"0x3\r\nabc\r\n",
    "an underscore": b"1_0\r\n",
    "a space first": b" 3\r\nabc\r\n",
    "a space behind": b"3 \r\nabc\r\n",
    "too many digits": b"0" * 16 + b"3\r\nabc\r\n",
    "bare line feed after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare carriage return after the size": b"3\rabc\r\n0\r\n\r\n",
    "bare line feed after the chunk": b"3\r\nabc\n0\r\n\r\n",
    "nothing after the chunk": b"3\r\nabc0\r\n\r\n",
    "something else after the chunk": b"3\r\nabcXX0\r\n\r\n",
    "line feed in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "carriage return in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
    "bare line feed ends the trailers": b"0\r\n\nGET /admin HTTP/1.1\r\n\r\n",
    "bare line feed in the trailers": b"0\r\nX: y\n\nGET /admin HTTP/1.1\r\n\r\n",
    "a trailer without a colon": b"0\r\nGET /admin HTTP/1.1\r\n\r\n",
    "a continued trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "an endless line": b"3;" + b"a" * 300,
    "an endless line of a trailer": b"0\r\nX: " + b"a" * 300,
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 4000,
    "endless extensions": b"1\r\na\r\n" + (b"1;" + b"x" * 250 + b"\r\na\r\n") * 100,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("size", [None, 1])
def test_a_malformed_chunked_body_is_refused_and_the_connection_closed(name: str, size: int | None) -> None:
    with pytest.raises(RequestError) as raised:
        decode(REFUSED[name], size=size)

    assert raised.value.failure.status == 400
    assert raised.value.failure.close


@pytest.mark.parametrize("name", ACCEPTED)
def test_incomplete_bodies_are_not_complete(name: str) -> None:
    data, _ = ACCEPTED[name]
    for end in range(len(data)):
        assert decode(data[:end])[1] is False


def test_chunks_of_one_byte_are_not_an_attack() -> None:
    data = b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"

    assert decode(data, size=4096) == (b"a" * 50_000, True, b"")


def test_huge_sizes_cost_nothing() -> None:
    assert decode(b"ffffffffffffffff\r\nabc") == (b"abc", False, b"")


@given(st.lists(st.binary(max_size=30), max_size=10), st.integers(1, 40))
def test_chunks_that_h11_has_encoded_are_decoded(pieces: list[bytes], size: int) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="PUT", target="/", headers=[("Host", "x"), ("Transfer-Encoding", "chunked")]))
    sent = b"".join(client.send(h11.Data(data=piece)) for piece in pieces)
    sent += client.send(h11.EndOfMessage(headers=[("X", "y")]))

    assert decode(sent + b"GET", size=size) == (b"".join(pieces), True, b"GET")


@given(st.data())
def test_mutations_mean_the_same_however_they_are_cut(data: st.DataObject) -> None:
    mutated = bytearray(b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\nnext")
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(mutated)))
        pieces = st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"\n", b"\r", b";", b"0"]))
        mutated[start : start + data.draw(st.integers(0, 3))] = data.draw(pieces)
    outcomes: list[object] = []
    for size in (None, 1, 3):
        try:
            outcomes.append(decode(bytes(mutated), size=size))
        except RequestError:
            outcomes.append("refused")

    assert outcomes[0] == outcomes[1] == outcomes[2]
