"""Control messages: encoding and decoding agree, pieces may have any size, and bad messages raise one exception."""

from __future__ import annotations

import itertools
import json
import math
import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import control
from hybridrelay.protocol.config import DIALED_CONTROL_CONFIG
from hybridrelay.protocol.control import (
    MAX_AVOID,
    MAX_DETAIL,
    MAX_LIFETIME_SECONDS,
    MAX_REPLACES,
    MAX_RETRY_AFTER_SECONDS,
    Accept,
    Draining,
    Ended,
    Failed,
    Hello,
    Join,
    Joined,
    Message,
    Offer,
    PeerRole,
    Proved,
    Register,
    Registered,
    Take,
    Taken,
    Unknown,
    Unregister,
    Welcome,
    instance_of,
)
from hybridrelay.protocol.control_codec import MAX_MESSAGE_SIZE, ControlDecoder, encode_message
from hybridrelay.protocol.control_fields import MAX_INTEGER
from hybridrelay.protocol.errors import LocalProtocolError, RemoteProtocolError
from hybridrelay.protocol.limits import MAX_CONNECTION_NAME, MAX_TOKEN
from hybridrelay.protocol.reasons import Reason
from hybridrelay.streams.nowait import HELD_FOR_STRANGER

ONE = "0123456789abcdef" * 2
TWO = "f" * 32
SECRET = "0123456789abcdef" * 4
TICKET = bytes(range(32))
TICKET_HEX = TICKET.hex()


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def framed(**fields: object) -> bytes:
    return frame(json.dumps(fields).encode())


TABLE: list[tuple[Message, dict[str, object]]] = [
    (
        Hello("connector", ONE, 3, "hybridrelay 0.1.0", SECRET),
        {
            "type": "hello",
            "role": "connector",
            "instance": ONE,
            "generation": 3,
            "software": "hybridrelay 0.1.0",
            "secret": SECRET,
        },
    ),
    (
        Hello(PeerRole.CLIENT, TWO, 0, ""),
        {"type": "hello", "role": "client", "instance": TWO, "generation": 0, "software": "", "secret": None},
    ),
    (Welcome(ONE, "x"), {"type": "welcome", "relay_instance": ONE, "software": "x", "outer_pins": []}),
    (
        Welcome(ONE, "x", ("sha256:a", "sha256:b")),
        {"type": "welcome", "relay_instance": ONE, "software": "x", "outer_pins": ["sha256:a", "sha256:b"]},
    ),
    (
        Register(1, "sql", "SharedAccessSignature sr=a"),
        {"type": "register", "id": 1, "connection": "sql", "token": "SharedAccessSignature sr=a", "replaces": []},
    ),
    (
        Register(2, "Größe/1", "t", (SECRET, "f" * 64)),
        {"type": "register", "id": 2, "connection": "Größe/1", "token": "t", "replaces": [SECRET, "f" * 64]},
    ),
    (Registered(1, 1_900_000_000), {"type": "registered", "id": 1, "expires_at": 1_900_000_000}),
    (Unregister(3, "sql"), {"type": "unregister", "id": 3, "connection": "sql"}),
    (
        Join(4, "sql", "t"),
        {"type": "join", "id": 4, "connection": "sql", "token": "t", "listener": None, "avoid": []},
    ),
    (
        Join(5, "sql", "t", TWO, (ONE,)),
        {"type": "join", "id": 5, "connection": "sql", "token": "t", "listener": TWO, "avoid": [ONE]},
    ),
    (
        Joined(5, TICKET, TWO, 30.5),
        {
            "type": "joined",
            "id": 5,
            "ticket": TICKET_HEX,
            "listener": TWO,
            "lifetime_seconds": 30.5,
            "rendezvous": "",
        },
    ),
    (
        Offer(MAX_INTEGER, "sql", TICKET, 30),
        {
            "type": "offer",
            "id": MAX_INTEGER,
            "connection": "sql",
            "ticket": TICKET_HEX,
            "lifetime_seconds": 30,
            "holder": "",
            "rendezvous": "",
            "client_address": "",
        },
    ),
    (
        Offer(7, "sql", TICKET, 30, "0f", "4" * 32, "192.0.2.7"),
        {
            "type": "offer",
            "id": 7,
            "connection": "sql",
            "ticket": TICKET_HEX,
            "lifetime_seconds": 30,
            "holder": "0f",
            "rendezvous": "4" * 32,
            "client_address": "192.0.2.7",
        },
    ),
    (Accept(0), {"type": "accept", "id": 0}),
    (Proved(5), {"type": "proved", "id": 5}),
    (
        Hello(PeerRole.TAKER, TWO, 1, ""),
        {"type": "hello", "role": "taker", "instance": TWO, "generation": 1, "software": "", "secret": None},
    ),
    (
        control.Health("sql", control.TargetHealth.UNHEALTHY),
        {"type": "health", "connection": "sql", "target": "unhealthy"},
    ),
    (
        Take(1, "ab" * 16, "cd" * 32, "ef" * 16),
        {"type": "take", "id": 1, "claim": "ab" * 16, "proof": "cd" * 32, "attempt": "ef" * 16},
    ),
    (
        Taken(1, 0, 2, "00ff"),
        {"type": "taken", "id": 1, "number": 0, "count": 2, "sealed": "00ff"},
    ),
    (
        control.Key("sql", "application", 7, "secret"),
        {"type": "key", "connection": "sql", "rule": "application", "generation": 7, "key": "secret"},
    ),
    (
        control.KeyKept("sql", 7, "memory", "read-only"),
        {"type": "keykept", "connection": "sql", "generation": 7, "state": "memory", "detail": "read-only"},
    ),
    (
        control.Update("sql", 7, "AAAA"),
        {"type": "update", "connection": "sql", "sequence": 7, "document": "AAAA"},
    ),
    (
        control.UpdateKept("sql", 7, "refused", "expired"),
        {"type": "updatekept", "connection": "sql", "sequence": 7, "state": "refused", "detail": "expired"},
    ),
    (control.Check(8, "sql", "t"), {"type": "check", "id": 8, "connection": "sql", "token": "t"}),
    (control.Checked(8), {"type": "checked", "id": 8}),
    (
        control.Witness(9, "sql", "0f" * 8, 258, "ab" * 32, "2026-11-30T05:00:00.000Z", "ed25519:AA==", "AAAA"),
        {
            "type": "witness",
            "id": 9,
            "connection": "sql",
            "log": "0f" * 8,
            "seq": 258,
            "head": "ab" * 32,
            "at": "2026-11-30T05:00:00.000Z",
            "key": "ed25519:AA==",
            "signature": "AAAA",
        },
    ),
    (control.Witnessed(9), {"type": "witnessed", "id": 9}),
    (
        Failed(6, Reason.NO_LISTENER, "ask again"),
        {"type": "failed", "id": 6, "reason": "no-listener", "detail": "ask again"},
    ),
    (Ended("sql", Reason.KEY_REVOKED), {"type": "ended", "connection": "sql", "reason": "key-revoked"}),
    (Draining(2.5), {"type": "draining", "retry_after_seconds": 2.5}),
]
MESSAGES = [message for message, _ in TABLE]
WIRE = b"".join(map(encode_message, MESSAGES))


@pytest.mark.parametrize(("message", "fields"), TABLE)
def test_written_as_the_table_says(message: Message, fields: dict[str, object]) -> None:
    wire = encode_message(message)
    (length,) = struct.unpack(">I", wire[:4])
    assert length == len(wire) - 4
    assert json.loads(wire[4:]) == fields


@pytest.mark.parametrize(("message", "fields"), TABLE)
def test_read_as_the_table_says(message: Message, fields: dict[str, object]) -> None:
    assert ControlDecoder().receive_data_untrusted(framed(**fields)) == [message]


def test_every_class_is_in_the_table() -> None:
    assert {type(message) for message in MESSAGES} == set(Message.__args__)


@given(st.lists(st.integers(1, len(WIRE)), max_size=20))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    decoder = ControlDecoder()
    received = []
    edges = [0, *sorted(cuts), len(WIRE)]
    for start, end in itertools.pairwise(edges):
        received += decoder.receive_data_untrusted(WIRE[start:end])
    assert received == MESSAGES
    decoder.receive_eof_untrusted()


def test_one_byte_at_a_time() -> None:
    decoder = ControlDecoder()
    received = []
    for index in range(len(WIRE)):
        received += decoder.receive_data_untrusted(memoryview(WIRE)[index : index + 1])
    assert received == MESSAGES


@pytest.mark.parametrize("message", MESSAGES)
def test_an_end_within_a_message_is_an_error(message: Message) -> None:
    wire = encode_message(message)
    for end in (1, 4, len(wire) - 1):
        decoder = ControlDecoder()
        assert decoder.receive_data_untrusted(wire[:end]) == []
        with pytest.raises(RemoteProtocolError, match="within a message"):
            decoder.receive_eof_untrusted()


def test_secrets_do_not_print() -> None:
    texts = repr(
        [Register(1, "c", "SECRET"), Join(1, "c", "SECRET"), Joined(1, TICKET, ONE, 1), Offer(1, "c", TICKET, 1)]
    )
    assert "SECRET" not in texts
    assert repr(TICKET) not in texts
    assert TICKET_HEX not in texts


def test_a_newer_peer_is_understood_as_far_as_possible() -> None:
    decoder = ControlDecoder()
    data = framed(type="accept", id=1, colour="green") + framed(type="dance", id=2) + framed(type="accept", id=3)
    assert decoder.receive_data_untrusted(data) == [Accept(1), Unknown("dance"), Accept(3)]
    data = framed(type="health", connection="sql", target="lukewarm")
    assert decoder.receive_data_untrusted(data) == [control.Health("sql", control.TargetHealth.UNKNOWN)]
    data = framed(type="failed", id=1, reason="eaten-by-bear", detail="")
    assert decoder.receive_data_untrusted(data) == [Failed(1, Reason.INTERNAL_ERROR)]


def test_fields_with_a_default_may_be_missing() -> None:
    decoder = ControlDecoder()
    assert decoder.receive_data_untrusted(framed(type="join", id=1, connection="c", token="t")) == [Join(1, "c", "t")]
    data = framed(type="register", id=1, connection="c", token="t")
    assert decoder.receive_data_untrusted(data) == [Register(1, "c", "t")]
    data = framed(type="offer", id=1, connection="c", ticket=TICKET_HEX, lifetime_seconds=30)
    assert decoder.receive_data_untrusted(data) == [Offer(1, "c", TICKET, 30, holder="")]


def test_detail_is_cut_and_cleaned_and_never_refused() -> None:
    assert Failed(1, Reason.LIMIT, "x" * 1000).detail == "x" * MAX_DETAIL
    assert Failed(1, Reason.LIMIT, "a\nb\x1b[2J").detail == "a b [2J"
    data = framed(type="failed", id=1, reason="limit", detail="\ud800\r\n" + "y" * 1000)
    (message,) = ControlDecoder().receive_data_untrusted(data)
    assert message == Failed(1, Reason.LIMIT, "   " + "y" * 1000)


NOT_IDS: list[object] = [-1, MAX_INTEGER + 1, 1.0, True, "1", None, [], {}]
NOT_SECONDS: list[object] = [-1, -0.5, 1e300, True, "1", None, [], {}]
NOT_DURATIONS = [value for value in NOT_SECONDS if value != 1e300]
DURATIONS: list[tuple[str, str, float]] = [
    ("joined", "lifetime_seconds", MAX_LIFETIME_SECONDS),
    ("offer", "lifetime_seconds", MAX_LIFETIME_SECONDS),
    ("draining", "retry_after_seconds", MAX_RETRY_AFTER_SECONDS),
]
NOT_INSTANCES: list[object] = [
    ONE.upper(),
    ONE[:-1],
    ONE + "0",
    ONE[:-1] + "g",
    ONE + "\n",
    "",
    7,
    True,
    [],
    {},
    "\u0660" * 32,
]
NOT_NAMES: list[object] = ["", "x" * 261, "a\nb", "a\x00", "\ud800", 7, None, True, [], {}]
NOT_TOKENS: list[object] = ["", "x" * 4097, "a\r\nb", 7, None, [], {}]
NOT_TICKETS: list[object] = [
    "",
    TICKET_HEX[:-2],
    TICKET_HEX + "00",
    "zz" * 32,
    " " * 64,
    "00" * 31 + "  ",
    7,
    None,
    [],
    {},
]
NOT_TEXTS: list[object] = [7, None, [], {}]
NOT_ROLES: list[object] = ["relay", "", "CLIENT", *NOT_TEXTS]
NOT_LISTS: list[object] = [ONE, None, 7, {}, [7], [None], [[ONE]]]
NOT_SECRETS: list[object] = ["", ONE, SECRET[:-1], SECRET + "0", SECRET.upper(), SECRET[:-1] + "\n", 7, True, [], {}]
NOT_PINS: list[object] = ["a", None, 7, {}, [7], [None], [["a"]], [""], ["a\n"], ["a" * 129], ["a"] * 9]
BAD_FIELDS: list[tuple[str, str, object]] = [
    *[("hello", "role", value) for value in NOT_ROLES],
    *[("health", "connection", value) for value in NOT_NAMES],
    *[("health", "target", value) for value in NOT_TEXTS],
    *[("hello", "instance", value) for value in [*NOT_INSTANCES, None]],
    *[("hello", "generation", value) for value in NOT_IDS],
    *[("hello", "software", value) for value in ["x" * 129, "\n", *NOT_TEXTS]],
    *[("welcome", "relay_instance", value) for value in [*NOT_INSTANCES, None]],
    *[("welcome", "outer_pins", value) for value in NOT_PINS],
    *[("register", "id", value) for value in NOT_IDS],
    *[("register", "connection", value) for value in NOT_NAMES],
    *[("register", "token", value) for value in NOT_TOKENS],
    *[("hello", "secret", value) for value in NOT_SECRETS],
    *[("take", "claim", value) for value in ["ab" * 15, "AB" * 16, "ab" * 17, None, 5]],
    *[("take", "proof", value) for value in ["ab" * 31, "xy" * 32, 5, None]],
    *[("take", "attempt", value) for value in ["ab" * 15, "xy" * 16, 5, None]],
    *[("taken", "sealed", value) for value in ["", "a", "zz", "ab" * 3073, None]],
    *[("taken", "number", value) for value in [*NOT_IDS, 2, 8]],
    *[("taken", "count", value) for value in [*NOT_IDS, 0, 9]],
    *[("key", "generation", value) for value in NOT_IDS],
    *[("key", "connection", value) for value in NOT_NAMES],
    *[("key", "rule", value) for value in ["", "x" * 257, *NOT_TEXTS]],
    *[("key", "key", value) for value in ["", "x" * 257, *NOT_TEXTS]],
    *[("keykept", "state", value) for value in ["", "KEPT", None, 5]],
    *[("check", "token", value) for value in NOT_TOKENS],
    *[("register", "replaces", value) for value in [*NOT_LISTS, [SECRET] * (MAX_REPLACES + 1)]],
    *[("register", "replaces", [value]) for value in NOT_SECRETS],
    *[("registered", "expires_at", value) for value in NOT_SECONDS],
    *[("join", "listener", value) for value in NOT_INSTANCES],
    *[("join", "avoid", value) for value in [*NOT_LISTS, [ONE] * (MAX_AVOID + 1)]],
    *[("joined", "ticket", value) for value in NOT_TICKETS],
    *[("joined", "lifetime_seconds", value) for value in NOT_DURATIONS],
    *[("offer", "ticket", value) for value in NOT_TICKETS],
    *[("offer", "holder", value) for value in ["x" * 65, "a\nb", *NOT_TEXTS]],
    *[("offer", "client_address", value) for value in ["x" * 65, "a\nb", *NOT_TEXTS]],
    *[("offer", "lifetime_seconds", value) for value in NOT_DURATIONS],
    *[
        (name, "id", value)
        for name in ("registered", "unregister", "join", "joined", "offer", "accept", "failed")
        for value in NOT_IDS
    ],
    *[("failed", "reason", value) for value in NOT_TEXTS],
    *[("failed", "detail", value) for value in NOT_TEXTS],
    *[("ended", "connection", value) for value in NOT_NAMES],
    *[("draining", "retry_after_seconds", value) for value in NOT_DURATIONS],
]


@pytest.mark.parametrize(("name", "field", "value"), BAD_FIELDS)
def test_a_bad_field_is_an_error(name: str, field: str, value: object) -> None:
    good = next(fields for _, fields in TABLE if fields["type"] == name)
    with pytest.raises(RemoteProtocolError, match=f"bad .*{name} message"):
        ControlDecoder().receive_data_untrusted(framed(**{**good, field: value}))


@pytest.mark.parametrize(("name", "field", "cap"), DURATIONS)
@pytest.mark.parametrize("value", [10**6, 1e6, 2**53 - 1, 2**53, 1e300, 10**400], ids="abcdef")
def test_a_duration_above_its_cap_is_the_cap(name: str, field: str, cap: float, value: float) -> None:
    good = next(fields for _, fields in TABLE if fields["type"] == name)
    (message,) = ControlDecoder().receive_data_untrusted(framed(**{**good, field: value}))
    assert getattr(message, field) == cap


@given(st.sampled_from(DURATIONS), st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=3))
def test_a_duration_is_between_zero_and_its_cap_or_an_error(duration: tuple[str, str, float], value: object) -> None:
    name, field, cap = duration
    good = next(fields for _, fields in TABLE if fields["type"] == name)
    number = value if type(value) is int or (type(value) is float and math.isfinite(value)) else None
    try:
        (message,) = ControlDecoder().receive_data_untrusted(framed(**{**good, field: value}))
    except RemoteProtocolError:
        assert number is None or number < 0
    else:
        assert number is not None
        assert getattr(message, field) == min(number, cap)


@pytest.mark.parametrize("fields", [fields for _, fields in TABLE])
def test_every_field_without_a_default_is_needed(fields: dict[str, object]) -> None:
    for field in fields.keys() - {
        "type",
        "secret",
        "replaces",
        "listener",
        "avoid",
        "detail",
        "outer_pins",
        "holder",
        "rendezvous",
        "client_address",
        "attempt",
    }:
        rest = {key: value for key, value in fields.items() if key != field}
        with pytest.raises(RemoteProtocolError):
            ControlDecoder().receive_data_untrusted(framed(**rest))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'"type"',
        b"{}",
        b'{"type":7}',
        b'{"type":""}',
        b'{"type":null}',
        b'{"type":"a\\nb"}',
        b'{"type":"' + b"x" * 65 + b'"}',
        b'{"type":"accept","id":NaN}',
        b'{"type":"draining","retry_after_seconds":Infinity}',
        b'{"type":"draining","retry_after_seconds":1e999}',
        b'{"type":"accept","id":' + b"9" * 10_000 + b"}",
        b"[" * MAX_MESSAGE_SIZE,
        b'{"type":' * 2000,
        b'\xff{"type":"accept","id":1}',
        '{"type":"accept","id":1}'.encode("utf-16"),
        b'\xef\xbb\xbf{"type":"accept","id":1}',
        b'{"type":"accept","id":1} x',
    ],
)
def test_what_is_not_a_message_is_an_error(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ControlDecoder().receive_data_untrusted(frame(body))


def test_size_is_judged_by_the_length_alone() -> None:
    with pytest.raises(RemoteProtocolError, match="too large"):
        ControlDecoder().receive_data_untrusted(struct.pack(">I", MAX_MESSAGE_SIZE + 1))
    body = json.dumps({"type": "accept", "id": 1}).encode().ljust(MAX_MESSAGE_SIZE)
    assert ControlDecoder().receive_data_untrusted(frame(body)) == [Accept(1)]


def test_after_an_error_nothing_more_is_read() -> None:
    decoder = ControlDecoder()
    for data in (frame(b"x"), b"", encode_message(Accept(1))):
        with pytest.raises(RemoteProtocolError, match="not JSON"):
            decoder.receive_data_untrusted(data)


def test_our_own_mistakes_are_ours() -> None:
    with pytest.raises(LocalProtocolError):
        encode_message(Unknown("dance"))  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="too large"):
        encode_message(Register(1, "c", "\N{OLD PERSIAN SIGN A}" * 4096, (SECRET,) * MAX_REPLACES))
    for make in (
        lambda: Accept(-1),
        lambda: Accept(True),
        lambda: Offer(1, "c", b"short", 1),
        lambda: Offer(1, "c", TICKET, 1, rendezvous="4" * 31),
        lambda: Joined(1, TICKET, ONE, 1, "4" * 31 + "\n"),
        lambda: Offer(1, "c", TICKET_HEX, 1),  # type: ignore[arg-type]
        lambda: Register(1, "c", "t", [ONE]),  # type: ignore[arg-type]
        lambda: Failed(1, "limit"),  # type: ignore[arg-type]
        lambda: Hello("relay", ONE, 0, ""),
    ):
        with pytest.raises((TypeError, ValueError)):
            make()


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Accept(1).id = 2  # type: ignore[misc]


# --- fuzz: the one exception, whatever arrives

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([ONE, TICKET_HEX, "limit"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=10,
)


def feed(data: bytes, size: int) -> list[Message | Unknown | str]:
    """The messages of `data`, which comes in pieces of `size` bytes, and the error at which it ends, if any."""
    decoder = ControlDecoder()
    received: list[Message | Unknown | str] = []
    try:
        for start in range(0, len(data), size):
            received += decoder.receive_data_untrusted(data[start : start + size])
    except RemoteProtocolError as error:
        received.append(str(error))
    return received


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_decoded_or_refused(data: bytes, size: int) -> None:
    feed(data, size)
    feed(frame(data), size)


@given(st.sampled_from([fields for _, fields in TABLE]), st.data())
def test_a_message_with_any_value_is_refused_or_reads_back_equal(
    fields: dict[str, object], data: st.DataObject
) -> None:
    changed = {**fields, data.draw(st.sampled_from(sorted(fields))): data.draw(JSON)}
    for message in feed(framed(**changed), 10_000):
        # What got through is a message like any other: it can be written, and reads back equal.
        if not isinstance(message, (str, Unknown)):
            assert feed(encode_message(message), 10_000) == [message]


@given(st.integers(0, len(WIRE) - 1), st.binary(max_size=4), st.integers(0, 4), st.integers(1, 64))
def test_changed_bytes_are_decoded_equally_in_pieces(position: int, inserted: bytes, removed: int, size: int) -> None:
    data = WIRE[:position] + inserted + WIRE[position + removed :]
    whole = feed(data, len(data) or 1)
    pieces = feed(data, size)
    # An error costs the whole piece its messages, never what came before that piece.
    assert pieces[-1:] == whole[-1:]


def test_an_instance_belongs_to_one_secret_and_does_not_tell_it() -> None:
    instance = instance_of(SECRET)
    assert instance == "fe59310c4a6342fc5c41514e1483d180", "other implementations depend on it"
    assert Hello(PeerRole.CONNECTOR, instance, 1, "", SECRET).instance == instance
    assert instance_of("f" * 64) != instance
    for message in (Hello(PeerRole.CONNECTOR, instance, 1, "", SECRET), Register(1, "sql", "t", (SECRET,))):
        assert SECRET not in repr(message)


@pytest.mark.parametrize("secret", [value for value in NOT_SECRETS if isinstance(value, str)])
def test_what_is_not_a_secret_has_no_instance(secret: str) -> None:
    with pytest.raises(ValueError, match="not the secret of an instance"):
        instance_of(secret)


def test_the_longest_requests_fit_into_a_message_and_into_what_is_held_for_a_stranger() -> None:
    name, token = "\U0001f600" * MAX_CONNECTION_NAME, "t" * MAX_TOKEN
    register = control.Register(control.MAX_INTEGER, name, token, ("f" * 64,) * control.MAX_REPLACES)
    join = control.Join(control.MAX_INTEGER, name, token, "f" * 32, ("f" * 32,) * control.MAX_AVOID)
    for message in (register, join):
        encoded = encode_message(message)
        # What is sent at the same time may be queued in front of it.
        assert DIALED_CONTROL_CONFIG.send_queue - 1 + len(encoded) <= HELD_FOR_STRANGER
