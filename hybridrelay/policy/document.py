"""What one file, or one other source, of a policy states. Pure."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import attrs

from .._printable import printable
from .._value import Value
from ..errors import ConfigurationError
from .deny_list import parse_deny_list
from .index import LocalIndex, RelayIndex, TargetIndex
from .schema import KEYS, Kind
from .values import (
    Hours,
    LocalPattern,
    RelayPattern,
    TargetPattern,
    parse_audit_sink,
    parse_authority,
    parse_hours,
    parse_local,
    parse_relay,
    parse_target,
    parse_witness,
)

__all__ = ["MAX_ENTRIES", "Entry", "EntryList", "Place", "Restrictions", "Setting", "make_restrictions"]

T = TypeVar("T")

#: The most entries of one list. It limits the memory for a list, and how long it takes to read one.
MAX_ENTRIES = 10_000
#: The highest number of streams that a key can state: more than a process can have.
_MAX_COUNT = 1_000_000


@attrs.frozen
class Place(Value):
    """Where a rule is written."""

    #: The file, or the registry key.
    file: str
    #: The line in a file, or None if the source has no lines.
    line: int | None = None
    #: The place in a source without lines: ``AllowedTargets, item 2``.
    item: str = ""

    def __str__(self) -> str:
        if self.line is not None:
            return f"{self.file}:{self.line}"
        return f"{self.file}: {self.item}" if self.item else self.file


@attrs.frozen
class Setting(Value):
    """A key and its value, as a source states it."""

    key: str
    value: object
    place: Place
    #: The place of each element, if the value is a list.
    items: Sequence[Place] = ()


@attrs.frozen
class Entry(Generic[T]):
    """A value, with the text and the place where it is written."""

    value: T
    text: str
    place: Place


@attrs.frozen
class EntryList(Generic[T]):
    """The value of a key that is a list. An empty list of what is allowed allows nothing."""

    place: Place
    entries: tuple[Entry[T], ...]

    def values(self) -> list[T]:
        """Return the values of the entries, in their order."""
        return [entry.value for entry in self.entries]


# Each of the following classes is a list of one kind of values. Its index finds an entry without looking at all of
# them.


@attrs.frozen
class TargetList(EntryList[TargetPattern]):
    """Targets."""

    @cached_property
    def index(self) -> TargetIndex:
        """Finds the entries about a target."""
        return TargetIndex(self.values())


@attrs.frozen
class LocalList(EntryList[LocalPattern]):
    """Addresses and paths to listen at."""

    @cached_property
    def index(self) -> LocalIndex:
        """Finds the entries about an address or path."""
        return LocalIndex(self.values())


@attrs.frozen
class RelayList(EntryList[RelayPattern]):
    """Relays."""

    @cached_property
    def index(self) -> RelayIndex:
        """Finds the entries about a relay."""
        return RelayIndex(self.values())


@attrs.frozen
class AuthorityList(EntryList[str]):
    """Authorities: the SHA-256 of their certificates, in hexadecimal."""

    @cached_property
    def index(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.values())


@attrs.frozen
class IdentityList(EntryList[frozenset[str]]):
    """Identities: for each entry, all labels and serials that it may mean."""

    @cached_property
    def index(self) -> Mapping[str, Entry[frozenset[str]]]:
        """The first entry for each label or serial."""
        return {name: entry for entry in reversed(self.entries) for name in entry.value}


@attrs.frozen
class HoursList(EntryList[Hours]):
    """Hours."""

    @cached_property
    def index(self) -> frozenset[tuple[int, int]]:
        """The weekday (Monday is 0) and the minute of the day of every minute that is in one of them."""
        distinct = {(day, hours.begin, hours.end) for hours in self.values() for day in hours.days}
        minutes = {day: bytearray(24 * 60) for day in range(7)}
        for day, begin, end in distinct:
            minutes[day][begin:end] = b"\1" * (end - begin)
        return frozenset(
            (day, minute) for day, of_day in minutes.items() for minute, is_in in enumerate(of_day) if is_in
        )

    def include(self, moment: dt.datetime) -> bool:
        """Return whether a local time is within one of them."""
        return (moment.weekday(), moment.hour * 60 + moment.minute) in self.index


@attrs.frozen
class SinkList(EntryList[str]):
    """Kinds of sinks of the audit log."""

    @cached_property
    def index(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.values())


@attrs.frozen(kw_only=True)
class Restrictions(Value):
    """The content of one source. A field is None if the source does not have the key."""

    file: str
    #: Whether it is a deny list, which has nothing but `denied_identities`.
    is_deny_list: bool = False
    #: Whether it is not part of the machine's policy, but of a further directory, which can only restrict that.
    is_further: bool = False
    #: The only hybrid connection to which it applies; empty: it applies to all.
    connection: str = ""
    allow_hybrid_connections: Entry[bool] | None = None
    allowed_targets: TargetList | None = None
    denied_targets: TargetList | None = None
    allowed_relays: RelayList | None = None
    allowed_authorities: AuthorityList | None = None
    denied_identities: IdentityList | None = None
    max_streams: Entry[int] | None = None
    max_streams_per_label: Entry[int] | None = None
    allowed_hours: HoursList | None = None
    require_audit: SinkList | None = None
    audit_witness: RelayList | None = None
    allow_udp: Entry[bool] | None = None
    allowed_forward_addresses: LocalList | None = None
    allow_run: Entry[bool] | None = None

    def prepare(self) -> None:
        """Make the indexes of the lists, so that this does not delay the first decision."""
        for name in KEYS:
            getattr(getattr(self, field_of(name)), "index", None)

    def stated(self) -> list[tuple[str, str, Place]]:
        """Return everything that the source states: key, value and place. A list has a line for each entry."""
        found: list[tuple[str, str, Place]] = []
        for name in KEYS:
            value = getattr(self, field_of(name))
            if isinstance(value, Entry):
                found.append((name, value.text, value.place))
            elif isinstance(value, EntryList):
                found += [(name, entry.text, entry.place) for entry in value.entries]
                if not value.entries:
                    found.append((name, "(an empty list)", value.place))
        return found


def field_of(key: str) -> str:
    """Return the name of the field of `Restrictions` for a key."""
    return KEYS[key].slug.replace("-", "_")


def _parse_identity(text: str) -> frozenset[str]:
    found = parse_deny_list(text)
    if not found.entries or "\n" in text:
        raise ValueError("expected a label or a serial, as the audit log shows it")
    return found.names


#: For each key with a list: how an element is parsed, and the class of the list.
_LISTS: Mapping[str, tuple[Callable[[str], object], Callable[[Place, tuple[Entry[Any], ...]], EntryList[Any]]]] = {
    "AllowedTargets": (parse_target, TargetList),
    "DeniedTargets": (parse_target, TargetList),
    "AllowedRelays": (parse_relay, RelayList),
    "AllowedAuthorities": (parse_authority, AuthorityList),
    "DeniedIdentities": (_parse_identity, IdentityList),
    "AllowedHours": (parse_hours, HoursList),
    "RequireAudit": (parse_audit_sink, SinkList),
    "AuditWitness": (parse_witness, RelayList),
    "AllowedForwardAddresses": (parse_local, LocalList),
}


def make_restrictions(file: str, settings: Iterable[Setting]) -> Restrictions:
    """Check what a source states.

    Args:
        file: the name of the source, for messages.
        settings: its keys and values.

    Raises:
        ConfigurationError: a key is unknown, or a value is not valid. The message begins with the place. Nothing is
            skipped, because that might allow what was meant to be denied.
    """
    fields: dict[str, object] = {}
    for setting in settings:
        key = KEYS.get(setting.key)
        if key is None:
            raise _unknown(setting)
        fields[field_of(key.name)] = _convert(key.kind, setting)
    # The type of each field follows from the table of keys, which a test checks.
    found = Restrictions(file=file, **fields)  # type: ignore[arg-type]
    found.prepare()
    return found


def _convert(kind: Kind, setting: Setting) -> Entry[bool] | Entry[int] | EntryList[object]:
    value, place = setting.value, setting.place
    match kind:
        case Kind.FLAG:
            if not isinstance(value, bool):
                raise _wrong(place, f"{setting.key}: expected true or false")
            return Entry(value, str(value).lower(), place)
        case Kind.COUNT:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
                raise _wrong(place, f"{setting.key}: expected a number from 0 to {_MAX_COUNT}")
            return Entry(value, str(value), place)
        case Kind.LIST:
            if not isinstance(value, list | tuple):
                raise _wrong(place, f"{setting.key}: expected a list of strings")
            if len(value) > MAX_ENTRIES:
                raise _wrong(place, f"{setting.key}: more than {MAX_ENTRIES} entries")
            places = setting.items or [place] * len(value)
            _, make_list = _LISTS[setting.key]
            return make_list(place, tuple(map(_element, [setting.key] * len(value), value, places)))


def _element(key: str, value: object, place: Place) -> Entry[object]:
    if not isinstance(value, str):
        raise _wrong(place, f"{key}: expected a string in quotes")
    try:
        parse, _ = _LISTS[key]
        return Entry(parse(value), value, place)
    except (ValueError, ConfigurationError) as exc:
        raise _wrong(place, f"{key}: {printable(value[:100])!r}: {exc}") from None


def _wrong(place: Place, message: str) -> ConfigurationError:
    return ConfigurationError(
        f"{place}: {message}", remedy="see docs/policy.md, or: hybridrelay policy template toml"
    )


def _unknown(setting: Setting) -> ConfigurationError:
    close = difflib.get_close_matches(setting.key.lower(), [name.lower() for name in KEYS], n=1)
    known = next((name for name in KEYS if close and name.lower() == close[0]), None)
    remedy = f"did you mean {known}?" if known else f"the known keys are: {', '.join(KEYS)}"
    return ConfigurationError(f"{setting.place}: unknown key {printable(setting.key[:60])!r}", remedy=remedy)
