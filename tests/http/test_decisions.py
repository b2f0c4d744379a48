"""What becomes of a connection after a response; responses, failures and limits as values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypedDict

import attrs
import h11
import pytest

from hybridrelay.http import (
    Failure,
    Limits,
    Response,
    Send,
    StreamedResponse,
    SwitchProtocols,
    plain_text,
    problem_json,
)
from hybridrelay.http.encoding import ResponseEncoder, encode_switch
from hybridrelay.http.head import Head, HeadReader
from hybridrelay.http.persistence import BodyState, Next, announce, conclude

LIMITS = Limits(drain_bytes=100, max_requests=3)
COMPLETE = BodyState(is_complete=True)


def make_head(data: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> Head:
    reader = HeadReader(LIMITS)
    assert reader.receive_untrusted(data)
    return reader.take()[0]


class Situation(TypedDict, total=False):
    """What decides, apart from the body, whether the connection is used again."""

    keep_alive: bool
    wants_close: bool
    is_stopping: bool
    served: int


@pytest.mark.parametrize(
    ("body", "changes", "expected"),
    [
        (COMPLETE, {}, Next.KEEP),
        (COMPLETE, {"wants_close": True}, Next.CLOSE),
        (COMPLETE, {"is_stopping": True}, Next.CLOSE),
        (COMPLETE, {"served": 2}, Next.KEEP),
        (COMPLETE, {"served": 3}, Next.CLOSE),
        (COMPLETE, {"keep_alive": False}, Next.CLOSE),
        (BodyState(False, 100), {}, Next.DRAIN),
        (BodyState(False, 101), {}, Next.CLOSE),
        (BodyState(False, None), {}, Next.DRAIN),
        (BodyState(False, 1, is_waited_for=True), {}, Next.CLOSE),
    ],
)
def test_what_the_head_of_an_answer_announces_about_the_connection(
    body: BodyState, changes: Situation, expected: Next
) -> None:
    head = attrs.evolve(make_head(), keep_alive=changes.get("keep_alive", True))

    found = announce(
        head,
        body,
        LIMITS,
        wants_close=changes.get("wants_close", False),
        is_stopping=changes.get("is_stopping", False),
        served=changes.get("served", 1),
    )
    assert found is expected


@pytest.mark.parametrize(
    ("announced", "body", "expected"),
    [
        (Next.CLOSE, COMPLETE, Next.CLOSE),
        (Next.KEEP, COMPLETE, Next.KEEP),
        (Next.DRAIN, COMPLETE, Next.KEEP),
        (Next.DRAIN, BodyState(False, 1), Next.DRAIN),
    ],
)
def test_what_happens_to_the_connection_after_an_answer(announced: Next, body: BodyState, expected: Next) -> None:
    assert conclude(announced, body, is_stopping=False) is expected
    assert conclude(announced, body, is_stopping=True) is Next.CLOSE


async def write(send: Send) -> None: ...


@pytest.mark.parametrize(
    "make",
    [
        lambda: Response(100),
        lambda: Response(600),
        lambda: Response(204, b"x"),
        lambda: Response(304, b"x"),
        lambda: Response(200, headers=(("content-length", "5"),)),
        lambda: Response(200, headers=(("Transfer-Encoding", "chunked"),)),
        lambda: Response(200, headers=(("Connection", "close"),)),
        lambda: StreamedResponse(101, write),
        lambda: StreamedResponse(200, write, (("Date", "today"),)),
        lambda: SwitchProtocols((("Connection", "Upgrade"),)),
        lambda: Failure(200, "fine"),
        lambda: Failure(600, "odd"),
        lambda: Limits(max_head_bytes=1000),
        lambda: Limits(read_bytes=0),
        lambda: Limits(write_seconds=0),
    ],
)
def test_values_that_cannot_be(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


def test_failures_as_text_and_as_problems() -> None:
    failure = Failure(409, 'the "name" is taken', (("Retry-After", "1"),), {"type": "urn:exists", "remedy": "try"})

    text = plain_text(failure)
    assert (text.status, text.body) == (409, b'the "name" is taken\n')
    assert ("Retry-After", "1") in text.headers
    problem = problem_json(failure)
    assert ("Content-Type", "application/problem+json") in problem.headers
    assert ("Retry-After", "1") in problem.headers
    assert json.loads(problem.body) == {
        "title": "Conflict",
        "status": 409,
        "detail": 'the "name" is taken',
        "type": "urn:exists",
        "remedy": "try",
    }
    assert json.loads(problem_json(Failure(499, "odd")).body)["title"] == "Error"


def encode(head: bytes, status: int, *, length: int | None, body: bytes = b"", close: bool = False) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    connection.next_event()
    encoder = ResponseEncoder(connection)
    data = encoder.encode_head(status, (("X", "y"),), length=length, close=close)
    return data + (encoder.encode_data(body) if body else b"") + encoder.encode_end()


GET, HEAD, OLD = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
)


@pytest.mark.parametrize(
    ("head", "status", "length", "body", "fields", "sent"),
    [
        (GET, 200, 2, b"ab", b"Content-Length: 2\r\n", b"ab"),
        (GET, 200, 0, b"", b"Content-Length: 0\r\n", b""),
        (GET, 200, None, b"ab", b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n0\r\n\r\n"),
        (GET, 204, 0, b"", b"", b""),
        (GET, 204, None, b"", b"", b""),
        (GET, 304, 0, b"", b"", b""),
        (HEAD, 200, 2, b"", b"Content-Length: 2\r\n", b""),
        (HEAD, 200, None, b"", b"Transfer-Encoding: chunked\r\n", b""),
        (OLD, 200, 2, b"ab", b"Content-Length: 2\r\nConnection: close\r\n", b"ab"),
        (OLD, 200, None, b"ab", b"Connection: close\r\n", b"ab"),
    ],
)
def test_a_response_is_framed_as_its_status_and_method_demand(
    head: bytes, status: int, length: int | None, body: bytes, fields: bytes, sent: bytes
) -> None:
    phrase = {200: b"OK", 204: b"No Content", 304: b"Not Modified"}[status]
    expected = b"HTTP/1.1 %d %s\r\nX: y\r\n%s\r\n%s" % (status, phrase, fields, sent)

    assert encode(head, status, length=length, body=body) == expected


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\x00", "é"])
def test_header_fields_cannot_be_injected(value: str) -> None:
    encoder = ResponseEncoder(h11.Connection(h11.SERVER))
    with pytest.raises(h11.LocalProtocolError):
        encoder.encode_head(200, (("X", value),), length=0, close=False)
    with pytest.raises(ValueError, match=r"."):
        encode_switch((("Upgrade", value),))
    with pytest.raises(ValueError, match=r"."):
        encode_switch(((value, "x"),))
