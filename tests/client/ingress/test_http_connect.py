"""HTTP CONNECT for applications: transcripts, one byte at a time, and bytes that no application sends."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import attrs
import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.ingress.handshake import CheckUser, FrontRefusal
from hybridrelay.client.ingress.http_connect import HttpConnectHandshake
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort

NAME = HostPort("sql01.corp.example", 1433)
PLAIN = b"CONNECT sql01.corp.example:1433 HTTP/1.1\r\nHost: sql01.corp.example:1433\r\n\r\n"


def check(name: bytes, password: bytes) -> bool:
    return (name, password) == (b"ann", b"se:cret")


def with_user(text: str, scheme: str = "Basic") -> bytes:
    encoded = base64.b64encode(text.encode()).decode()
    return PLAIN[:-2] + f"Proxy-Authorization: {scheme} {encoded}\r\n\r\n".encode()


@attrs.define
class Outcome:
    consumed: int = 0
    wanted: HostPort | None = None
    reply: bytes = b""


def run(pieces: Sequence[bytes], check_user: CheckUser | None = None) -> Outcome:
    handshake, outcome, left = HttpConnectHandshake(check_user), Outcome(), b""
    for piece in pieces:
        left += piece
        try:
            step = handshake.receive_untrusted(left)
        except FrontRefusal as exc:
            outcome.reply = exc.reply
            return outcome
        left = left[step.consumed :]
        outcome.consumed += step.consumed
        if step.wanted is not None:
            outcome.wanted = step.wanted
            return outcome
        assert not left
    return outcome


def in_bytes(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def parse(reply: bytes) -> tuple[int, dict[str, str], str]:
    """Parse a whole response, as a strict client does."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="CONNECT", target="a:1", headers=[("Host", "a:1")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(reply)
    connection.receive_data(b"")
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    assert headers["connection"] == "close"
    return response.status_code, headers, body.decode()


@pytest.mark.parametrize(
    ("sent", "check_user", "wanted"),
    [
        (PLAIN, None, NAME),
        (PLAIN.replace(b"1.1\r", b"1.0\r"), None, NAME),
        (b"\r\n" + PLAIN, None, NAME),
        (PLAIN.replace(b"sql01", b"SQL01"), None, NAME),
        (b"CONNECT [FD00:0::5]:80 HTTP/1.1\r\nHost: x\r\n\r\n", None, HostPort("fd00::5", 80)),
        (with_user("ann:se:cret"), check, NAME),
        (with_user("ann:se:cret", "bASIC"), check, NAME),
        (with_user("whoever:x"), None, NAME),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\x16\x03\x01 for the target\r\n\r\n"])
def test_a_request_is_understood_however_it_arrives(
    sent: bytes, check_user: CheckUser | None, wanted: HostPort, rest: bytes
) -> None:
    whole = run([sent + rest], check_user)
    assert whole == Outcome(len(sent), wanted)
    assert run(in_bytes(sent + rest), check_user) == whole


@pytest.mark.parametrize(
    ("sent", "check_user", "status", "says"),
    [
        (PLAIN, check, 407, "requires a user name"),
        (with_user("ann:wrong"), check, 407, "requires a user name"),
        (with_user("ann"), check, 407, "requires a user name"),
        (with_user("ann:se:cret", "Bearer"), check, 407, "requires a user name"),
        (PLAIN[:-2] + b"Proxy-Authorization: Basic %%%\r\n\r\n", check, 407, "requires a user name"),
        (with_user("ann:se:cret")[:-2] + with_user("ann:se:cret")[len(PLAIN) - 2 :], check, 407, "requires a user"),
        (b"GET http://sql01.corp.example/ HTTP/1.1\r\nHost: sql01.corp.example\r\n\r\n", None, 405, "CONNECT only"),
        (b"GET / HTTP/1.1\r\nHost: sql01\r\n\r\n", None, 405, "CONNECT only"),
        (PLAIN.replace(b":1433 ", b" "), None, 400, "HOST:PORT"),
        (PLAIN.replace(b":1433 ", b":0 "), None, 400, "not a valid host and port"),
        (PLAIN.replace(b":1433 ", b":99999 "), None, 400, "port"),
        (PLAIN.replace(b"CONNECT sql01.", b"CONNECT a'b."), None, 400, "not a valid host and port"),
        (PLAIN[:-2] + b"Content-Length: 5\r\n\r\n", None, 400, "must not have content"),
        (PLAIN[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", None, 400, "must not have content"),
        (PLAIN.replace(b"\r\n", b"\n"), None, 400, "ambiguous"),
        (b"CONNECT " + b"a" * 5000, None, 414, "too long"),
        (PLAIN[:-2] + b"X: " + b"a" * 9000, None, 431, "too long"),
        (PLAIN[:-2] + b"X: a\r\n" * 100 + b"\r\n", None, 431, "too long"),
        (b"\x05\x01\x00", None, 400, "not an HTTP request"),
        (b"\x16\x03\x01\x02\x00", None, 400, "not an HTTP request"),
    ],
)
def test_a_refusal_says_why_however_the_request_arrives(
    sent: bytes, check_user: CheckUser | None, status: int, says: str
) -> None:
    for pieces in ([sent], in_bytes(sent)):
        outcome = run(pieces, check_user)
        assert outcome.wanted is None
        found, headers, body = parse(outcome.reply)
        assert found == status
        assert says in body
        assert ("proxy-authenticate" in headers) == (status == 407)
        assert headers.get("allow") == ("CONNECT" if status == 405 else None)


@pytest.mark.parametrize(
    ("reason", "status", "error"),
    [
        (Reason.TARGET_REFUSED, 502, "connection_refused"),
        (Reason.TARGET_UNREACHABLE, 502, "destination_ip_unroutable"),
        (Reason.TARGET_TIMEOUT, 504, "connection_timeout"),
        (Reason.DENIED_BY_POLICY, 403, "http_request_denied"),
        (Reason.NO_LISTENER, 503, "destination_unavailable"),
    ],
)
def test_replies_say_what_happened(reason: Reason, status: int, error: str) -> None:
    handshake = HttpConnectHandshake()
    found, headers, body = parse(handshake.failed(reason, "the t\u00e4rget says\r\nno"))
    assert found == status
    assert headers["proxy-status"] == f'hybridrelay; error={error}; details="{reason.slug}"'
    assert body == "the t\\xe4rget says\r\nno\n"
    found, _, body = parse(handshake.not_published())
    assert found == 403
    assert "local name" in body
    assert handshake.opened().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_makes_a_valid_response(reason: Reason) -> None:
    assert parse(HttpConnectHandshake().failed(reason, reason.describe))[2] == f"{reason.describe}\n"


@given(
    st.lists(st.binary(max_size=60)), st.booleans(), st.sampled_from([b"", b"CONNECT a:1 HTTP/1.1\r\n", PLAIN[:-2]])
)
def test_any_bytes_are_a_step_or_a_refusal(pieces: list[bytes], requires_password: bool, begin: bytes) -> None:
    outcome = run([begin, *pieces], check if requires_password else None)
    if outcome.reply:
        assert parse(outcome.reply)[0] >= 400
