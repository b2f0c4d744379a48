"""What a file declares about hybrid connections, and the changes that bring them into this state. Pure.

`declared_state.py` finds out what there is, and makes the changes. The files of the hybrid connections are in one
directory. A hybrid connection that has an authority file there is managed by the declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from .._value import Value
from ..errors import ConfigurationError
from ..security import AuthorityFile, HostTarget, KeySlot, LocalNameChoice, Role, Target, choose_local_name
from .authority_content import RIGHTS, local_name_of, relays_of, rule_of, target_of
from .declared_files import Files
from .registry import ConnectionInfo

__all__ = [
    "RENEW_ISSUER_DAYS",
    "AddRule",
    "Application",
    "Change",
    "ChangeLocalName",
    "ChangeRelays",
    "ChangeTarget",
    "Create",
    "Declared",
    "Delete",
    "DeleteRule",
    "Found",
    "FoundIssuer",
    "GiveIssuer",
    "Import",
    "Issue",
    "RenewKey",
    "is_deletion",
    "plan_changes",
]

#: The rules that every hybrid connection has.
_USUAL_RULES = frozenset(role.value for role in RIGHTS)
#: How long before it expires an issuer is replaced (days). This is when connectors first report that it expires soon.
RENEW_ISSUER_DAYS = 60


@attrs.frozen
class Application(Value):
    """A further application of a hybrid connection, with a connection string of its own."""

    #: The label of its identity.
    label: str
    #: The rule whose key it uses; None means the usual one of applications.
    rule: str | None = None
    #: Whether its machine gets the connection string by a claim, so that none is issued into the directory.
    by_claim: bool = False


@attrs.frozen
class Declared(Value):
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
class Found(Value):
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
class FoundIssuer(Value):
    """The issuer in an authority file."""

    #: Whether it expires within `RENEW_ISSUER_DAYS`, or has expired.
    expires_soon: bool = False
    #: Whether the connector's connection string in the directory lacks an issuer.
    is_missing: bool = False


# --- changes


@attrs.frozen
class Create(Value):
    """Create a hybrid connection."""

    declared: Declared

    def __str__(self) -> str:
        one = self.declared
        issuer = ", with an issuer" if one.issuer else ""
        return f"create {one.name}: target {one.target}, relays {', '.join(one.hosts)}{issuer}"


@attrs.frozen
class Import(Value):
    """Import a hybrid connection at a further relay."""

    name: str

    def __str__(self) -> str:
        return f"import {self.name} at this relay"


@attrs.frozen
class ChangeTarget(Value):
    """Change the target."""

    name: str
    before: Target
    after: Target

    def __str__(self) -> str:
        return f"change the target of {self.name} from {self.before} to {self.after}"


@attrs.frozen
class ChangeLocalName(Value):
    """Change the local name."""

    name: str
    after: HostTarget | None

    def __str__(self) -> str:
        return f"change the local name of {self.name} to {self.after or 'none'}"


@attrs.frozen
class RenewKey(Value):
    """Write a valid key into files that contain only keys which the relay no longer accepts."""

    name: str
    rule: str
    slot: KeySlot
    files: tuple[Path, ...]

    def __str__(self) -> str:
        names = ", ".join(path.name for path in self.files)
        return f"write the {self.slot} key of rule {self.rule} of {self.name} into {names}"


@attrs.frozen
class GiveIssuer(Value):
    """Give the connector an issuer, or a new one. Identities that an earlier one has made stay valid."""

    name: str
    #: Whether this is because its current issuer expires soon.
    expires_soon: bool = False

    def __str__(self) -> str:
        if self.expires_soon:
            return f"give {self.name} a new issuer, because its issuer expires in less than {RENEW_ISSUER_DAYS} days"
        return f"give {self.name} an issuer"


@attrs.frozen
class ChangeRelays(Value):
    """Change which relays serve it."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        return f"change the relays of {self.name} from {', '.join(self.before)} to {', '.join(self.after)}"


@attrs.frozen
class AddRule(Value):
    """Add a rule with the right Send."""

    name: str
    rule: str

    def __str__(self) -> str:
        return f"add rule {self.rule} to {self.name}"


@attrs.frozen
class Issue(Value):
    """Issue a connection string for a further application."""

    name: str
    application: Application

    def __str__(self) -> str:
        return f"issue a connection string of {self.name} with the label {self.application.label}"


@attrs.frozen
class DeleteRule(Value):
    """Delete a rule that is not declared. Everything that uses its keys ends."""

    name: str
    rule: str

    def __str__(self) -> str:
        return f"delete rule {self.rule} of {self.name}"


@attrs.frozen
class Delete(Value):
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
