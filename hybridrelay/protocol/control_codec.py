"""Control messages as bytes. SPEC.md, section 7.

On the wire: u32 length, then that many bytes of UTF-8 JSON, an object whose ``type`` names the message. A message
from the peer that is not valid is a `RemoteProtocolError`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import attrs

from .control import KeptState, Message, PeerRole, TargetHealth, Unknown, UpdateState
from .errors import LocalProtocolError, RemoteProtocolError
from .preamble import TICKET_SIZE
from .reasons import Reason

__all__ = ["MAX_MESSAGE_SIZE", "ControlDecoder", "encode_message"]

#: The longest message, without its length field. Limits the relay's memory before authentication. A join or
#: registration with the longest name, the longest token and the most instances has 7.4 KiB, an ordinary one 700
#: bytes.
MAX_MESSAGE_SIZE = 7 * 1024 + 500
#: The longest name of a type (characters).
MAX_TYPE = 64
_LENGTH = struct.Struct(">I")


def _string_from_json(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _ticket_from_json(value: object) -> bytes:
    text = _string_from_json(value)
    if len(text) != 2 * TICKET_SIZE:
        raise ValueError("a ticket of the wrong length")
    return bytes.fromhex(text)


def _strings_from_json(value: object) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(value)


#: Decoders by the type of the attribute. For other types, the validator gets the value as it is.
_FROM_JSON: Mapping[object, Callable[[object], object]] = {
    bytes: _ticket_from_json,
    Reason: lambda value: Reason.from_name(_string_from_json(value)),
    PeerRole: lambda value: PeerRole(_string_from_json(value)),
    KeptState: lambda value: KeptState(_string_from_json(value)),
    UpdateState: lambda value: UpdateState(_string_from_json(value)),
    TargetHealth: lambda value: TargetHealth(_string_from_json(value)),
    tuple[str, ...]: _strings_from_json,
}


def _to_json(value: object) -> object:
    if isinstance(value, Reason):
        return value.slug
    if isinstance(value, bytes):
        return value.hex()
    return value


_CLASSES: Mapping[str, type[Message]] = {cls.__name__.lower(): cls for cls in get_args(Message)}
_TYPES = {cls: name for name, cls in _CLASSES.items()}
for _class in _TYPES:
    # The annotations are strings until resolved; `_FROM_JSON` is keyed by the types themselves.
    attrs.resolve_types(_class)


def encode_message(message: Message) -> bytes:
    """Encode a message, with its length before it.

    Raises:
        LocalProtocolError: this is not a control message, or it is larger than `MAX_MESSAGE_SIZE`.
    """
    name = _TYPES.get(type(message))
    if name is None:
        raise LocalProtocolError(f"{type(message).__name__} is not a control message")
    fields = {field.name: _to_json(getattr(message, field.name)) for field in attrs.fields(type(message))}
    body = json.dumps({"type": name, **fields}, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > MAX_MESSAGE_SIZE:
        raise LocalProtocolError(f"the {name} message is too large")
    return _LENGTH.pack(len(body)) + body


class ControlDecoder:
    """Splits received bytes into messages. After an error, nothing more can be read: close the connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error: RemoteProtocolError | None = None

    def receive_data_untrusted(self, data: bytes | bytearray | memoryview) -> list[Message | Unknown]:
        """Take bytes that the peer sent, and return the messages that are now complete.

        If a message is malformed, the messages before it in the same `data` are lost: the connection is closed
        anyway.

        Raises:
            RemoteProtocolError: the peer violated the protocol. Any other exception is a bug.
        """
        if self._error is not None:
            raise RemoteProtocolError(str(self._error), reason=self._error.reason)
        self._buffer += data
        try:
            return [_decode_untrusted(body) for body in self._cut_off_untrusted()]
        except RemoteProtocolError as error:
            self._error = error
            self._buffer.clear()
            raise

    @property
    def held_bytes(self) -> int:
        """How many bytes of an incomplete message are kept here."""
        return len(self._buffer)

    def receive_eof_untrusted(self) -> None:
        """Note that the peer will send no more.

        Raises:
            RemoteProtocolError: it stopped within a message.
        """
        if self._buffer:
            raise RemoteProtocolError("the control channel ended within a message")

    def _cut_off_untrusted(self) -> Iterator[bytes]:
        buffer = self._buffer
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            # Checked as soon as it is known, so that at most one message is buffered.
            if length > MAX_MESSAGE_SIZE:
                raise RemoteProtocolError("a control message is too large")
            end = _LENGTH.size + length
            if len(buffer) < end:
                return
            body = bytes(buffer[_LENGTH.size : end])
            del buffer[:end]
            yield body


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _decode_untrusted(body: bytes) -> Message | Unknown:
    try:
        # Explicitly UTF-8: json would also detect UTF-16 and UTF-32.
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # Without the text and without the cause: both may contain a token.
        raise RemoteProtocolError("a control message is not JSON") from None
    if not isinstance(value, dict):
        raise RemoteProtocolError("a control message is not an object")
    name = value.get("type")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_TYPE or not name.isprintable():
        raise RemoteProtocolError("a control message has no type")
    cls = _CLASSES.get(name)
    if cls is None:
        return Unknown(name)
    arguments: dict[str, Any] = {}
    for field in attrs.fields(cls):
        if field.name not in value:
            continue
        convert = _FROM_JSON.get(field.type)
        try:
            arguments[field.name] = convert(value[field.name]) if convert else value[field.name]
        except (TypeError, ValueError):
            raise RemoteProtocolError(f"a bad {field.name} in a {name} message") from None
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        # The texts of the validators, and Python's text about a missing field, name fields and contain no values.
        raise RemoteProtocolError(f"a bad {name} message: {error}") from None
