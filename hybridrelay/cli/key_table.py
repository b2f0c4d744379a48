"""Shows keys, either by their fingerprints or, if the user has asked for them, the keys themselves."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..administration import ConnectionInfo, KeyInfo, RollInfo
from ..security import KeySlot, Rule
from . import output
from .not_counted import not_counted
from .times import utc_text


def key_table(connection: ConnectionInfo, keys: Mapping[str, Rule] | None = None) -> str:
    """Return a table of the keys: each with its rule, its fingerprint, and when it was used last.

    Args:
        connection: the hybrid connection.
        keys: the rules with their keys, by name, if the keys themselves are to be shown, and not the fingerprints.
    """
    rows = []
    for rule in connection.rules:
        for slot in KeySlot:
            shown = rule.fingerprint(slot) if keys is None else _key(keys, rule.name, slot)
            rights, last_use = ", ".join(sorted(rule.rights)), _last_use(rule.keys[slot])
            rows.append((rule.name, rights, slot.value, shown or "revoked", last_use))
    shows = "FINGERPRINT" if keys is None else "KEY TEXT"
    return output.table(("RULE", "RIGHTS", "KEY", shows, "LAST USED"), rows)


def keys_as_dicts(
    connection: ConnectionInfo,
    keys: Mapping[str, Rule] | None = None,
    rolls: Mapping[str, RollInfo | None] | None = None,
) -> list[dict[str, object]]:
    """Return the keys for JSON output. Later versions may add members, but remove or rename none.

    Args:
        connection, keys: as for `key_table`.
        rolls: the rolls, by rule; see `Registry.roll`.
    """
    found = []
    for rule in connection.rules:
        for slot in KeySlot:
            entry: dict[str, object] = {
                "rule": rule.name,
                "rights": sorted(rule.rights),
                "key": slot.value,
                "fingerprint": rule.fingerprint(slot),
                "last_used": rule.keys[slot].last_used,
            }
            if keys is not None:
                entry["value"] = _key(keys, rule.name, slot)
            roll = None if rolls is None else rolls.get(rule.name)
            if roll is not None and slot is roll.slot:
                entry["roll"] = {**attrs.asdict(roll), "slot": roll.slot.value}
            found.append(entry)
    return found


def roll_text(rule: str, roll: RollInfo) -> str:
    """Return the progress of the roll of a rule's key, and which programs do not have the new key."""
    if roll.ended_at is not None:
        return _ended_text(rule, roll, roll.ended_at)
    at_latest = f"at {utc_text(roll.ends_at)}"
    when = at_latest if roll.waits or roll.is_crowded else f"when all have the new one, or {at_latest}"
    since = utc_text(roll.started_at)
    lines = [
        f"Rule {rule}: the {roll.slot.other} key is being rolled to the {roll.slot} one (since {since}).",
        f"{roll.kept} of {roll.programs} programs have the new key.",
        f"The {roll.slot.other} key is revoked {when}.",
    ]
    if not roll.programs:
        lines.append(
            "The relay has not given the new key to any program yet. Connected programs get it within a second or "
            "two, or within a minute if the relay has just been restarted. If this does not change, no program that "
            "uses this rule is connected."
        )
    if text := not_counted(roll.started_at, roll.seen_since, is_crowded=roll.is_crowded):
        lines.append(text)
    if roll.missing:
        lines.append(_missing_table(roll))
    return "\n".join(lines)


def _ended_text(rule: str, roll: RollInfo, ended_at: float) -> str:
    missing, at = roll.programs - roll.kept, utc_text(ended_at)
    lines = [
        f"Rule {rule}: the {roll.slot.other} key was rolled to the {roll.slot} one, and revoked at {at}.",
        f"{missing} of {roll.programs} programs have not stored the new key. They fail after a restart,",
        "unless it was written where their connection strings come from (keys use):",
        _missing_table(roll),
    ]
    if text := not_counted(roll.started_at, roll.seen_since, is_crowded=roll.is_crowded):
        lines.append(text)
    return "\n".join(lines)


def _missing_table(roll: RollInfo) -> str:
    rows = [
        (
            one.state if one.is_connected else f"{one.state}, disconnected",
            one.role,
            one.address,
            one.instance,
            one.detail,
        )
        for one in roll.missing
    ]
    return output.table(("STATE", "PROGRAM", "ADDRESS", "INSTANCE", "WHY"), rows)


def _key(keys: Mapping[str, Rule], rule: str, slot: KeySlot) -> str | None:
    key = keys[rule].key(slot)
    return None if key is None else key.reveal()


def tell_ended(name: str, rule: str, old: str | None) -> None:
    """Print the consequences of ending a key. `old` is its fingerprint; None if it had been revoked before."""
    if old is None:
        output.say("It had already been revoked: no connection string stops working.")
    else:
        output.say(
            f"Connection strings of {name} with SharedAccessKeyName={rule} and the old key (fingerprint "
            f"{old}) stop working now."
        )


def _last_use(key: KeyInfo) -> str:
    if key.last_used is None:
        return "-"
    return utc_text(key.last_used)
