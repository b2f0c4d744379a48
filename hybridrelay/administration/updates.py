"""Pushing updates: the authority signs which relays, pins and target its connection strings are to have.

The authority file records what was pushed, so that each update can state all of it:

- for each side, whether relays, pins and the target were pushed to it, but not their values: an update states the
  current values in the authority file, which `connections endpoints` and `set-target` may have changed in the
  meantime;
- for single identities, the values that were pushed only to them. These take precedence. An update for such an
  identity also states what was pushed to its whole side.

The authority file is written first. If a relay cannot be reached then, pushing again completes the change.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from .._replace_file import replace_file
from .._value import Value
from ..errors import ConfigurationError, HybridRelayError, OutcomeUnknown
from ..relay.updates import StoredUpdate
from ..security import (
    MAX_EXCLUDED,
    MAX_SEQUENCE,
    AuthorityFile,
    Endpoint,
    Role,
    Target,
    Update,
    seal_update,
)
from ..security.names import normal_host
from ..security.update_content import content_as_json, content_of_json_untrusted
from .authority_content import damaged, relays_of, target_of, with_relays, with_target
from .changes import IncompleteChange, nothing, only_change_of
from .connections import read_authority_file
from .provisioning import pair_hosts_and_ports
from .registry import Registry

__all__ = ["PushedContent", "PushedUpdates", "Wanted", "push_updates", "pushed_so_far"]

_SIDES = (Role.CONNECTOR, Role.APPLICATION)
_NONCE_SIZE = 12


@attrs.frozen
class PushedContent(Value):
    """What an update states. None means that it does not change this."""

    endpoints: tuple[Endpoint, ...] | None = None
    pins: tuple[str, ...] | None = None
    target: Target | None = None

    def __bool__(self) -> bool:
        return self != PushedContent()

    def over(self, other: PushedContent) -> PushedContent:
        """Return this content, with what it does not state taken from `other`."""
        return PushedContent(
            other.endpoints if self.endpoints is None else self.endpoints,
            other.pins if self.pins is None else self.pins,
            other.target if self.target is None else self.target,
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what it states."""
        named = (("relays", self.endpoints), ("pins", self.pins), ("target", self.target))
        return tuple(name for name, value in named if value is not None)


@attrs.frozen
class Wanted(Value):
    """What is to be pushed, and to whom."""

    #: The hosts of all relays, in order of preference; None: they are not changed.
    hosts: tuple[str, ...] | None = None
    #: The ports of the relays that differ from the defaults: one mapping for all, or one for each. None keeps the
    #: ports that the authority file has for the relays.
    ports: Sequence[Mapping[str, int | None]] | None = None
    #: The pins of all relays.
    pins: tuple[str, ...] | None = None
    target: Target | None = None
    #: The side; None: relays and pins for both, and the target for connectors.
    role: Role | None = None
    #: The serial number of a single identity of this side.
    serial: str = ""

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is to be changed, so that earlier updates are pushed again."""
        return self.hosts is None and self.ports is None and self.pins is None and self.target is None


@attrs.frozen
class _Pushed(Value):
    """What an authority file records."""

    sequence: int = 0
    #: The names of what was pushed to a side; see `PushedContent.parts`.
    sides: Mapping[Role, frozenset[str]] = attrs.field(factory=dict[Role, frozenset[str]])
    #: For single identities, by side and serial number.
    identities: Mapping[tuple[Role, str], PushedContent] = attrs.field(factory=dict[tuple[Role, str], PushedContent])


@attrs.frozen
class PushedUpdates(Value):
    """What `push_updates` did."""

    updates: tuple[StoredUpdate, ...]
    #: The hosts of the relays that the relay knows for the hybrid connection.
    relay_hosts: tuple[str, ...]


def push_updates(
    registry: Registry,
    name: str,
    wanted: Wanted,
    *,
    authority_path: Path,
    seconds: float,
    not_before: float = 0.0,
    now: float,
    before_change: Callable[[], None] = nothing,
) -> PushedUpdates:
    """Sign updates for the connection strings of a hybrid connection, and leave them at a relay.

    Args:
        registry: the registry of the relay.
        name: the hybrid connection.
        wanted: what is to be changed. If nothing is, what was pushed before is pushed again, for example to another
            relay.
        authority_path: its authority file. It records what was pushed. Its own relays and target, with which further
            connection strings are issued, change as well, unless this is for a single identity.
        seconds: for how long the relay may deliver the updates.
        not_before: programs may not use them before this time (seconds since 1970).
        now: seconds since 1970.
        before_change: called before anything is changed; see `change_with_files`.

    Raises:
        ConfigurationError: nothing was pushed before, there is no such hybrid connection, or something does not fit.
            Nothing was changed.
        IncompleteChange: the authority file was changed, and the relay lacks some of the updates, or may lack some.
        HybridRelayError: the authority file cannot be written, or the relay cannot be reached. Nothing was changed.
    """
    with only_change_of([authority_path]):
        file = read_authority_file(authority_path, name)
        known = registry.connection(name)
        before = _recorded(file)
        changes = _changes(file, wanted)
        after = _with_changes(before, changes, wanted)
        if not after.sides and not after.identities:
            raise ConfigurationError(
                f"no update of {name} was pushed before, so there is nothing to push again",
                remedy="say what to change: --endpoint, --relay-pin, --public-ports or --target",
            )
        # Seconds since 1970, so that the sequence also grows if the authority file is restored from a backup.
        first = max(before.sequence + 1, int(now))
        sequence = first + 1 if after.identities else first
        if sequence > MAX_SEQUENCE:
            raise ConfigurationError("the clock of this machine is wrong", remedy="set it, and run the command again")
        after = attrs.evolve(after, sequence=sequence)
        if not wanted.serial:
            file = _with_own(file, changes)
        updates = _updates(file, after, wanted, first, not_before=not_before, expires_at=now + seconds, now=now)
        before_change()
        try:
            replace_file(authority_path, _with_record(file, after).format())
        except OSError as exc:
            raise HybridRelayError(
                f"nothing was changed, because {exc.filename or 'a file'} cannot be written: {exc.strerror or exc}",
                remedy="make this file writable, and run the command again",
            ) from exc
        for update in updates:
            try:
                registry.push_update(update)
            except HybridRelayError as exc:
                lacks = (
                    "it is not known whether the relay has" if isinstance(exc, OutcomeUnknown) else "the relay lacks"
                )
                raise IncompleteChange(
                    f"{authority_path} was changed, and {lacks} an update: {exc}",
                    remedy=f"run 'hybridrelay updates push {name}' again, with the same file and without changes",
                ) from exc
    return PushedUpdates(updates, known.hosts)


def pushed_so_far(authority_path: Path, name: str) -> tuple[int, Mapping[tuple[Role, str], PushedContent]]:
    """Return what updates state now, by side and serial number (empty for everybody), and the last sequence.

    Raises:
        ConfigurationError: the authority file cannot be read, or is damaged.
    """
    file = read_authority_file(authority_path, name)
    pushed = _recorded(file)
    found = {(role, ""): _stated_for(role, pushed, file) for role in pushed.sides}
    for (role, serial), what in pushed.identities.items():
        found[role, serial] = what.over(_stated_for(role, pushed, file))
    return pushed.sequence, found


def _stated_for(role: Role, pushed: _Pushed, file: AuthorityFile) -> PushedContent:
    """Return what updates for everybody on a side state."""
    parts = pushed.sides.get(role, frozenset())
    endpoints, pins = relays_of(file)
    return PushedContent(
        endpoints if "relays" in parts else None,
        pins if "pins" in parts else None,
        target_of(file) if "target" in parts else None,
    )


def _changes(file: AuthorityFile, wanted: Wanted) -> PushedContent:
    """Return what is to be changed. Raises ConfigurationError."""
    if wanted.target is not None and wanted.role is Role.APPLICATION:
        raise ConfigurationError("only connectors have a target", remedy="leave out --role or --target")
    if wanted.serial and wanted.role is None:
        raise ConfigurationError(
            "--serial needs --role", remedy="say whether it is a connector or an application: --role connector"
        )
    if wanted.hosts is None and wanted.ports is not None:
        raise ConfigurationError("--public-ports needs --endpoint", remedy="name all relays with --endpoint")
    if wanted.hosts is None:
        return PushedContent(None, wanted.pins, wanted.target)
    endpoints = pair_hosts_and_ports(wanted.hosts, wanted.ports or ())
    if wanted.ports is None:
        kept = {normal_host(one.host): one.ports for one in relays_of(file)[0]}
        endpoints = tuple(Endpoint(one.host, kept.get(normal_host(one.host), {})) for one in endpoints)
    return PushedContent(endpoints, wanted.pins, wanted.target)


def _with_changes(before: _Pushed, changes: PushedContent, wanted: Wanted) -> _Pushed:
    """Return what will have been pushed. Raises ConfigurationError."""
    if not wanted.serial:
        sides = dict(before.sides)
        for role in _SIDES if wanted.role is None else (wanted.role,):
            if parts := _parts_for(role, changes):
                sides[role] = sides.get(role, frozenset()) | parts
        return attrs.evolve(before, sides=sides)
    if not changes:
        return before
    assert wanted.role is not None, "checked before"
    at = wanted.role, wanted.serial
    identities = {**before.identities, at: changes.over(before.identities.get(at, PushedContent()))}
    if sum(role is wanted.role for role, _ in identities) > MAX_EXCLUDED // 2:
        raise ConfigurationError(
            f"at most {MAX_EXCLUDED // 2} identities of one side can have updates of their own",
            remedy="push one update to all connectors, or to all applications, instead",
        )
    return attrs.evolve(before, identities=identities)


def _parts_for(role: Role, changes: PushedContent) -> frozenset[str]:
    return frozenset(changes.parts) - ({"target"} if role is Role.APPLICATION else set())


def _updates(
    file: AuthorityFile,
    pushed: _Pushed,
    wanted: Wanted,
    first: int,
    *,
    not_before: float,
    expires_at: float,
    now: float,
) -> tuple[StoredUpdate, ...]:
    """Make the updates. For each side, that for the whole side is first. Those for single identities follow, with a
    higher sequence."""
    name = file.authority.connection_name
    roles = _SIDES if wanted.role is None else (wanted.role,)
    if not wanted.is_nothing and wanted.hosts is None and wanted.pins is None:
        roles = (Role.CONNECTOR,)  # applications have no target
    found = []

    def add(role: Role, serial: str, sequence: int, what: PushedContent, excluded: tuple[str, ...]) -> None:
        try:
            update = Update(
                connection=name,
                role=role,
                sequence=sequence,
                serial=serial,
                excluded=excluded,
                not_before=not_before,
                not_after=expires_at,
                endpoints=what.endpoints,
                pins=what.pins,
                target=what.target,
            )
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from None
        document = seal_update(file.authority, update, secrets.token_bytes(_NONCE_SIZE))
        note = ", ".join(what.parts)
        found.append(StoredUpdate(name, role, serial, sequence, document, now, expires_at, note))

    for role in roles:
        stated = _stated_for(role, pushed, file)
        if stated:
            add(role, "", first, stated, tuple(sorted(serial for side, serial in pushed.identities if side is role)))
        for (side, serial), what in pushed.identities.items():
            if side is role:
                add(role, serial, first + 1, what.over(stated), ())
    return tuple(found)


def _with_own(file: AuthorityFile, changes: PushedContent) -> AuthorityFile:
    """Return the authority file with what connection strings that are issued later have."""
    if changes.target is not None:
        file = with_target(file, changes.target)
    endpoints, pins = relays_of(file)
    return with_relays(
        file,
        endpoints if changes.endpoints is None else changes.endpoints,
        pins if changes.pins is None else changes.pins,
    )


# --- the record in the authority file


def _with_record(file: AuthorityFile, pushed: _Pushed) -> AuthorityFile:
    record = {
        "sequence": pushed.sequence,
        "sides": {role.value: sorted(parts) for role, parts in pushed.sides.items()},
        "identities": [
            {
                "role": role.value,
                "serial": serial,
                **content_as_json(what.endpoints, what.pins, what.target),
            }
            for (role, serial), what in pushed.identities.items()
        ],
    }
    return attrs.evolve(file, extra={**file.extra, "updates": record})


def _recorded(file: AuthorityFile) -> _Pushed:
    """Raises ConfigurationError: the authority file is damaged."""
    record = file.extra.get("updates")
    if record is None:
        return _Pushed()
    try:
        sequence = record["sequence"]
        if type(sequence) is not int or not 0 <= sequence < MAX_SEQUENCE:
            raise ValueError("sequence")
        return _Pushed(
            sequence,
            {Role(role): frozenset(map(str, parts)) for role, parts in record["sides"].items()},
            {
                (Role(one["role"]), str(one["serial"])): PushedContent(*content_of_json_untrusted(one))
                for one in record["identities"]
            },
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise damaged("updates") from None
