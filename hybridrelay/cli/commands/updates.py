"""``hybridrelay updates``: push, list, show."""

from __future__ import annotations

import argparse
import time

import attrs

from ..._printable import printable
from ...administration import PushedContent, UpdateInfo, Wanted, push_updates, pushed_so_far
from ...security import Role, format_port_lists
from .. import exits, output
from ..not_counted import not_counted
from ..policy_denials import refuse_denied
from ..public_ports import warn_of_unknown_ports
from ..relay_access import describe_access, open_registry
from ..times import utc_text


def run_push(args: argparse.Namespace) -> int:
    """Sign updates, and leave them at the relay."""
    warn_of_unknown_ports(args.public_ports or [])
    if args.target is not None:
        refuse_denied(args.name, args.target)
    wanted = Wanted(
        hosts=tuple(args.endpoints) if args.endpoints else None,
        ports=args.public_ports,
        pins=None if args.relay_pin is None else tuple(args.relay_pin),
        target=args.target,
        role=None if args.role is None else Role(args.role),
        serial=args.serial or "",
    )
    now = time.time()
    with open_registry(args) as registry:
        done = push_updates(
            registry,
            args.name,
            wanted,
            authority_path=args.authority_file,
            seconds=args.expires,
            not_before=now + args.not_before if args.not_before else 0.0,
            now=now,
            before_change=args.signals.hold,
        )
    for update in done.updates:
        output.say(
            f"pushed update {update.sequence} of {args.name} for {_recipients(update.role, update.serial)}: "
            f"{update.note}; the relay delivers it until {utc_text(update.expires_at)}"
        )
    output.say(f"To see who does not have it yet: hybridrelay updates list {args.name} {describe_access(args)}")
    new = [host for host in wanted.hosts or () if host not in done.relay_hosts]
    if new:
        output.say(
            f"The relay does not know {', '.join(new)} as a relay of {args.name}: see 'connections endpoints --help'."
        )
    if len(wanted.hosts or done.relay_hosts) > 1:
        output.say("Push it at each of the other relays, too: run this command there, without changes.")
    return exits.OK


def run_list(args: argparse.Namespace) -> int:
    """List the updates at the relay, and who does not have them."""
    with open_registry(args) as registry:
        updates = registry.updates(args.name)
    if args.json:
        output.say_json([attrs.asdict(one) for one in updates])
        return exits.OK
    if not updates:
        output.say(f"There are no updates of {args.name}. To push one: hybridrelay updates push --help")
        return exits.OK
    header = ("UPDATE", "FOR", "CHANGES", "PUSHED", "HAVE IT")
    output.say(output.table(header, [_row(one, time.time()) for one in updates]))
    missing = [(update, one) for update in updates for one in update.missing]
    if missing:
        output.say()
        rows = [
            (
                str(update.sequence),
                one.role,
                one.instance[:8],
                one.address,
                one.state if one.departed_at is None else f"{one.state}, disconnected {utc_text(one.departed_at)}",
                printable(one.detail),
            )
            for update, one in missing
        ]
        output.say(output.table(("UPDATE", "PROGRAM", "INSTANCE", "ADDRESS", "STATE", "WHY"), rows))
    first = min(updates, key=lambda one: one.created_at)
    is_crowded = any(one.is_crowded for one in updates)
    if text := not_counted(first.created_at, first.seen_since, is_crowded=is_crowded):
        output.say()
        output.say(text)
    return exits.OK


def _row(update: UpdateInfo, now: float) -> tuple[str, ...]:
    pushed = utc_text(update.created_at)
    if update.expires_at <= now:
        pushed += ", no longer delivered"
    return (
        str(update.sequence),
        _recipients(Role(update.role), update.serial),
        update.note,
        pushed,
        f"{update.kept} of {update.recipients}",
    )


def _recipients(role: Role, serial: str) -> str:
    if serial:
        return f"the {role} {serial}"
    return "connectors" if role is Role.CONNECTOR else "applications"


def run_show(args: argparse.Namespace) -> int:
    """Show what was pushed with an authority file."""
    sequence, pushed = pushed_so_far(args.authority_file, args.name)
    if args.json:
        output.say_json(
            {
                "sequence": sequence,
                "updates": [
                    {"role": role.value, "serial": serial, **_as_dict(what)}
                    for (role, serial), what in pushed.items()
                ],
            }
        )
        return exits.OK
    if not pushed:
        output.say(f"No update of {args.name} was pushed with this authority file.")
        return exits.OK
    output.say(f"the last update: {sequence}")
    for (role, serial), what in pushed.items():
        output.say(f"for {_recipients(role, serial)}:")
        for name, value in _as_dict(what).items():
            output.say(f"  {name}: {', '.join(value) if isinstance(value, list) else value}")
    return exits.OK


def _as_dict(what: PushedContent) -> dict[str, object]:
    """Convert for output. Later versions may add members, but remove none."""
    found: dict[str, object] = {}
    if what.endpoints is not None:
        found["relays"] = [endpoint.host for endpoint in what.endpoints]
        if ports := format_port_lists(what.endpoints):
            found["ports"] = ports
    if what.pins is not None:
        found["pins"] = list(what.pins)
    if what.target is not None:
        found["target"] = str(what.target)
    return found
