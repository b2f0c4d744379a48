"""``hybridrelay connections limits`` and ``hybridrelay editions``."""

from __future__ import annotations

import argparse

import attrs
import msgspec

from ...administration import change_edition, change_limits, use_edition
from ...management.values import LimitsBody
from ...relay.quotas import Edition, Editions, Limits
from .. import exits, output
from ..relay_access import open_registry
from ..status_text import size

_COUNTS = ("listeners", "senders", "sessions")
_SIZES = ("bytes_per_month", "bytes_per_second")


def run_limits(args: argparse.Namespace) -> int:
    """Show the limits of a hybrid connection, or set some."""
    edition = "" if args.edition == "none" else args.edition
    with open_registry(args) as registry:
        found = change_limits(registry, args.name, _changes(args), edition=edition, before_change=args.signals.hold)
    quota, in_force = found.quota, found.in_force
    if args.json:
        both = {"limits": _as_dict(quota.limits), "inForce": _as_dict(in_force)}
        output.say_json({"name": args.name, "edition": quota.edition or None, **both})
        return exits.OK
    output.say(f"{args.name}: edition {quota.edition or 'none'}")
    own = attrs.asdict(quota.limits)
    rows = [
        (
            name.replace("_", " "),
            _text(name, value),
            "" if value is None else "its own" if own[name] is not None else "",
        )
        for name, value in attrs.asdict(in_force).items()
    ]
    output.say(output.table(("LIMIT", "IN FORCE", ""), rows))
    return exits.OK


def run_list(args: argparse.Namespace) -> int:
    """List the editions."""
    with open_registry(args) as registry:
        editions = registry.editions()
    if args.json:
        output.say_json([_edition_as_dict(one, editions) for one in editions.by_name.values()])
        return exits.OK
    heads = ("EDITION", "CONNECTIONS", "BYTES PER MONTH", "OTHER LIMITS")
    output.say(output.table(heads, [_row(one, editions) for one in editions.by_name.values()]))
    return exits.OK


def run_use(args: argparse.Namespace) -> int:
    """Choose the edition of the relay."""
    with open_registry(args) as registry:
        name = "" if args.edition == "none" else args.edition
        now = use_edition(registry, name, before_change=args.signals.hold)
    edition = now.edition
    if edition is None:
        output.say("The relay uses no edition, so nothing is limited for the relay as a whole.")
        return exits.OK
    allowed = "any number of" if edition.connections is None else str(edition.connections)
    output.say(
        f"The relay uses the edition {edition.name}: {allowed} hybrid connections (now {now.connections}), "
        f"{_text('bytes_per_month', edition.limits.bytes_per_month)} per month."
    )
    return exits.OK


def run_set(args: argparse.Namespace) -> int:
    """Change the limits of an edition."""
    with open_registry(args) as registry:
        changed, editions = change_edition(
            registry,
            args.edition,
            _changes(args),
            connections=lambda before: before if args.connections is None else args.connections or None,
            before_change=args.signals.hold,
        )
    heads = ("EDITION", "CONNECTIONS", "BYTES PER MONTH", "OTHER LIMITS")
    output.say(output.table(heads, [_row(changed, editions)]))
    return exits.OK


def _changes(args: argparse.Namespace) -> dict[str, int | bool | None]:
    """Return the limits that the options set. An option that was given as ``none`` has the value 0."""
    given: dict[str, int | bool | None] = {
        name: getattr(args, name) or None for name in (*_COUNTS, *_SIZES) if getattr(args, name) is not None
    }
    if args.end_at_limit is not None:
        given["end_at_limit"] = {"yes": True, "no": False, "none": None}[args.end_at_limit]
    return given


def _row(edition: Edition, editions: Editions) -> tuple[str, ...]:
    others = [
        f"{name.replace('_', ' ')} {_text(name, value)}"
        for name, value in attrs.asdict(edition.limits).items()
        if value is not None and name != "bytes_per_month"
    ]
    return (
        edition.name + (" (in use)" if edition.name == editions.in_use else ""),
        "unlimited" if edition.connections is None else str(edition.connections),
        _text("bytes_per_month", edition.limits.bytes_per_month),
        ", ".join(others),
    )


def _text(name: str, value: int | bool | None) -> str:
    if value is None:
        return "unlimited"
    if name in _SIZES:
        return size(value)
    return ("yes" if value else "no") if name == "end_at_limit" else str(value)


def _edition_as_dict(edition: Edition, editions: Editions) -> dict[str, object]:
    return {
        "name": edition.name,
        "connections": edition.connections,
        "limits": _as_dict(edition.limits),
        "inUse": edition.name == editions.in_use,
    }


def _as_dict(limits: Limits) -> object:
    """Convert limits to the JSON of the management API."""
    return msgspec.to_builtins(LimitsBody.of(limits))
