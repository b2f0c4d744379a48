"""Creating, importing, disabling and deleting hybrid connections, and issuing further connection strings for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from .._text_files import read_text
from .._value import Value
from ..errors import ConfigurationError, HybridRelayError
from ..relay.limits import RELAY_RECORD_BYTES
from ..relay.model import RelayRecord
from ..relay.store.record import dump_relay_record, parse_relay_record_untrusted
from ..relay.store.store import NameTaken
from ..security import AuthorityFile, ConnectionString, Identity, KeySlot, LocalNameChoice, Role, Rule, Target
from ..security.authority_file import MAX_AUTHORITY_FILE
from ..security.identity import DEFAULT_VALID_YEARS
from ..security.loading import naming
from .authority_content import RIGHTS, pushed_sequence, rule_of
from .changes import attempted, kept_if_unknown, nothing
from .files_with_keys import read_key
from .new_files import check_new_files, new_files
from .provisioning import issue_string, pair_hosts_and_ports, provision
from .registry import ConnectionInfo, Registry

_USE_WHAT_IS_THERE = (
    "choose another name, or work with the existing hybrid connection: see the --help of 'connections issue', "
    "'endpoints' and 'set-target'"
)


# --- create


@attrs.frozen
class NewFiles(Value):
    """The files that `create_connection` writes. None of them may exist."""

    connector: Path
    application: Path
    authority: Path
    #: The file for relays to import. Needed if there is no registry to which the hybrid connection can be added.
    relay: Path | None = None


@attrs.frozen
class CreatedConnection(Value):
    """What `create_connection` did."""

    name: str
    #: The hosts of its relays, in order of preference.
    hosts: tuple[str, ...]
    pins: tuple[str, ...]


def create_connection(
    name: str,
    *,
    target: Target,
    local_name: LocalNameChoice = None,
    hosts: Sequence[str],
    files: NewFiles,
    registry: Registry | None = None,
    pins: Sequence[str] = (),
    ports: Sequence[Mapping[str, int | None]] = (),
    valid_years: float = DEFAULT_VALID_YEARS,
    has_issuer: bool = False,
    now: float,
    before_change: Callable[[], None] = nothing,
) -> CreatedConnection:
    """Create a hybrid connection, write its files, and add it to the relay's registry, if `registry` is given.

    Identities are created here; the relay gets only the name, the endpoints, and the rules with their keys.

    Args:
        name: the name of the hybrid connection.
        target: what the connector connects to.
        local_name: the name and port under which applications know the target on their own machines; None means the
            target's. Only files contain it: the relay never learns it.
        hosts: the hosts of its relays, in order of preference.
        files: the files to be written.
        registry: the registry of its only relay. None if `files.relay` is written instead, to be
            imported at each relay.
        pins: the pins of the relays. Ignored if there is a `registry`, which has the pin of its relay.
        ports: the ports that differ from the defaults: one mapping for all relays, or one for each. If empty, those
            that the relay of `registry` has.
        valid_years: how long the authority and both identities are valid.
        has_issuer: whether the connector gets an issuer.
        now: seconds since 1970.
        before_change: called before the hybrid connection is added to the registry; see `change_with_files`.

    Raises:
        ConfigurationError: the name is taken, a file exists, or the numbers of hosts and ports do not match.
            Nothing was created.
        OSError: a file cannot be written; the error names it. Nothing was created.
        OutcomeUnknown: the relay gave no usable answer. The files were written, because it may have added the hybrid
            connection.
    """
    _check_is_new(name, registry, files)
    # The authority file first: if this process is killed, it tells the next one that there was an earlier attempt.
    paths = [files.authority, files.connector, files.application]
    check_new_files([*paths, files.relay] if files.relay else paths)
    if registry is not None:
        relay = registry.prepare(now=now)
        pins = () if relay.pin is None else (relay.pin,)
        ports = ports or (relay.ports,)
    endpoints = pair_hosts_and_ports(hosts, ports)
    made = provision(
        name,
        target=target,
        local_name=local_name,
        endpoints=endpoints,
        pins=tuple(pins),
        now=now,
        valid_years=valid_years,
        has_issuer=has_issuer,
    )
    texts = (made.authority_file.format(), made.connector.format() + "\n", made.application.format() + "\n")
    contents = dict(zip(paths, texts, strict=True))
    if registry is not None:
        with contextlib.ExitStack() as written:
            written.enter_context(new_files(contents))
            before_change()
            with kept_if_unknown(written):
                registry.import_(made.record)
    else:
        assert files.relay is not None
        with new_files({**contents, files.relay: dump_relay_record(made.record)}):
            pass
    return CreatedConnection(name, made.record.hosts, tuple(pins))


def _check_is_new(name: str, registry: Registry | None, files: NewFiles) -> None:
    """Check that there is no such hybrid connection yet: in the registry, if there is one, and in the files."""
    known = None if registry is None else registry.find(name)
    if registry is not None and known is not None:
        with contextlib.suppress(HybridRelayError):
            registry.refuse_import(known)  # so that the audit log of the relay has the attempt
        raise ConfigurationError(f"there is already a hybrid connection {name!r}", remedy=_USE_WHAT_IS_THERE)
    if not files.authority.exists():
        return
    if registry is None:
        raise ConfigurationError(
            f"the authority file {files.authority} already exists: it belongs to a hybrid connection, "
            f"perhaps to {name}",
            remedy=f"{_USE_WHAT_IS_THERE}; keep that file, because nothing can replace it",
        )
    # The registry is changed last, so an interrupted creation leaves this situation.
    left = [str(path) for path in (files.connector, files.application, files.authority) if path.exists()]
    raise ConfigurationError(
        f"the authority file {files.authority} already exists, but the relay has no hybrid connection {name!r}",
        remedy=f"if an earlier 'connections create' of {name} was interrupted, its files are useless: remove "
        f"{', '.join(left)}, and run it again; otherwise name another --authority-file",
    )


# --- import


def read_relay_record(path: Path) -> RelayRecord:
    """Read a relay file: a hybrid connection, with its keys, for a relay to import.

    Raises:
        ConfigurationError: the file cannot be read, or is not a relay file.
    """
    text = read_text(path, what="the relay file", limit=RELAY_RECORD_BYTES, secret=True)
    with naming(path):
        return parse_relay_record_untrusted(text)


def import_connection(
    registry: Registry, record: RelayRecord, *, source: str, remedy: str, before_change: Callable[[], None] = nothing
) -> bool:
    """Add a hybrid connection that was created on another machine to a relay's registry.

    Args:
        registry: the relay's registry.
        record: the hybrid connection.
        source: where the record came from, for messages.
        remedy: what to do if another hybrid connection has the same name.
        before_change: see `change_with_files`.

    Returns:
        False if the registry already has an identical hybrid connection.

    Raises:
        ConfigurationError: the registry has a different hybrid connection of this name, and the message says how it
            differs; or somebody else has created one of this name in the meantime (`NameTaken`).
    """
    known = registry.find(record.name)
    differences = () if known is None else known.differences(record)
    if known is not None and not differences:
        return False
    before_change()
    try:
        # If the registry has a different one, this fails, and the audit log of the relay then shows the attempt.
        registry.import_(record)
    except NameTaken:
        if not differences:  # somebody else has created it in the meantime
            raise
    else:
        return True
    if differences == ("endpoint",):
        remedy = "see 'hybridrelay connections endpoints --help', which changes its relays and keeps its keys"
    raise ConfigurationError(
        f"there is already a hybrid connection {record.name!r} here, and it is not the same as in {source} "
        f"({', '.join(differences)}); nothing was changed",
        remedy=remedy,
    )


# --- disable and delete


def set_disabled(
    registry: Registry, name: str, *, disabled: bool, before_change: Callable[[], None] = nothing
) -> tuple[str, ...]:
    """Disable a hybrid connection, which ends everything that uses it, or enable it again.

    Returns:
        The hosts of all its relays. It was changed at only one of them.

    Raises:
        ConfigurationError: there is no such hybrid connection, or it was changed in the meantime. Nothing was
            changed.
    """
    with attempted(lambda: registry.change(ConnectionInfo.missing(name), disabled=disabled)):
        known = registry.connection(name)
    before_change()
    registry.change(known, disabled=disabled)
    return known.hosts


def delete_connection(registry: Registry, name: str, *, before_change: Callable[[], None] = nothing) -> None:
    """Delete a hybrid connection with its rules and keys. Everything that uses it ends.

    Raises:
        ConfigurationError: there is no such hybrid connection, or it was changed in the meantime. Nothing was
            changed.
    """
    with attempted(lambda: registry.delete(ConnectionInfo.missing(name))):
        known = registry.connection(name)
    before_change()
    registry.delete(known)


# --- issue


def read_authority_file(path: Path, name: str) -> AuthorityFile:
    """Read the authority file of a hybrid connection.

    Raises:
        ConfigurationError: the file cannot be read, is not an authority file, or is that of another hybrid
            connection.
    """
    text = read_text(path, what="the authority file", limit=MAX_AUTHORITY_FILE, secret=True)
    with naming(path):
        authority_file = AuthorityFile.parse_untrusted(text)
    if (owner := authority_file.authority.connection_name) != name:
        raise ConfigurationError(f"{path} is the authority file of {owner}, not of {name}")
    return authority_file


def issue_connection_string(
    name: str,
    role: Role,
    label: str,
    *,
    authority_path: Path,
    out: Path,
    rule: str | None = None,
    slot: KeySlot = KeySlot.PRIMARY,
    registry: Registry | None = None,
    key_file: Path | None = None,
    local_name: LocalNameChoice = None,
    valid_years: float = DEFAULT_VALID_YEARS,
    now: float,
) -> Identity:
    """Write another connection string, with a new identity.

    Args:
        name: the hybrid connection.
        role: the side that the connection string is for.
        label: the identity's name in the connector's audit log.
        authority_path: the authority file of the hybrid connection.
        out: the file to be written, which must not exist.
        rule: the rule whose key the connection string contains. None means the rule that the authority file has for
            `role`; for another rule, `registry` or `key_file` is needed.
        slot: which of the rule's two keys the connection string contains. Ignored if the key comes from `key_file`.
        registry: the relay's registry, from which the key is taken.
        key_file: a file that contains nothing but the key. Ignored if there is a `registry`. Without both, the key is
            taken from the authority file.
        local_name: for an application: its local name, if it is not to be the one in the authority file.
        valid_years: how long the identity is valid.
        now: seconds since 1970.

    Returns:
        The identity.

    Raises:
        ConfigurationError: the authority file is damaged, expired, or that of another hybrid connection; there is no
            such key, or it does not give the right that `role` needs; or `out` exists.
        OSError: `out` cannot be written; the error names it.
    """
    check_new_files([out])
    string = make_connection_string(
        name,
        role,
        label,
        authority_path=authority_path,
        rule=rule,
        slot=slot,
        registry=registry,
        key_file=key_file,
        local_name=local_name,
        valid_years=valid_years,
        now=now,
    )
    with new_files({out: string.format() + "\n"}):
        pass
    identity, _ = string.require_identity()
    return identity


def make_connection_string(
    name: str,
    role: Role,
    label: str,
    *,
    authority_path: Path,
    rule: str | None = None,
    slot: KeySlot | None = KeySlot.PRIMARY,
    registry: Registry | None = None,
    key_file: Path | None = None,
    local_name: LocalNameChoice = None,
    valid_years: float = DEFAULT_VALID_YEARS,
    has_identity: bool = True,
    now: float,
) -> ConnectionString:
    """Make another connection string, with a new identity, in memory.

    Arguments and errors are those of `issue_connection_string`. In addition, `slot` may be None if there is a
    `registry`: this means the new key, if the key of the rule is being rolled; otherwise the primary one, or the only
    one. Without `has_identity`, no identity is issued, and the connection string has none.
    """
    if role is Role.CONNECTOR and local_name is not None:
        raise ConfigurationError(
            "a local name is for applications", remedy="leave out --local-name, or issue it for --role application"
        )
    authority_file = read_authority_file(authority_path, name)
    with naming(authority_path):
        usual = rule_of(authority_file, role)
    known = None
    if registry is not None:
        known = registry.rule_with_keys(name, rule or usual.name)
        _check_right(known, role)
        if slot is None:
            roll = registry.roll(name, known.name)
            usable = KeySlot.PRIMARY if known.primary is not None else KeySlot.SECONDARY
            slot = usable if roll is None else roll.slot
    elif key_file is not None:
        known, slot = Rule(rule or usual.name, usual.rights, primary=read_key(key_file)), KeySlot.PRIMARY
    elif rule is not None and rule != usual.name:
        raise ConfigurationError(
            f"{authority_path} has no key of rule {rule}",
            remedy="take the key from the relay with --state or --management, or from a file with --key-file",
        )
    with naming(authority_path):
        slot = KeySlot.PRIMARY if slot is None else slot
        string = issue_string(
            authority_file,
            role,
            label,
            now=now,
            valid_years=valid_years,
            slot=slot,
            known=known,
            local_name=local_name,
            has_identity=has_identity,
        )
        # The authority file has what was pushed last, so the program has nothing to learn from that update.
        return attrs.evolve(string, update_sequence=pushed_sequence(authority_file, role))


def _check_right(rule: Rule, role: Role) -> None:
    right = RIGHTS[role]
    if not rule.allows(right):
        raise ConfigurationError(
            f"rule {rule.name} does not have the right {right}, which the {role} needs",
            remedy="name another rule, or give this one the right with: hybridrelay rules set",
        )
