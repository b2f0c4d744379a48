"""Hybrid connections as rows of the registry's tables (`schema`)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from ...security import KeySlot, Right, Rule, Secret
from ..model import Description, HybridConnection, KeyRoll
from ..quotas import Quota
from .limit_text import dump_limits, parse_limits

__all__ = [
    "delete_roll",
    "insert_key",
    "insert_roll",
    "insert_rule",
    "read_connections",
    "rights_text",
    "set_description",
    "set_disabled",
    "set_hosts",
    "set_quota",
]

# A single statement, so that the result is consistent.
_READ = """
SELECT connections.name, hosts, created_at, updated_at, version, description, metadata, disabled,
    edition, limits,
    rules.name, rights, rolls.slot, old_generation, new_generation, started_at, ends_at, waits,
    keys.slot, generation, key
FROM connections
LEFT JOIN rules ON rules.connection = connections.name
LEFT JOIN rolls ON rolls.connection = connections.name AND rolls.rule = rules.name
LEFT JOIN keys ON keys.connection = connections.name AND keys.rule = rules.name
"""
_ORDER = " ORDER BY connections.name, rules.name, keys.slot"


def read_connections(
    database: sqlite3.Connection, where: str = "", *parameters: str | int
) -> Iterator[HybridConnection]:
    """Read hybrid connections, sorted by name, consistently.

    Args:
        database: the registry.
        where: `` WHERE`` and a condition with placeholders; empty for all hybrid connections.
        parameters: the values for the placeholders.

    Raises:
        sqlite3.Error: they cannot be read.
        ValueError: a row is not in the form in which this program writes it.
    """
    rows = database.execute(_READ + where + _ORDER, parameters).fetchall()
    try:
        yield from _parse(rows)
    except (TypeError, AttributeError) as exc:  # a value has an unexpected type
        raise ValueError("a value has the wrong type") from exc


def _parse(rows: Sequence[tuple[Any, ...]]) -> Iterator[HybridConnection]:
    for fields, of_connection in groupby(rows, key=lambda row: row[:10]):
        name, hosts, created_at, updated_at, version, text, metadata, disabled, edition, limits = fields
        rules = []
        generations = {}
        rolls = []
        for (rule, rights, *roll), of_rule in groupby(of_connection, key=lambda row: row[10:18]):
            if rule is None:
                continue
            if roll[0] is not None:
                slot_of_new, old, new, started_at, ends_at, waits = roll
                rolls.append(KeyRoll(rule, KeySlot(slot_of_new), old, new, started_at, ends_at, bool(waits)))
            keys = {KeySlot(slot): (generation, Secret(key)) for *_, slot, generation, key in of_rule if slot}
            generations.update({(rule, slot): generation for slot, (generation, _) in keys.items()})
            secrets = {slot.value: key for slot, (_, key) in keys.items()}
            rules.append(Rule(rule, map(Right, rights.split()), **secrets))
        yield HybridConnection(
            name,
            tuple(hosts.split()),
            tuple(rules),
            created_at,
            generations,
            Description(text, _metadata(metadata)),
            updated_at,
            version,
            bool(disabled),
            Quota(edition, parse_limits(limits)),
            tuple(rolls),
        )


def _metadata(text: str) -> dict[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("the metadata of a hybrid connection is not a JSON object whose values are strings")
    return found


def set_description(database: sqlite3.Connection, connection: str, description: Description) -> None:
    """Replace the description of a hybrid connection."""
    database.execute(
        "UPDATE connections SET description = ?, metadata = ? WHERE name = ?",
        (description.text, json.dumps(dict(description.metadata)), connection),
    )


def set_disabled(database: sqlite3.Connection, connection: str, disabled: bool) -> None:
    """Disable a hybrid connection, or enable it again."""
    database.execute("UPDATE connections SET disabled = ? WHERE name = ?", (int(disabled), connection))


def set_quota(database: sqlite3.Connection, connection: str, quota: Quota) -> None:
    """Replace the edition and the limits of a hybrid connection."""
    database.execute(
        "UPDATE connections SET edition = ?, limits = ? WHERE name = ?",
        (quota.edition, dump_limits(quota.limits), connection),
    )


def set_hosts(database: sqlite3.Connection, connection: str, hosts: Sequence[str]) -> None:
    """Replace the hosts of a hybrid connection."""
    database.execute("UPDATE connections SET hosts = ? WHERE name = ?", (" ".join(hosts), connection))


def insert_rule(database: sqlite3.Connection, connection: str, rule: Rule) -> None:
    """Add a rule with its keys."""
    database.execute("INSERT INTO rules VALUES (?, ?, ?)", (connection, rule.name, rights_text(rule)))
    for slot in KeySlot:
        insert_key(database, connection, rule.name, slot, rule.key(slot))


def rights_text(rule: Rule) -> str:
    """Return the rights of a rule as they are stored."""
    return " ".join(sorted(rule.rights))


def insert_key(database: sqlite3.Connection, connection: str, rule: str, slot: KeySlot, key: Secret | None) -> None:
    """Put a key into an empty slot; None leaves it empty."""
    if key is not None:
        database.execute(
            "INSERT INTO keys (connection, rule, slot, key) VALUES (?, ?, ?, ?)",
            (connection, rule, slot.value, key.reveal()),
        )


def insert_roll(database: sqlite3.Connection, connection: str, roll: KeyRoll) -> None:
    """Add the roll of a rule's key."""
    database.execute(
        "INSERT INTO rolls (connection, rule, slot, old_generation, new_generation, started_at, ends_at, waits) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            connection,
            roll.rule,
            roll.slot.value,
            roll.old_generation,
            roll.new_generation,
            roll.started_at,
            roll.ends_at,
            int(roll.waits),
        ),
    )


def delete_roll(database: sqlite3.Connection, connection: str, rule: str) -> None:
    """End the roll of a rule's key, if there is one, because one of its keys changes."""
    database.execute("DELETE FROM rolls WHERE connection = ? AND rule = ?", (connection, rule))
