"""``hybridrelay rules``: list, set, delete."""

from __future__ import annotations

import argparse

from ...administration import ChangedRule, RuleInfo, delete_rule, set_rule
from .. import exits, output
from ..relay_access import open_registry


def run_list(args: argparse.Namespace) -> int:
    """List the rules."""
    with open_registry(args) as registry:
        connection = registry.connection(args.name)
    if args.json:
        output.say_json([_as_dict(rule) for rule in connection.rules])
    elif not connection.rules:
        output.say("there are no rules: see hybridrelay rules set --help")
    else:
        rows = [(rule.name, _rights(rule), ", ".join(_valid_keys(rule)) or "none") for rule in connection.rules]
        output.say(output.table(("RULE", "RIGHTS", "VALID KEYS"), rows))
    return exits.OK


def run_set(args: argparse.Namespace) -> int:
    """Add a rule, or change its rights."""
    with open_registry(args) as registry:
        done = set_rule(registry, args.name, args.rule, args.rights, before_change=args.signals.hold)
    assert done.after is not None
    if done.before is None:
        output.say(f"added rule {args.rule} of {args.name}, with two new keys: {_rights(done.after)}")
    elif done.before.rights == done.after.rights:
        output.say(f"rule {args.rule} of {args.name} already has these rights: {_rights(done.after)}")
    else:
        output.say(f"changed rule {args.rule} of {args.name}: {_rights(done.after)}, before: {_rights(done.before)}")
    _tell_consequences(args.name, args.rule, done)
    return exits.OK


def run_delete(args: argparse.Namespace) -> int:
    """Delete a rule."""
    with open_registry(args) as registry:
        done = delete_rule(registry, args.name, args.rule, before_change=args.signals.hold)
    output.say(f"deleted rule {args.rule} of {args.name} and its keys")
    _tell_consequences(args.name, args.rule, done)
    return exits.OK


def _tell_consequences(name: str, rule: str, done: ChangedRule) -> None:
    if done.ends_access:
        what = "stop working now" if done.after is None else "no longer have the rights that the rule has lost"
        output.say(f"Connection strings of {name} with SharedAccessKeyName={rule} {what}.")
    if len(done.hosts) > 1 and (done.before is None or done.after is None or done.before.rights != done.after.rights):
        output.say(f"The relays of {name} are {', '.join(done.hosts)}: its rules at the others were not changed.")


def _rights(rule: RuleInfo) -> str:
    return ", ".join(sorted(rule.rights))


def _valid_keys(rule: RuleInfo) -> list[str]:
    return [slot.value for slot in rule.valid_keys]


def _as_dict(rule: RuleInfo) -> dict[str, object]:
    """Convert for JSON output. Later versions may add members, but remove or rename none."""
    return {"rule": rule.name, "rights": sorted(rule.rights), "valid_keys": _valid_keys(rule)}
