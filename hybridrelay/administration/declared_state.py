"""The state of the hybrid connections that a file declares: finding it out, and making one change of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ..security import AuthorityFile, Right, Role
from ..security.loading import naming
from .authority_content import RIGHTS, issuer_of, rule_of
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
from .declared import (
    RENEW_ISSUER_DAYS,
    AddRule,
    Change,
    ChangeLocalName,
    ChangeRelays,
    ChangeTarget,
    Create,
    Declared,
    Delete,
    DeleteRule,
    Found,
    FoundIssuer,
    GiveIssuer,
    Import,
    Issue,
    RenewKey,
)
from .declared_files import Files
from .files_with_keys import read_file_with_keys
from .issuers import has_issuer, make_issuer
from .keys import KeySource, key_in_use, use_key
from .local_names import change_local_name
from .registry import ConnectionInfo, Registry
from .relays import change_relays
from .rules import delete_rule, set_rule
from .targets import change_target

__all__ = ["advice_after", "find_state", "make_change", "update_config"]


def find_state(declared: Sequence[Declared], directory: Path, registry: Registry, *, now: float) -> dict[str, Found]:
    """Read the current state of every hybrid connection that is declared, or that the relay has and whose authority
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
        OutcomeUnknown: the relay gave no usable answer. It may have made the change.
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
    """Return how a change reaches programs that do not run with the files of the directory; empty if there is nothing
    to say about that."""
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
        deletes: whether to remove the tables of hybrid connections that are no longer declared, and whose files
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
