"""What an update of connection strings changes, as JSON: relays with their ports, pins, and the target. Pure.

Both the document that a relay delivers and the authority file, which records what was pushed, contain it. What an
update does not change is None here, and not in the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .endpoints import Endpoint, format_port_lists, pair_endpoints, parse_port_lists_untrusted
from .targets import Target, parse_target_untrusted

__all__ = ["content_as_json", "content_of_json_untrusted", "text_in", "texts_in"]

_Content: TypeAlias = tuple[tuple[Endpoint, ...] | None, tuple[str, ...] | None, Target | None]


def content_as_json(
    endpoints: Sequence[Endpoint] | None, pins: Sequence[str] | None, target: Target | None
) -> dict[str, object]:
    """Return relays, pins and target as a JSON object."""
    content: dict[str, object] = {}
    if endpoints is not None:
        content["relays"] = [endpoint.host for endpoint in endpoints]
        content["ports"] = format_port_lists(endpoints)
    if pins is not None:
        content["pins"] = list(pins)
    if target is not None:
        content["target"] = str(target)
    return content


def content_of_json_untrusted(value: Mapping[str, Any]) -> _Content:
    """Return relays, pins and target of a JSON object, which may have other members.

    Raises:
        ValueError, TypeError, KeyError: they are not valid.
    """
    endpoints = pins = target = None
    if "relays" in value:
        ports = text_in(value, "ports")
        hosts = texts_in(value, "relays")
        endpoints = pair_endpoints(hosts, parse_port_lists_untrusted(ports) if ports else ())
    if "pins" in value:
        pins = texts_in(value, "pins")
    if "target" in value:
        target = parse_target_untrusted(text_in(value, "target"))
    return endpoints, pins, target


def text_in(value: Mapping[str, Any], name: str) -> str:
    """Return a member of a JSON object that is a text.

    Raises:
        TypeError, KeyError: there is none.
    """
    if not isinstance(value[name], str):
        raise TypeError(f"{name} is not a text")
    return str(value[name])


def texts_in(value: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return a member of a JSON object that is a list of texts.

    Raises:
        TypeError, KeyError: there is none.
    """
    found = value[name]
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TypeError(f"{name} is not a list of texts")
    return tuple(found)
