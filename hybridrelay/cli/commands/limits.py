"""``hybridrelay connections limits`` and ``hybridrelay editions``."""

from __future__ import annotations

import argparse

import attrs
import msgspec

from ...errors import ConfigurationError
from ...management.values import LimitsBody
from ...relay.quotas import Edition, Editions, Limits, Quota
from ...relay.store.checks import check_edition
from .. import exits, output
from ..relay_access import open_registry
from ..status_text import size

_COUNTS = ("listeners", "senders", "sessions")
_SIZES = ("bytes_per_period", "bytes_per_second")


def run_limits(args: argparse.Namespace) -> int:
    """Show the limits of a hybrid connection, or set some."""
    with open_registry(args) as registry:
        connection = registry.connection(args.name)
        before = connection.quota
        edition = before.edition if args.edition is None else "" if args.edition == "none" else args.edition
        quota = Quota(edition, _changed(before.limits, args))
        if quota != before:
            args.signals.hold()
            registry.change(connection, quota=quota)
        editions = registry.editions()
    in_force = editions.limits(quota)
    if args.json:
        both = {"limits": _as_dict(quota.limits), "inForce": _as_dict(in_force)}
        output.say_json({"name": args.name, "edition": quota.edition or None, **both})
        return exits.OK
    output.say(f"{args.name}: edition {quota.edition or 'none'}")
    own = attrs.asdict(quota.limits)
    rows = [
        (name.replace("_", " "), _text(name, value), "" if value is None else "its own" if own[name] else "")
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
    heads = ("EDITION", "CONNECTIONS", "BYTES PER PERIOD", "OTHER LIMITS")
    output.say(output.table(heads, [_row(one, editions) for one in editions.by_name.values()]))
    return exits.OK


def run_use(args: argparse.Namespace) -> int:
    """Choose the edition of the relay."""
    name = "" if args.edition == "none" else args.edition
    with open_registry(args) as registry:
        args.signals.hold()
        registry.use_edition(name)
        edition = registry.editions().of_relay
        count = len(registry.connections())
    if edition is None:
        output.say("The relay uses no edition, so nothing is limited for the relay as a whole.")
        return exits.OK
    allowed = "any number of" if edition.connections is None else str(edition.connections)
    output.say(
        f"The relay uses the edition {edition.name}: {allowed} hybrid connections (now {count}), "
        f"{_text('bytes_per_period', edition.limits.bytes_per_period)} per month."
    )
    return exits.OK


def run_set(args: argparse.Namespace) -> int:
    """Change the limits of an edition."""
    with open_registry(args) as registry:
        editions = registry.editions()
        check_edition(editions, args.edition)
        known = editions.by_name[args.edition]
        limits, connections = _changed(known.limits, args), _value(args.connections, known.connections)
        args.signals.hold()
        changed = registry.change_edition(known, connections=connections, limits=limits)
    heads = ("EDITION", "CONNECTIONS", "BYTES PER PERIOD", "OTHER LIMITS")
    output.say(output.table(heads, [_row(changed, editions)]))
    return exits.OK


def _changed(limits: Limits, args: argparse.Namespace) -> Limits:
    """Return the limits as changed by the options of the command. Raises ConfigurationError."""
    ends = {None: limits.end_at_limit, "yes": True, "no": False, "none": None}[args.end_at_limit]
    numbers = {name: _value(getattr(args, name), getattr(limits, name)) for name in (*_COUNTS, *_SIZES)}
    try:
        return Limits(**numbers, end_at_limit=ends)
    except ValueError as exc:
        raise ConfigurationError(f"a limit is too low or too high: {exc.args[0]}") from None


def _value(given: int | None, before: int | None) -> int | None:
    """Return the new value of a limit. `given` is None if the option was not given, and 0 for ``none``."""
    return before if given is None else given or None


def _row(edition: Edition, editions: Editions) -> tuple[str, ...]:
    others = [
        f"{name.replace('_', ' ')} {_text(name, value)}"
        for name, value in attrs.asdict(edition.limits).items()
        if value is not None and name != "bytes_per_period"
    ]
    return (
        edition.name + (" (in use)" if edition.name == editions.in_use else ""),
        "unlimited" if edition.connections is None else str(edition.connections),
        _text("bytes_per_period", edition.limits.bytes_per_period),
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
    """The limits as in the management API."""
    return msgspec.to_builtins(LimitsBody.of(limits))
