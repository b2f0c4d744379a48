"""What a main process notes about a pair, so that the next main process can take it over. Pure.

A worker keeps the note with the pair, in memory that it shares with the main process. Increase
`relay.worker.messages.VERSION` with every change.
"""

from __future__ import annotations

import json
import math
import re

import attrs

from ..._value import Value
from ...security import KeySlot, check_connection_name
from ..model import KeyId
from .pairs import PairEnd

__all__ = ["PairNote"]

#: An address, or the name of a transport, is cut off if it is longer than this, and each character that is not
#: printable ASCII is replaced, so that a note always fits. These texts are only shown to administrators.
_MAX_NAME = 48
_MAX_RULE = 256
#: More bytes than any pair moves. The sum for many pairs has to fit into 64 bits.
_MAX_BYTES = 1 << 56
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: The sender's instance may be unknown.
_INSTANCE = re.compile(r"[0-9a-f]{0,32}", re.ASCII)


@attrs.frozen
class PairNote(Value):
    """A note about one pair."""

    #: The id of the rendezvous.
    id: str
    listener: PairEnd
    sender: PairEnd
    #: When the two were joined, on the monotonic clock of the computer (seconds).
    joined_at: float
    #: The bytes that were moved before the worker got the pair: to the client, and to the connector.
    to_client: int = 0
    to_connector: int = 0

    @property
    def connection(self) -> str:
        """The hybrid connection."""
        return self.sender.key.connection

    def encode(self) -> bytes:
        """Return the note as at most 1500 bytes."""
        text = json.dumps(
            [
                self.id,
                self.connection,
                self.joined_at,
                self.to_client,
                self.to_connector,
                *_encode_end(self.listener),
                *_encode_end(self.sender),
            ],
            separators=(",", ":"),
        )
        return text.encode()

    @classmethod
    def decode(cls, data: bytes) -> PairNote:
        """Read a note.

        Raises:
            ValueError: `data` is not a note.
        """
        try:
            values = json.loads(data)
            id_, connection, joined_at, to_client, to_connector, *ends = values
            if len(ends) != 2 * _END_VALUES:
                raise ValueError("it has a wrong number of values")
            if not (isinstance(joined_at, float) and 0 <= joined_at < math.inf):
                raise ValueError("the time is not a number")
            return cls(
                _matching(_ID, id_),
                _decode_end(check_connection_name(_text(connection, 1024)), *ends[:_END_VALUES]),
                _decode_end(connection, *ends[_END_VALUES:]),
                joined_at,
                _number(to_client, _MAX_BYTES),
                _number(to_connector, _MAX_BYTES),
            )
        except (TypeError, RecursionError) as exc:
            raise ValueError("it is malformed") from exc


_END_VALUES = 6


def _encode_end(end: PairEnd) -> list[str | int]:
    key = end.key
    return [end.instance, _shown(end.address), _shown(end.transport), key.rule, key.slot.value, key.generation]


def _shown(name: str) -> str:
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in name[:_MAX_NAME])


def _decode_end(
    connection: str,
    instance: object,
    address: object,
    transport: object,
    rule: object,
    slot: object,
    generation: object,
) -> PairEnd:
    key = KeyId(connection, _text(rule, _MAX_RULE), KeySlot(_text(slot)), _number(generation))
    return PairEnd(_matching(_INSTANCE, instance), _text(address), key, _text(transport))


def _text(value: object, limit: int = _MAX_NAME) -> str:
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise ValueError("a text is malformed or too long")
    return value


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError("an id is malformed")
    return value


def _number(value: object, limit: int = 1 << 63) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise ValueError("a number is out of range")
    return value
