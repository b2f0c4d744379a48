"""A policy in the registry of Windows or in the managed preferences of macOS, with the keys of `schema.py`. Pure.

In the registry, flags and numbers are REG_DWORD values, and each list is a subkey with REG_SZ values, whose names do
not matter, as Group Policy writes it. In a property list, flags are booleans, numbers are integers, and lists
are arrays of strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..errors import ConfigurationError
from .document import Place, Restrictions, Setting, make_restrictions
from .schema import KEYS, Kind

__all__ = ["REG_DWORD", "REG_SZ", "RegistryValue", "parse_property_list", "parse_registry"]

#: The name, the data and the type of a value in the registry, as `winreg.EnumValue` returns them.
RegistryValue: TypeAlias = tuple[str, object, int]
#: Types of values in the registry.
REG_SZ, REG_DWORD = 1, 4

_BY_LOWER_CASE = {name.lower(): name for name in KEYS}


def parse_registry(
    key: str, values: Sequence[RegistryValue], subkeys: Mapping[str, Sequence[RegistryValue]]
) -> Restrictions:
    """Parse a key of the registry.

    Args:
        key: its path, for messages and decisions.
        values: its values.
        subkeys: the values of each of its subkeys.

    Raises:
        ConfigurationError: a value or subkey is not a key of the policy, or its content is not valid; the message
            begins with its path in the registry.
    """
    settings = [_scalar(key, value) for value in values]
    settings += [_list(key, name, elements) for name, elements in subkeys.items()]
    return make_restrictions(key, settings)


def _scalar(key: str, value: RegistryValue) -> Setting:
    name, data, kind = value
    place = Place(f"{key}\\{name}")
    known = _BY_LOWER_CASE.get(name.lower(), name)  # the registry ignores the case of names
    if known in KEYS and kind != REG_DWORD:
        raise ConfigurationError(f"{place}: expected {_expected(known)}")
    if known in KEYS and KEYS[known].kind is Kind.FLAG and data in (0, 1):
        data = bool(data)
    return Setting(known, data, place)


def _list(key: str, name: str, values: Sequence[RegistryValue]) -> Setting:
    known = _BY_LOWER_CASE.get(name.lower(), name)
    place = Place(f"{key}\\{name}")
    items = [Place(f"{key}\\{name}\\{element}") for element, *_ in values]
    for (*_, kind), item in zip(values, items, strict=True):
        if kind != REG_SZ:
            raise ConfigurationError(f"{item}: expected a REG_SZ")
    if known in KEYS and KEYS[known].kind is not Kind.LIST:
        raise ConfigurationError(f"{place}: expected {_expected(known)}")
    return Setting(known, [data for _, data, _ in values], place, items)


def _expected(key: str) -> str:
    match KEYS[key].kind:
        case Kind.FLAG:
            return "a REG_DWORD that is 0 or 1"
        case Kind.COUNT:
            return "a REG_DWORD"
        case Kind.LIST:
            return "a subkey with a REG_SZ for each entry"


def parse_property_list(file: str, data: bytes) -> Restrictions:
    """Parse a property list, in XML or binary.

    Args:
        file: its name, for messages and decisions.
        data: its content.

    Raises:
        ConfigurationError: it is not a property list, has an unknown key, or a value that is not valid.
    """
    import plistlib  # imported here, because only macOS needs it

    try:
        content = plistlib.loads(data)
    except Exception as exc:  # noqa: BLE001 - the parser raises many types, even AttributeError
        raise ConfigurationError(f"{file} is not a property list ({type(exc).__name__})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(f"{file} is not a dictionary")
    return make_restrictions(file, [_of_property(file, key, value) for key, value in content.items()])


def _of_property(file: str, key: str, value: object) -> Setting:
    items = []
    if isinstance(value, list):
        items = [Place(file, item=f"{key}, item {number}") for number in range(1, len(value) + 1)]
    return Setting(key, value, Place(file, item=key), items)
