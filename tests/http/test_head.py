"""Heads of requests: what is accepted, what is refused, and that it makes no difference how they arrive."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.http import Limits, RequestError
from hybridrelay.http.head import Head, HeadReader
from hybridrelay.http.target import Authority, Target

LIMITS = Limits(max_target_bytes=200, max_head_bytes=1000, max_fields=10)


def read(data: bytes, *, size: int | None = None, limits: Limits = LIMITS) -> tuple[Head, bytes] | None:
    """Feed `data` in pieces of `size` bytes; the head and what followed it, or None if it is incomplete."""
    reader = HeadReader(limits)
    size = size or max(1, len(data))
    for start in range(0, len(data), size):
        if reader.receive_untrusted(data[start : start + size]):
            head, rest = reader.take()
            return head, rest + data[start + size :]
    return None


def head_of(data: bytes) -> Head:
    result = read(data)
    assert result is not None
    return result[0]


def test_everything_that_a_head_says() -> None:
    result = read(
        b"POST http://Example.com:80/a%2Fb?c HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2, 3\r\n"
        b"Connection: keep-alive, Foo\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\nrest"
    )

    assert result is not None
    head, rest = result
    assert rest == b"rest"
    assert (head.method, head.target.path, head.target.query) == ("POST", "/a%2Fb", "c")
    assert head.authority == Authority("example.com", 80)
    assert (head.is_http11, head.keep_alive, head.expects_continue) == (True, True, True)
    assert head.framing.length == 5
    assert head.headers.all("x-two") == ["1", "2, 3"]
    assert head.headers.tokens("x-two") == ["1", "2", "3"]
    assert head.headers.get("x-two") is None
    assert head.headers.get("host") == "x"
    assert head.headers.get("missing") is None
    assert ("connection", "keep-alive, Foo") in list(head.headers)


def test_values_are_not_shown() -> None:
    head = head_of(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: secret\r\n\r\n")

    assert "secret" not in repr(head)
    assert "authorization" in repr(head)


@pytest.mark.parametrize(
    ("data", "is_http11", "keep_alive", "length"),
    [
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", True, True, 0),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n", True, False, 0),
        (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", True, True, 0),
        (b"GET / HTTP/1.0\r\n\r\n", False, False, 0),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, False, 0),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n", True, True, None),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length:  0007\t\r\n\r\n", True, True, 7),
        (b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", True, True, 0),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX:\r\nY: a\tb\x01\xff\r\n\r\n", True, True, 0),
    ],
)
def test_the_head_decides_about_framing_and_persistence(
    data: bytes, is_http11: bool, keep_alive: bool, length: int | None
) -> None:
    head = head_of(data)

    assert (head.is_http11, head.keep_alive, head.framing.length) == (is_http11, keep_alive, length)


def test_an_expectation_in_http_1_0_is_ignored() -> None:
    assert not head_of(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").expects_continue


def post(*fields: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST / HTTP/" + version, b"Host: x", *fields, b"", b""])


REFUSED = {
    # Two ways to say where the body ends.
    "both lengths": (post(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    "both lengths, the other way round": (post(b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
    "two lengths": (post(b"Content-Length: 5", b"Content-Length: 6"), 400),
    "two lengths that agree": (post(b"Content-Length: 5", b"content-length: 5"), 400),
    "a list of lengths": (post(b"Content-Length: 5, 6"), 400),
    "a list of lengths that agree": (post(b"Content-Length: 5, 5"), 400),
    "no length in the length": (post(b"Content-Length:"), 400),
    "a negative length": (post(b"Content-Length: -5"), 400),
    "a length with a sign": (post(b"Content-Length: +5"), 400),
    "a hexadecimal length": (post(b"Content-Length: 0x5"), 400),
    "a length with an underscore": (post(b"Content-Length: 5_0"), 400),
    "a length with a space": (post(b"Content-Length: 5 0"), 400),
    "an absurd length": (post(b"Content-Length: " + b"9" * 30), 400),
    "two codings": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 501),
    "coding identity": (post(b"Transfer-Encoding: identity"), 501),
    "coding gzip": (post(b"Transfer-Encoding: gzip"), 501),
    "coding gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked"), 501),
    "coding chunked, identity": (post(b"Transfer-Encoding: chunked, identity"), 501),
    "coding with a parameter": (post(b"Transfer-Encoding: chunked;a=b"), 501),
    "coding in quotes": (post(b'Transfer-Encoding: "chunked"'), 501),
    "coding empty": (post(b"Transfer-Encoding:"), 501),
    "coding with a vertical tab": (post(b"Transfer-Encoding: \x0bchunked"), 400),
    "coding in HTTP/1.0": (post(b"Transfer-Encoding: chunked", version=b"1.0"), 400),
    # Lines that others see in another way.
    "continuation line": (post(b"X: a", b" b: c"), 400),
    "continuation line with a tab": (post(b"X: a", b"\tContent-Length: 5"), 400),
    "continuation of the request line": (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "one bare line feed": (post(b"X: a\nContent-Length: 5"), 400),
    "bare line feed at the end": (b"GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
    "bare carriage return": (post(b"X: a\rContent-Length: 5"), 400),
    "two carriage returns": (post(b"X: a\r"), 400),
    "NUL in a value": (post(b"X: a\x00b"), 400),
    "NUL in a name": (post(b"X\x00: a"), 400),
    "space before the colon": (post(b"Content-Length : 5"), 400),
    "tab before the colon": (post(b"Transfer-Encoding\t: chunked"), 400),
    "no colon": (post(b"Content-Length 5"), 400),
    "no name": (post(b": a"), 400),
    "name with a high byte": (post(b"X\xff: a"), 400),
    "name in brackets": (post(b"(x): a"), 400),
    "vertical tab in a value": (post(b"X: a\x0bb"), 400),
    # The request line.
    "no HTTP": (b"hello\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a tab": (b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a high byte in the target": (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a space at the end": (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    "lower case": (b"GET / http/1.1\r\nHost: x\r\n\r\n", 400),
    "version 11.1": (b"GET / HTTP/11.1\r\nHost: x\r\n\r\n", 400),
    "version 2.0": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "version 0.9": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "two blank lines": (b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", 400),
    "SOCKS": (b"\x05\x01\x00", 400),
    "a space first": (b" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    # Hosts.
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (post(b"Host: x"), 400),
    "no host beside an absolute target": (b"GET http://x/ HTTP/1.1\r\n\r\n", 400),
    "a path as host": (b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    "high bytes as host": (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", 400),
    "another user's host": (b"GET http://user@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    # Sizes.
    "a long target": (b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "an endless target": (b"GET /" + b"a" * 300, 414),
    "a long field": (post(b"X: " + b"a" * 1000), 431),
    "endless fields": (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200, 431),
    "many fields": (post(*[b"X: a"] * 11), 431),
    # The rest.
    "an unknown expectation": (post(b"Expect: 200-maybe"), 417),
    "two expectations": (post(b"Expect: 100-continue, x"), 417),
    "a bad path": (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_a_malformed_head_is_refused_however_it_arrives(name: str, size: int | None) -> None:
    data, status = REFUSED[name]
    with pytest.raises(RequestError) as raised:
        read(data, size=size)

    assert raised.value.failure.status == status


def test_what_is_wrong_is_said_before_the_end() -> None:
    for data in (
        b"\x16",
        b"\nG",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nX: a\r\n b",
        b"GET / HTTP/1.1\r\nX: a\x00",
    ):
        with pytest.raises(RequestError):
            HeadReader(LIMITS).receive_untrusted(data)


@pytest.mark.parametrize("size", range(1, 12))
def test_limits_are_exact(size: int) -> None:
    limits = Limits(max_target_bytes=24, max_head_bytes=60, max_fields=2)
    line, rest = b"GET /345678901 HTTP/1.1", b"\r\nHost: x\r\nX: "
    padding = b"a" * (60 - len(line) - len(rest) - 4)

    assert len(line) == 23
    assert read(line + rest + padding + b"\r\n\r\n", size=size, limits=limits) is not None
    with pytest.raises(RequestError) as raised:
        read(line + rest + padding + b"a\r\n\r\n", size=size, limits=limits)
    assert raised.value.failure.status == 431
    with pytest.raises(RequestError) as raised:
        read(b"GET /3456789012x HTTP/1.1" + rest + b"\r\n\r\n", size=size, limits=limits)
    assert raised.value.failure.status == 414


def test_the_response_to_what_cannot_be_parsed() -> None:
    reader = HeadReader(LIMITS)
    with pytest.raises(RequestError):
        reader.receive_untrusted(b"HEAD / HTTP/1.1\n")

    assert reader.is_head_request
    assert reader.connection is reader.connection


VALID = b"POST /a/b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-Y: z\r\nExpect: 100-continue\r\n\r\nabc"


@given(st.lists(st.integers(1, 30), max_size=20))
def test_how_it_is_cut_means_nothing(sizes: list[int]) -> None:
    reader = HeadReader(LIMITS)
    position = 0
    for size in [*sizes, len(VALID)]:
        piece = VALID[position : position + size]
        position += size
        if reader.receive_untrusted(piece):
            break
    head, rest = reader.take()

    assert rest + VALID[position:] == b"abc"
    assert (head.method, head.target.query, head.framing.length) == ("POST", "c=d", 3)


@given(st.data())
def test_mutations_are_parsed_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        end = start + data.draw(st.integers(0, 4))
        mutated[start:end] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"\r\n", b"\n", b": ", b"Content-Length: 9\r\n", b"%"]))
        )
    outcomes: list[tuple[str, Target, bytes] | int | None] = []
    for size in (None, 1):
        try:
            result = read(bytes(mutated), size=size)
            outcomes.append(None if result is None else (result[0].method, result[0].target, result[1]))
        except RequestError as exc:
            outcomes.append(exc.failure.status)

    # What is refused may be refused for another reason when less of it is known.
    assert outcomes[0] == outcomes[1] or all(isinstance(one, int) or one is None for one in outcomes)


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(RequestError):  # and nothing else
        read(data)
