"""``hybridrelay connections apply``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..._toml_files import TomlFile, read_toml
from ...administration import (
    Application,
    Declared,
    advice_after,
    find_state,
    is_deletion,
    make_change,
    plan_changes,
    update_config,
)
from ...errors import ConfigurationError
from .. import exits, output
from ..config_file import read_table
from ..policy_denials import refuse_denied
from ..relay_access import open_registry

_MAX_FILE = 1 << 20


def run_apply(args: argparse.Namespace) -> int:
    """Bring hybrid connections into the declared state."""
    file = read_toml(args.file, what="the file with the declarations", limit=_MAX_FILE)
    content = dict(file.content)
    tables = content.pop("connection", [])
    general = read_table(args.keys, content, file, ())
    declared = list(_read_connections(args, tables, general, file))
    pins, ports = general.relay_pin, general.public_ports
    for one in declared:
        refuse_denied(one.name, one.target, one.hosts, pins or (), where=one.where)
    if not args.dry_run:
        args.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        (args.out / "strings").mkdir(mode=0o700, exist_ok=True)
    with open_registry(args, create=not args.dry_run) as registry:
        changes = plan_changes(declared, find_state(declared, args.out, registry, now=time.time()))
        left = [change for change in changes if is_deletion(change) and not args.delete]
        to_make = [change for change in changes if change not in left]
        for number, change in enumerate(to_make):
            if args.dry_run:
                output.say(f"would {change}")
                continue
            try:
                make_change(
                    change, args.out, registry, pins=pins, ports=ports, now=time.time(),
                    before_change=args.signals.hold,
                )  # fmt: skip
            except ConfigurationError as exc:
                raise ConfigurationError(
                    f"cannot {change}: {exc}" + (f" (changes made before: {number})" if number else ""),
                    remedy=exc.remedy or "correct this, and run the command again",
                ) from exc
            output.say(f"done: {change}")
            if advice := advice_after(change, args.out):
                output.say(f"  {advice}")
    for change in left:
        output.say(f"not done without --delete: {change}")
    has_updated = not args.dry_run and _update_config(args, declared)
    if not to_make:
        all_of_them = "1 hybrid connection is" if len(declared) == 1 else f"{len(declared)} hybrid connections are"
        output.say(f"{all_of_them} as declared" + ("" if has_updated else ": nothing was changed"))
    return exits.OK


def _update_config(args: argparse.Namespace, declared: list[Declared]) -> bool:
    """Bring the configuration file into the declared state. Returns whether it was changed."""
    path, change = update_config([one.name for one in declared], args.out, deletes=args.delete)
    for file in change.removed:
        output.say(f"removed the table of {file} from {path}")
    if change.added:
        output.say(f"added to {path}: {', '.join(change.added)}")
    if change.added or change.removed:
        output.say(f"Copy {path} and {args.out / 'strings'} to the connector, for 'connector --config'.")
    return bool(change.added or change.removed)


def _read_connections(
    args: argparse.Namespace, tables: Any, general: argparse.Namespace, file: TomlFile
) -> Iterator[Declared]:
    for number, table in _tables(tables, file, ("connection",)):
        place = ("connection", number)
        where = file.at(*place)
        keys = dict(table)
        applications = keys.pop("application", [])
        found = read_table(args.connection_keys, keys, file, place)
        endpoints = found.endpoints or general.endpoints
        for key, value in (("name", found.name), ("target", found.target), ("endpoint", endpoints or None)):
            if value is None:
                raise ConfigurationError(f"{where}: {key} is missing")
        yield Declared(
            found.name,
            found.target,
            tuple(endpoints),
            tuple(_read_applications(args, applications, file, (*place, "application"))),
            found.local_name,
            found.issuer,
            where,
        )


def _read_applications(
    args: argparse.Namespace, tables: Any, file: TomlFile, place: tuple[str | int, ...]
) -> Iterator[Application]:
    labels: set[str] = set()
    for number, table in _tables(tables, file, place):
        where = file.at(*place, number)
        found = read_table(args.application_keys, table, file, (*place, number))
        if found.label is None:
            raise ConfigurationError(f"{where}: label is missing")
        if found.label in labels:
            raise ConfigurationError(f"{where}: the label {found.label} occurs twice")
        labels.add(found.label)
        yield Application(found.label, found.rule, found.by_claim)


def _tables(tables: Any, file: TomlFile, place: tuple[str | int, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        name = ".".join(part for part in place if isinstance(part, str))
        raise ConfigurationError(f"{file.at(*place)}: write [[{name}]], in two pairs of brackets")
    yield from enumerate(tables)
