"""Bringing hybrid connections into the state that a file declares: many of them at once, and repeatedly.

`plan_changes` decides what to do, and is pure. `find_state` reads what there is, and `make_change` makes one change.
The files of the hybrid connections are in one directory. A hybrid connection that has an authority file there is
managed by the declaration.
"""

# This module is long because every kind of change is a class, and is planned and made here.

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from ..errors import ConfigurationError
from ..security import AuthorityFile, HostTarget, KeySlot, LocalNameChoice, Right, Role, Target, choose_local_name
from ..security.loading import naming
from .authority_content import RIGHTS, issuer_of, local_name_of, relays_of, rule_of, target_of
from .changes import nothing
from .connections import (
    NewFiles,
    create_connection,
    delete_connection,
    import_connection,
    issue_connection_string,
    read_authority_file,
    read_relay_record,
)
from .connector_config import ConfigChange, update_connector_config
from .declared_files import Files
from .files_with_keys import read_file_with_keys
from .issuers import has_issuer, make_issuer
from .keys import KeySource, key_in_use, use_key
from .local_names import change_local_name
from .registry import ConnectionInfo, Registry
from .relays import change_relays
from .rules import delete_rule, set_rule
from .targets import change_target

__all__ = [
    "Application",
    "Change",
    "Declared",
    "Found",
    "advice_after",
    "find_state",
    "is_deletion",
    "make_change",
    "plan_changes",
    "update_config",
]

#: The rules that every hybrid connection has.
_USUAL_RULES = frozenset(role.value for role in RIGHTS)
#: How long before it expires an issuer is replaced (days). This is when connectors first report that it expires soon.
RENEW_ISSUER_DAYS = 60


@attrs.frozen
class Application:
    """A further application of a hybrid connection, with a connection string of its own."""

    #: The label of its identity.
    label: str
    #: The rule whose key it uses; None means the usual one of applications.
    rule: str | None = None
    #: Whether its machine gets the connection string by a claim, so that none is issued into the directory.
    by_claim: bool = False


@attrs.frozen
class Declared:
    """A hybrid connection as the file declares it."""

    name: str
    target: Target
    #: The hosts of its relays, in order of preference.
    hosts: tuple[str, ...]
    applications: tuple[Application, ...] = ()
    #: The local name of applications. None: a new hybrid connection gets that of the target, and an existing one
    #: keeps what it has.
    local_name: LocalNameChoice = None
    #: Whether its connector has an issuer. None: a new hybrid connection gets none, and an existing one keeps what it
    #: has.
    issuer: bool | None = None
    #: Where it is in the file, for messages.
    where: str = attrs.field(default="", eq=False)


@attrs.frozen
class Found:
    """What there is of a hybrid connection."""

    #: What the relay has; None if it does not have it.
    info: ConnectionInfo | None = None
    #: Its authority file; None if there is none in the directory.
    authority: AuthorityFile | None = None
    #: Whether the directory has a file for further relays to import.
    has_relay_file: bool = False
    #: The further applications that have a connection string in the directory: for each label, the rule whose key it
    #: has.
    rules: Mapping[str, str] = attrs.field(factory=dict)
    #: What has to be done about files whose keys the relay no longer accepts.
    renewals: tuple[RenewKey, ...] = ()
    #: Its issuer, if it has one.
    issuer: FoundIssuer | None = None


@attrs.frozen
class FoundIssuer:
    """The issuer in an authority file."""

    #: Whether it expires within `RENEW_ISSUER_DAYS`, or has expired.
    expires_soon: bool = False
    #: Whether the connector's connection string in the directory lacks an issuer.
    is_missing: bool = False


# --- changes


@attrs.frozen
class Create:
    """Create a hybrid connection."""

    declared: Declared

    def __str__(self) -> str:
        one = self.declared
        issuer = ", with an issuer" if one.issuer else ""
        return f"create {one.name}: target {one.target}, relays {', '.join(one.hosts)}{issuer}"


@attrs.frozen
class Import:
    """Import a hybrid connection at a further relay."""

    name: str

    def __str__(self) -> str:
        return f"import {self.name} at this relay"


@attrs.frozen
class ChangeTarget:
    """Change the target."""

    name: str
    before: Target
    after: Target

    def __str__(self) -> str:
        return f"change the target of {self.name} from {self.before} to {self.after}"


@attrs.frozen
class ChangeLocalName:
    """Change the local name."""

    name: str
    after: HostTarget | None

    def __str__(self) -> str:
        return f"change the local name of {self.name} to {self.after or 'none'}"


@attrs.frozen
class RenewKey:
    """Write a valid key into files that contain only keys which the relay no longer accepts."""

    name: str
    rule: str
    slot: KeySlot
    files: tuple[Path, ...]

    def __str__(self) -> str:
        names = ", ".join(path.name for path in self.files)
        return f"write the {self.slot} key of rule {self.rule} of {self.name} into {names}"


@attrs.frozen
class GiveIssuer:
    """Give the connector an issuer, or a new one. Identities that an earlier one has made stay valid."""

    name: str
    #: Whether this is because its present issuer expires soon.
    expires_soon: bool = False

    def __str__(self) -> str:
        if self.expires_soon:
            return f"give {self.name} a new issuer, because its issuer expires in less than {RENEW_ISSUER_DAYS} days"
        return f"give {self.name} an issuer"


@attrs.frozen
class ChangeRelays:
    """Change which relays serve it."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        return f"change the relays of {self.name} from {', '.join(self.before)} to {', '.join(self.after)}"


@attrs.frozen
class AddRule:
    """Add a rule with the right Send."""

    name: str
    rule: str

    def __str__(self) -> str:
        return f"add rule {self.rule} to {self.name}"


@attrs.frozen
class Issue:
    """Issue a connection string for a further application."""

    name: str
    application: Application

    def __str__(self) -> str:
        return f"issue a connection string of {self.name} with the label {self.application.label}"


@attrs.frozen
class DeleteRule:
    """Delete a rule that is not declared. Everything that uses its keys ends."""

    name: str
    rule: str

    def __str__(self) -> str:
        return f"delete rule {self.rule} of {self.name}"


@attrs.frozen
class Delete:
    """Delete a hybrid connection that is not declared. Everything that uses it ends."""

    name: str

    def __str__(self) -> str:
        return f"delete {self.name}"


Change: TypeAlias = (
    Create
    | Import
    | RenewKey
    | ChangeTarget
    | ChangeLocalName
    | GiveIssuer
    | ChangeRelays
    | AddRule
    | Issue
    | DeleteRule
    | Delete
)


def is_deletion(change: Change) -> bool:
    """Return whether a change deletes something, which it does only if the administrator says so."""
    return isinstance(change, Delete | DeleteRule)


def plan_changes(declared: Sequence[Declared], found: Mapping[str, Found]) -> tuple[Change, ...]:
    """Decide what to do. Pure.

    Args:
        declared: the hybrid connections in the file.
        found: what there is, by name: of everything that is declared, and of everything that is managed by the
            directory.

    Returns:
        The changes in the order in which to make them. Deletions come last; the caller decides whether to make them.

    Raises:
        ConfigurationError: two have the same name, the relay has one whose authority file is not in the directory,
            the relay lacks one whose relay file is not in the directory, an application has a connection string with
            another rule, or one is declared to have no issuer, and has one. The message says where it is declared.
    """
    changes: list[Change] = []
    deletions: list[Change] = []
    names: set[str] = set()
    for one in declared:
        if one.name in names:
            raise ConfigurationError(f"{one.where}: {one.name} is declared twice", remedy="leave one of them out")
        names.add(one.name)
        changes += _changes_of(one, found[one.name])
        deletions += _undeclared_rules(one, found[one.name])
    deletions += [Delete(name) for name, one in found.items() if name not in names and one.info is not None]
    return (*changes, *deletions)


def _changes_of(one: Declared, found: Found) -> Iterable[Change]:
    if found.authority is None:
        if found.info is not None:
            raise ConfigurationError(
                f"{one.where}: the relay has a hybrid connection {one.name}, whose authority file is not in the "
                "directory",
                remedy=f"put its files there, named as for a new one ({Files.base_of(one.name)}.authority ...), or "
                "choose another name",
            )
        yield Create(one)
    else:
        if found.info is None:
            if not found.has_relay_file:
                raise ConfigurationError(
                    f"{one.where}: there is an authority file for {one.name}, but the relay has no such hybrid "
                    "connection, and there is no relay file to import",
                    remedy="if an earlier run was interrupted, or the hybrid connection was deleted, move its files "
                    "away, and run the command again",
                )
            yield Import(one.name)
        yield from found.renewals
        if (target := target_of(found.authority)) != one.target:
            yield ChangeTarget(one.name, target, one.target)
        local_name = local_name_of(found.authority)
        if (wanted := choose_local_name(one.local_name, local_name)) != local_name:
            yield ChangeLocalName(one.name, wanted)
        yield from _changes_of_issuer(one, found.issuer)
        endpoints, _ = relays_of(found.authority)
        before = tuple(endpoint.host for endpoint in endpoints)
        if before != one.hosts or (found.info is not None and found.info.hosts != one.hosts):
            yield ChangeRelays(one.name, before, one.hosts)
    added: set[str] = set()
    for application in one.applications:
        rule = application.rule
        known = None if rule is None or found.info is None else found.info.find_rule(rule)
        if rule is not None and rule not in _USUAL_RULES and rule not in added and known is None:
            added.add(rule)
            yield AddRule(one.name, rule)
        right = rule or _usual_rule(found)
        used = found.rules.get(application.label, right)
        if application.label not in found.rules:
            if not application.by_claim:
                yield Issue(one.name, application)
        elif used != right:
            file = Files(Path(), one.name).application(application.label)
            raise ConfigurationError(
                f"{one.where}: the connection string of {one.name} with the label {application.label} has the key of "
                f"rule {used}, and not of rule {right}",
                remedy=f"to have another one issued, move {file} away, run the command again, and give the "
                "application its new connection string before the earlier rule is deleted",
            )


def _changes_of_issuer(one: Declared, found: FoundIssuer | None) -> Iterable[Change]:
    if one.issuer is False and found is not None:
        raise ConfigurationError(
            f"{one.where}: {one.name} has an issuer, which cannot be taken away: connectors would no longer accept "
            "the identities that it has made",
            remedy="leave out 'issuer = false'",
        )
    if one.issuer and (found is None or found.expires_soon or found.is_missing):
        yield GiveIssuer(one.name, expires_soon=found is not None and found.expires_soon)


def _usual_rule(found: Found) -> str:
    return Role.APPLICATION.value if found.authority is None else rule_of(found.authority, Role.APPLICATION).name


def _undeclared_rules(one: Declared, found: Found) -> Iterable[Change]:
    if found.info is None:
        return
    declared = _USUAL_RULES | {application.rule for application in one.applications}
    for rule in found.info.rules:
        if rule.name not in declared:
            yield DeleteRule(one.name, rule.name)


# --- the directory


def find_state(declared: Sequence[Declared], directory: Path, registry: Registry, *, now: float) -> dict[str, Found]:
    """Read the present state of every hybrid connection that is declared, or that the relay has and whose authority
    file is in the directory.

    Args:
        declared: the hybrid connections in the file.
        directory: where the files are.
        registry: the relay's registry.
        now: seconds since 1970.

    Raises:
        ConfigurationError: a file cannot be read, or is not what its name says.
        HybridRelayError: the relay does not answer.
    """
    by_name = {one.name: one for one in registry.connections()}
    applications = {one.name: one.applications for one in declared}
    managed = {name for name in by_name if Files(directory, name).authority.exists()}
    found = {}
    for name in dict.fromkeys((*applications, *sorted(managed))):
        files = Files(directory, name)
        info = by_name.get(name)
        authority = read_authority_file(files.authority, name) if files.authority.exists() else None
        found[name] = Found(
            info,
            authority,
            files.relay.exists(),
            {
                one.label: read_file_with_keys(path, "").rule
                for one in applications.get(name, ())
                if (path := files.application(one.label)).exists()
            },
            _renewals(files, info, authority) if info is not None and authority is not None else (),
            None if authority is None else _find_issuer(files, authority, now),
        )
    return found


def _find_issuer(files: Files, authority: AuthorityFile, now: float) -> FoundIssuer | None:
    with naming(files.authority):
        issuer = issuer_of(authority)
        if issuer is None:
            return None
        expires_soon = issuer.not_after - now < RENEW_ISSUER_DAYS * 86_400
    return FoundIssuer(expires_soon, files.connector.exists() and not has_issuer(files.connector, files.name))


def _renewals(files: Files, info: ConnectionInfo, authority: AuthorityFile) -> tuple[RenewKey, ...]:
    """Return what to do about files of a hybrid connection whose keys were replaced, for example by `keys roll`."""
    if len(info.hosts) > 1:
        return ()  # another relay may have got the new key before this one
    found = [read_file_with_keys(path, "") for path in files.existing_strings()]
    found += [read_file_with_keys(files.authority, rule_of(authority, role).name) for role in RIGHTS]
    invalid: dict[str, list[Path]] = {}
    for file in found:
        rule = info.find_rule(file.rule)
        if rule is not None and rule.valid_keys and not file.fingerprints & set(rule.fingerprints.values()):
            invalid.setdefault(rule.name, []).append(file.path)
    return tuple(
        RenewKey(files.name, rule, key_in_use(info.rule(rule)), tuple(paths)) for rule, paths in invalid.items()
    )


def make_change(
    change: Change,
    directory: Path,
    registry: Registry,
    *,
    pins: Sequence[str] = (),
    ports: Sequence[Mapping[str, int | None]] = (),
    now: float,
    before_change: Callable[[], None] = nothing,
) -> None:
    """Make one change.

    Args:
        change: from `plan_changes`.
        directory: where the files are.
        registry: the relay's registry.
        pins: the pins of the relays, if there are several.
        ports: the ports of the relays that differ from the defaults; see `create_connection`.
        now: seconds since 1970.
        before_change: see `change_with_files`.

    Raises:
        IncompleteChange: it was made, but not every file was updated.
        HybridRelayError: it cannot be made. Nothing was changed, except that a hybrid connection for several relays
            may already have its files, and is not imported at this relay yet.
        OSError: a file cannot be written; the error names it.
    """
    files = Files(directory, change.declared.name if isinstance(change, Create) else change.name)
    match change:
        case Create(declared):
            several = len(declared.hosts) > 1
            create_connection(
                declared.name,
                target=declared.target,
                local_name=declared.local_name,
                hosts=declared.hosts,
                files=NewFiles(
                    files.connector, files.application(), files.authority, files.relay if several else None
                ),
                registry=None if several else registry,
                pins=pins,
                ports=ports,
                has_issuer=declared.issuer is True,
                now=now,
                before_change=before_change,
            )
            if several:
                _import(files, registry, before_change)
        case Import():
            _import(files, registry, before_change)
        case RenewKey(name, rule, slot, paths):
            used = use_key(
                lambda: KeySource.of_registry(registry, name, rule, slot),
                name,
                rule,
                update=paths,
                before_change=before_change,
            )
            _complete(used.incomplete)
        case ChangeTarget(name, _, after):
            update = [files.authority, *([files.connector] if files.connector.exists() else [])]
            _complete(change_target(name, after, update, before_change=before_change).incomplete)
        case ChangeLocalName(name, local_name):
            update = [files.authority, *files.applications()]
            _complete(change_local_name(name, local_name, update, before_change=before_change).incomplete)
        case GiveIssuer(name):
            connectors = [files.connector] if files.connector.exists() else []
            made = make_issuer(name, files.authority, connectors, now=now, before_change=before_change)
            _complete(made.written.incomplete)
        case ChangeRelays(name, _, after):
            done = change_relays(
                name,
                after,
                registry=registry,
                relay_file=None if files.relay.exists() else files.relay,
                update=[*files.existing_strings(), files.authority],
                pins=tuple(pins) or None,
                ports=ports or None,
                before_change=before_change,
            )
            _complete(done.incomplete)
        case AddRule(name, rule):
            set_rule(registry, name, rule, [Right.SEND], before_change=before_change)
        case Issue(name, application):
            issue_connection_string(
                name,
                Role.APPLICATION,
                application.label,
                authority_path=files.authority,
                out=files.application(application.label),
                rule=application.rule,
                registry=registry,
                now=now,
            )
        case DeleteRule(name, rule):
            delete_rule(registry, name, rule, before_change=before_change)
        case Delete(name):
            delete_connection(registry, name, before_change=before_change)


def advice_after(change: Change, directory: Path) -> str:
    """Return how a change reaches programs that do not run with the files of the directory; empty if this is not
    necessary."""
    match change:
        case GiveIssuer(name):
            return f"copy the connection string to connectors that run elsewhere: {Files(directory, name).connector}"
        case ChangeTarget(name, _, target):
            options = f"--target {target}"
        case ChangeRelays(name, _, hosts):
            options = " ".join(f"--endpoint {host} --relay-pin PIN" for host in hosts)
        case _:
            return ""
    command = f"hybridrelay updates push {name} {options} --authority-file {Files(directory, name).authority}"
    return f"in programs that do not run with these files: {command}"


def _complete(incomplete: Exception | None) -> None:
    if incomplete is not None:
        raise incomplete


def _import(files: Files, registry: Registry, before_change: Callable[[], None]) -> None:
    import_connection(
        registry,
        read_relay_record(files.relay),
        source=str(files.relay),
        remedy="choose another name, or delete the one at the relay",
        before_change=before_change,
    )


def update_config(names: Collection[str], directory: Path, *, deletes: bool) -> tuple[Path, ConfigChange]:
    """Add a table to ``connector.toml``, for ``connector --config``, for each hybrid connection that has none yet.

    Args:
        names: the hybrid connections that are declared.
        directory: where the files are.
        deletes: whether to remove the tables of hybrid connections that are not declared any more, and whose files
            are in the directory.

    Returns:
        The file, and what was changed in it.

    Raises:
        ConfigurationError, OSError: see `update_connector_config`.
    """
    path = directory / "connector.toml"
    files = [Files(directory, name).connector.relative_to(directory).as_posix() for name in names]
    known = {f"{one.stem}.connector" for one in directory.glob("*.authority")} if deletes else set()
    gone = known - {Path(file).name for file in files}
    return path, update_connector_config(path, files, gone.__contains__)
