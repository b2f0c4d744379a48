"""Relay records as text: the content of relay files. It is JSON, and contains keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from ..._text_files import decode_text, strip_blanks
from ...errors import ConfigurationError
from ...security import Right, Rule, Secret
from ...security.authority_file import AUTHORITY_FORMAT
from ...security.connection_string import looks_like_connection_string
from ..limits import RELAY_RECORD_BYTES
from ..model import RelayRecord

__all__ = ["dump_relay_record", "parse_relay_record_untrusted"]

_FORMAT = "hybridrelay-relay-record"
_VERSION = 1
#: ``endpoint`` is the relay's host, or a list of hosts if there are several relays.
_FIELDS = {"format", "version", "name", "endpoint", "rules"}
_RULE_FIELDS = {"name", "rights", "primary", "secondary"}


def dump_relay_record(record: RelayRecord) -> str:
    """Return the text for `parse_relay_record_untrusted`. It contains keys: write it to a file of mode 0600."""
    return (
        json.dumps(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "name": record.name,
                "endpoint": record.hosts[0] if len(record.hosts) == 1 else record.hosts,
                "rules": [
                    {
                        "name": rule.name,
                        "rights": sorted(rule.rights),
                        "primary": None if rule.primary is None else rule.primary.reveal(),
                        "secondary": None if rule.secondary is None else rule.secondary.reveal(),
                    }
                    for rule in record.rules
                ],
            },
            indent=2,
        )
        + "\n"
    )


def parse_relay_record_untrusted(text: str | bytes) -> RelayRecord:
    """Parse the content of a relay file.

    Raises:
        ConfigurationError: this is not a relay file, or it is damaged, or was written by a newer version. The message
            names the part, but not its value.
    """
    if len(text) > RELAY_RECORD_BYTES:
        _fail("is too long")
    if isinstance(text, bytes):
        text = decode_text(text, source="the relay file", limit=RELAY_RECORD_BYTES)
    try:
        content = json.loads(strip_blanks(text), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        if looks_like_connection_string(text):
            raise ConfigurationError(
                "this is a connection string, not a relay file",
                remedy="name the file that was written as --relay-file",
            ) from None
        _fail("is not JSON")
    if isinstance(content, dict) and content.get("format") == AUTHORITY_FORMAT:
        raise ConfigurationError(
            "this is an authority file, which must never be on a relay: anyone with it can impersonate either side",
            remedy="remove it from this machine, and name the file that was written as --relay-file",
        )
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ConfigurationError("this is not a relay file", remedy="name the file that was written as --relay-file")
    if content.get("version") != _VERSION:
        raise ConfigurationError(
            "the relay file has an unknown format version",
            remedy="use the version of hybridrelay that wrote it, or a newer one",
        )
    _only(content, _FIELDS, "")
    rules = [_rule(rule, f"rules[{index}]") for index, rule in enumerate(_array(content, "rules", ""))]
    try:
        return RelayRecord(_text(content, "name", ""), _hosts(content), rules)
    except ValueError as exc:
        _fail(f"is damaged: {exc}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # If a name appears twice, parsers differ in which value they use. Therefore it is an error.
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError
    return content


def _rule(content: object, where: str) -> Rule:
    if not isinstance(content, dict):
        _fail(f"is damaged: {where}")
    _only(content, _RULE_FIELDS, f"{where}.")
    try:
        rights = [Right(str(right)) for right in _array(content, "rights", f"{where}.")]
    except ValueError:
        _fail(f"is damaged: {where}.rights names an unknown right")
    try:
        return Rule(
            _text(content, "name", f"{where}."),
            rights,
            _maybe_key(content, "primary", f"{where}."),
            _maybe_key(content, "secondary", f"{where}."),
        )
    except ValueError as exc:
        _fail(f"is damaged: {where}: {exc}")


def _only(content: dict[str, Any], known: set[str], where: str) -> None:
    # An unknown field may be a secret that was not intended for the relay.
    if not content.keys() <= known:
        _fail(f"has unknown fields{f' ({where[:-1]})' if where else ''}")


def _text(content: dict[str, Any], key: str, where: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        _fail(f"is damaged: {where}{key}")
    return value


def _hosts(content: dict[str, Any]) -> list[str]:
    value = content.get("endpoint")
    if isinstance(value, list) and all(isinstance(host, str) for host in value):
        return value
    return [_text(content, "endpoint", "")]


def _array(content: dict[str, Any], key: str, where: str) -> Sequence[object]:
    value = content.get(key)
    if not isinstance(value, list):
        _fail(f"is damaged: {where}{key}")
    return value


def _maybe_key(content: dict[str, Any], key: str, where: str) -> Secret | None:
    return None if content.get(key) is None else Secret(_text(content, key, where))


def _fail(problem: str) -> NoReturn:
    raise ConfigurationError(f"the relay file {problem}", remedy="write it again with: connections create") from None
