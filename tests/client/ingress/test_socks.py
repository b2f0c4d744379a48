"""SOCKS5 for applications: transcripts, one byte at a time, and bytes that no application sends."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.ingress.handshake import CheckUser, FrontRefusal, cause_of
from hybridrelay.client.ingress.socks import TRANSITIONS, SocksHandshake, SocksInput, SocksState
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort

NAME = HostPort("sql01.corp.example", 1433)
NO_USER = b"\x05\x01\x00"
BOTH = b"\x05\x02\x00\x02"
USER_ONLY = b"\x05\x01\x02"
USER = b"\x01\x03ann\x06secret"


def connect(host: str = NAME.host, port: int = NAME.port, *, command: int = 1) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        kind, data = 3, bytes([len(host)]) + host.encode("latin-1")
    else:
        kind, data = (1 if address.version == 4 else 4), address.packed
    return bytes([5, command, 0, kind]) + data + port.to_bytes(2, "big")


def reply(code: int) -> bytes:
    return bytes([5, code, 0, 1]) + bytes(6)


def check(name: bytes, password: bytes) -> bool:
    return (name, password) == (b"ann", b"secret")


@attrs.define
class Outcome:
    replies: bytes = b""
    consumed: int = 0
    wanted: HostPort | None = None
    refusal: str = ""


def run(pieces: Sequence[bytes], check_user: CheckUser | None = None) -> Outcome:
    """Deliver some pieces. What is not consumed of a piece comes before the next one, as in a socket."""
    handshake, outcome, left = SocksHandshake(check_user), Outcome(), b""
    for piece in pieces:
        left += piece
        try:
            step = handshake.receive_untrusted(left)
        except FrontRefusal as exc:
            outcome.replies += exc.reply
            outcome.refusal = str(exc)
            return outcome
        assert 0 <= step.consumed <= len(left)
        left = left[step.consumed :]
        outcome.replies += step.reply
        outcome.consumed += step.consumed
        if step.wanted is not None:
            outcome.wanted = step.wanted
            return outcome
        assert not left, "what belongs to the handshake is consumed at once"
    return outcome


def in_bytes(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


@pytest.mark.parametrize(
    ("sent", "check_user", "replies", "wanted"),
    [
        (NO_USER + connect(), None, b"\x05\x00", NAME),
        (BOTH + connect(), None, b"\x05\x00", NAME),
        (USER_ONLY + USER + connect(), None, b"\x05\x02\x01\x00", NAME),
        (BOTH + USER + connect(), check, b"\x05\x02\x01\x00", NAME),
        (USER_ONLY + USER + connect(), check, b"\x05\x02\x01\x00", NAME),
        (NO_USER + connect("SQL01.Corp.Example."), None, b"\x05\x00", NAME),
        (NO_USER + connect("10.20.30.40", 80), None, b"\x05\x00", HostPort("10.20.30.40", 80)),
        (NO_USER + connect("fd00::5", 80), None, b"\x05\x00", HostPort("fd00::5", 80)),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\x16\x03\x01 for the target"])
def test_a_request_is_understood_however_it_arrives(
    sent: bytes, check_user: CheckUser | None, replies: bytes, wanted: HostPort, rest: bytes
) -> None:
    whole = run([sent + rest], check_user)
    assert whole == Outcome(replies, len(sent), wanted)
    assert run(in_bytes(sent + rest), check_user) == whole


@pytest.mark.parametrize(
    ("sent", "check_user", "replies", "says"),
    [
        (NO_USER, check, b"\x05\xff", "no authentication method"),
        (b"\x05\x00", None, b"\x05\xff", "no authentication method"),
        (b"\x05\x02\x01\x80", None, b"\x05\xff", "no authentication method"),
        (BOTH + b"\x01\x03ann\x05wrong", check, b"\x05\x02\x01\x01", "password"),
        (BOTH + b"\x01\x00\x00", check, b"\x05\x02\x01\x01", "password"),
        (BOTH + b"\x05", check, b"\x05\x02\x01\x01", "malformed"),
        (NO_USER + connect(command=2), None, b"\x05\x00" + reply(7), "not for a TCP connection"),
        (NO_USER + connect(command=3), None, b"\x05\x00" + reply(7), "not for a TCP connection"),
        (NO_USER + b"\x05\x01\x00\x02\x00", None, b"\x05\x00" + reply(8), "unknown address type"),
        (NO_USER + b"\x04", None, b"\x05\x00" + reply(1), "malformed"),
        (NO_USER + connect(port=0), None, b"\x05\x00" + reply(2), "name a valid host and port"),
        (NO_USER + b"\x05\x01\x00\x03\x00\x00\x50", None, b"\x05\x00" + reply(2), "name a valid host and port"),
        (NO_USER + connect("a b"), None, b"\x05\x00" + reply(2), "name a valid host and port"),
        (NO_USER + connect("\xe9cole"), None, b"\x05\x00" + reply(2), "name a valid host and port"),
        (NO_USER + connect("a\nb"), None, b"\x05\x00" + reply(2), "name a valid host and port"),
        (NO_USER + connect("a" * 255), None, b"\x05\x00" + reply(2), "name a valid host and port"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00", None, b"\x00\x5b" + bytes(6), "uses SOCKS4"),
        (b"GET / HTTP/1.1\r\n", None, b"", "may be using HTTP"),
        (b"\x16\x03\x01", None, b"", "does not use SOCKS5"),
    ],
)
def test_a_refusal_says_why_however_the_request_arrives(
    sent: bytes, check_user: CheckUser | None, replies: bytes, says: str
) -> None:
    for pieces in ([sent], in_bytes(sent)):
        outcome = run(pieces, check_user)
        assert (outcome.replies, outcome.wanted) == (replies, None)
        assert says in outcome.refusal


@pytest.mark.parametrize("sent", [NO_USER + connect(), BOTH + USER + connect()])
def test_nothing_is_decided_before_everything_has_arrived(sent: bytes) -> None:
    check_user = check if sent.startswith(BOTH) else None
    for end in range(len(sent)):
        outcome = run([sent[:end]], check_user)
        assert (outcome.wanted, outcome.refusal, outcome.consumed) == (None, "", end)


@given(st.lists(st.binary(max_size=40)), st.booleans(), st.sampled_from([b"", NO_USER, BOTH, BOTH + USER]))
def test_any_bytes_are_a_step_or_a_refusal(pieces: list[bytes], requires_password: bool, begin: bytes) -> None:
    check_user = check if requires_password else None
    outcome = run([begin, *pieces], check_user)
    assert outcome.wanted is None or 1 <= outcome.wanted.port <= 65535
    assert len(outcome.replies) <= 14
    assert outcome == run(in_bytes(b"".join([begin, *pieces])), check_user) or not outcome.wanted


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.TARGET_REFUSED, 5),
        (Reason.TARGET_UNREACHABLE, 4),
        (Reason.TARGET_NAME_NOT_FOUND, 4),
        (Reason.TARGET_TIMEOUT, 6),
        (Reason.DENIED_BY_POLICY, 2),
        (Reason.IDENTITY_DENIED, 2),
        (Reason.KEY_REVOKED, 2),
        (Reason.NO_LISTENER, 3),
        (Reason.RELAY_UNREACHABLE, 3),
        (Reason.SESSION_LOST, 1),
        (Reason.LIMIT, 1),
    ],
)
def test_replies_say_what_happened(reason: Reason, code: int) -> None:
    handshake = SocksHandshake()
    assert handshake.failed(reason, "text") == reply(code)
    assert handshake.opened() == reply(0)
    assert handshake.not_published() == reply(2)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_cause(reason: Reason) -> None:
    cause = cause_of(reason)
    assert 1 <= cause.socks <= 8
    assert 400 <= cause.status < 600


def test_the_table_has_every_state_and_input() -> None:
    assert {state for state, _ in TRANSITIONS} == set(SocksState) - {SocksState.OVER}
    assert {received for _, received in TRANSITIONS} == set(SocksInput)
