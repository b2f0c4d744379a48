"""Typed metadata of a stream, sent with OPEN. SPEC.md, section 3.

Each entry has a type, a length and a value. A receiver ignores entries of types that it does not know, unless the
sender marked the entry as critical; then it refuses the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable

import attrs

from .._value import Value

#: The longest value (bytes): more than a DNS name or an address needs.
MAX_METADATA_VALUE = 512
#: The greatest length of all entries of one OPEN, headers included (bytes). A peer can make us keep this much for
#: every stream that it opens.
MAX_METADATA = 1024
MAX_METADATA_ENTRIES = 16
#: The greatest type. Types from 0x4000 on are for applications; this format will never assign a meaning to them.
MAX_METADATA_TYPE = 0x7FFF

_ENTRY = struct.Struct(">HH")
_CRITICAL = 0x8000


@attrs.frozen
class MetadataEntry(Value):
    """One typed value.

    Raises:
        ValueError: the type is not one of 1 to 0x7fff, or the value has more than 512 bytes.
    """

    type: int = attrs.field(validator=attrs.validators.in_(range(1, MAX_METADATA_TYPE + 1)))
    value: bytes = attrs.field(repr=False, validator=attrs.validators.max_len(MAX_METADATA_VALUE))
    #: Whether a peer that does not know the type must refuse the stream instead of ignoring the entry.
    critical: bool = False


def _as_tuple(entries: Iterable[MetadataEntry]) -> tuple[MetadataEntry, ...]:
    return tuple(entries)


@attrs.frozen
class Metadata(Value):
    """The entries of one OPEN, in the order in which they were sent.

    Raises:
        ValueError: more than 16 entries, more than 1,024 bytes, or two entries of one type.
    """

    entries: tuple[MetadataEntry, ...] = attrs.field(default=(), converter=_as_tuple)

    @entries.validator
    def _check(self, attribute: object, entries: tuple[MetadataEntry, ...]) -> None:
        if len(entries) > MAX_METADATA_ENTRIES:
            raise ValueError(f"more than {MAX_METADATA_ENTRIES} entries of metadata")
        if len({entry.type for entry in entries}) != len(entries):
            raise ValueError("two entries of metadata have the same type")
        if sum(_ENTRY.size + len(entry.value) for entry in entries) > MAX_METADATA:
            raise ValueError(f"more than {MAX_METADATA} bytes of metadata")

    def get(self, type: int) -> bytes | None:  # noqa: A002 (the format's own word)
        """Return the value of the entry of this type, or None."""
        return next((entry.value for entry in self.entries if entry.type == type), None)

    def not_understood(self, known: Collection[int]) -> int | None:
        """Return the type of the first critical entry whose type is not in `known`, or None."""
        for entry in self.entries:
            if entry.critical and entry.type not in known:
                return entry.type
        return None

    def encode(self) -> bytes:
        if not self.entries:
            return b""
        return b"".join(
            _ENTRY.pack(entry.type | (_CRITICAL if entry.critical else 0), len(entry.value)) + entry.value
            for entry in self.entries
        )


NO_METADATA = Metadata()


def decode_metadata_untrusted(data: bytes) -> Metadata:
    """Parse all of `data`.

    Raises:
        ValueError: `data` is truncated or too long, or has an entry that is not allowed.
    """
    if not data:
        return NO_METADATA
    if len(data) > MAX_METADATA:
        raise ValueError(f"more than {MAX_METADATA} bytes of metadata")
    entries = []
    position = 0
    while position < len(data):
        if len(data) - position < _ENTRY.size:
            raise ValueError("the metadata is truncated")
        code, length = _ENTRY.unpack_from(data, position)
        position += _ENTRY.size
        if length > len(data) - position:
            raise ValueError("the metadata is truncated")
        value = data[position : position + length]
        position += length
        entries.append(MetadataEntry(code & ~_CRITICAL, value, bool(code & _CRITICAL)))
    return Metadata(entries)
