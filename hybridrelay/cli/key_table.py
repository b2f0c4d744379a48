"""Shows keys: by their fingerprints, or the keys themselves if the user has asked for them."""

from __future__ import annotations

from ..relay import HybridConnection
from ..security import KeySlot, Secret, key_fingerprint
from . import output


def key_rows(connection: HybridConnection, *, show_keys: bool = False) -> list[tuple[str, str, str, str]]:
    """Return the rows of a table: rule, rights, slot, and the key's fingerprint (or the key itself)."""
    rows = []
    for rule in connection.rules:
        for slot in KeySlot:
            key = rule.key(slot)
            shown = "revoked" if key is None else key.reveal() if show_keys else key_fingerprint(key)
            rows.append((rule.name, ", ".join(sorted(rule.rights)), slot.value, shown))
    return rows


def keys_as_dicts(connection: HybridConnection, *, show_keys: bool = False) -> list[dict[str, object]]:
    """Return the keys for JSON output. Later versions may add members, but remove or rename none."""
    found = []
    for rule in connection.rules:
        for slot in KeySlot:
            key = rule.key(slot)
            entry: dict[str, object] = {
                "rule": rule.name,
                "rights": sorted(rule.rights),
                "key": slot.value,
                "fingerprint": None if key is None else key_fingerprint(key),
            }
            if show_keys:
                entry["value"] = None if key is None else key.reveal()
            found.append(entry)
    return found


def tell_ended(name: str, rule: str, old: Secret | None) -> None:
    """Print what the end of the key `old` means; None if it had been revoked before."""
    if old is None:
        output.say("It had been revoked already: no connection string stops working.")
    else:
        output.say(
            f"Connection strings of {name} with SharedAccessKeyName={rule} and the old key (fingerprint "
            f"{key_fingerprint(old)}) stop working now."
        )
