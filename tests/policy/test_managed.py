"""Policies in the registry of Windows and in managed preferences of macOS, with recorded data."""

from __future__ import annotations

import configparser
import os
import plistlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from hybridrelay.errors import ConfigurationError
from hybridrelay.policy.machine import ManagedPreferences, RegistrySource
from hybridrelay.policy.managed import REG_DWORD, REG_SZ, RegistryValue, parse_property_list, parse_registry

#: As ``reg export HKLM\\SOFTWARE\\Policies\\HybridRelay`` writes it.
EXPORTED = r"""Windows Registry Editor Version 5.00

[HKEY_LOCAL_MACHINE\SOFTWARE\Policies\HybridRelay]
"AllowHybridConnections"=dword:00000001
"MaxStreams"=dword:000003e8

[HKEY_LOCAL_MACHINE\SOFTWARE\Policies\HybridRelay\AllowedTargets]
"1"="db.corp.example:5432"
"2"="10.20.0.0/16:443"

[HKEY_LOCAL_MACHINE\SOFTWARE\Policies\HybridRelay\DeniedTargets]
"1"="*:22"

[HKEY_LOCAL_MACHINE\SOFTWARE\Policies\HybridRelay\AllowedRelays]
"""
#: The managed preferences that a device gets for the same policy.
PREFERENCES = b"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
\t<key>AllowHybridConnections</key>
\t<true/>
\t<key>MaxStreams</key>
\t<integer>1000</integer>
\t<key>AllowedTargets</key>
\t<array>
\t\t<string>db.corp.example:5432</string>
\t\t<string>10.20.0.0/16:443</string>
\t</array>
\t<key>DeniedTargets</key>
\t<array>
\t\t<string>*:22</string>
\t</array>
\t<key>AllowedRelays</key>
\t<array/>
</dict>
</plist>
"""
ROOT = r"HKLM\SOFTWARE\Policies\HybridRelay"
STATED = [
    ("AllowHybridConnections", "true"),
    ("AllowedTargets", "db.corp.example:5432"),
    ("AllowedTargets", "10.20.0.0/16:443"),
    ("DeniedTargets", "*:22"),
    ("AllowedRelays", "(an empty list)"),
    ("MaxStreams", "1000"),
]


class Exported:
    """The keys of an exported file."""

    def __init__(self, text: str) -> None:
        self._parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
        self._parser.optionxform = str  # type: ignore[assignment,method-assign]
        self._parser.read_string(text.partition("\n\n")[2])

    def values(self, path: str) -> Sequence[RegistryValue]:
        section = f"HKEY_LOCAL_MACHINE\\{path}"
        if section not in self._parser:
            raise FileNotFoundError
        return [_value(name.strip('"'), data) for name, data in self._parser[section].items()]

    def subkeys(self, path: str) -> Sequence[str]:
        prefix = f"HKEY_LOCAL_MACHINE\\{path}\\"
        return [name.removeprefix(prefix) for name in self._parser.sections() if name.startswith(prefix)]


def _value(name: str, data: str) -> RegistryValue:
    if data.startswith("dword:"):
        return name, int(data.removeprefix("dword:"), 16), REG_DWORD
    return name, data.strip('"'), REG_SZ


def test_values_of_the_registry_are_read_with_their_places() -> None:
    source = RegistrySource(Exported(EXPORTED))

    (found,) = source.read()

    assert [(key, value) for key, value, _ in found.stated()] == STATED
    assert [str(place) for *_, place in found.stated()] == [
        rf"{ROOT}\AllowHybridConnections",
        rf"{ROOT}\AllowedTargets\1",
        rf"{ROOT}\AllowedTargets\2",
        rf"{ROOT}\DeniedTargets\1",
        rf"{ROOT}\AllowedRelays",
        rf"{ROOT}\MaxStreams",
    ]
    assert source.stamp() == RegistrySource(Exported(EXPORTED)).stamp()
    assert source.stamp() != RegistrySource(Exported(EXPORTED.replace("*:22", "*:23"))).stamp()


def test_a_registry_without_the_key_has_no_policy() -> None:
    source = RegistrySource(Exported("Windows Registry Editor Version 5.00\n\n"))

    assert (source.read(), source.stamp()) == ((), ())


def test_a_registry_that_cannot_be_read_is_an_error() -> None:
    class Locked(Exported):
        def values(self, path: str) -> Sequence[RegistryValue]:
            raise PermissionError(13, "Access is denied")

    with pytest.raises(ConfigurationError, match=r"cannot read the policy in HKLM.*: Access is denied"):
        RegistrySource(Locked(EXPORTED)).stamp()


@pytest.mark.parametrize(
    ("values", "subkeys", "message"),
    [
        ([("Maxstreams", 5, REG_DWORD)], {}, ""),
        ([("MaxStreams", "5", REG_SZ)], {}, rf"{ROOT}\MaxStreams: expected a REG_DWORD"),
        ([("AllowHybridConnections", 2, REG_DWORD)], {}, rf"{ROOT}\AllowHybridConnections: AllowHybridConnections: "),
        ([("AllowHybridConnections", "0", REG_SZ)], {}, rf"{ROOT}\AllowHybridConnections: expected a REG_DWORD that"),
        ([("DeniedTargets", "*:22", REG_SZ)], {}, rf"{ROOT}\DeniedTargets: expected a subkey"),
        ([("DeniedTargets", 1, REG_DWORD)], {}, rf"{ROOT}\DeniedTargets: DeniedTargets: expected a list"),
        ([("DenyTargets", 1, REG_DWORD)], {}, rf"{ROOT}\DenyTargets: unknown key 'DenyTargets'"),
        ([], {"DeniedTarget": []}, rf"{ROOT}\DeniedTarget: unknown key 'DeniedTarget'"),
        ([], {"MaxStreams": [("1", "5", REG_SZ)]}, rf"{ROOT}\MaxStreams: expected a REG_DWORD"),
        ([], {"DeniedTargets": [("1", 5, REG_DWORD)]}, rf"{ROOT}\DeniedTargets\1: expected a REG_SZ"),
        (
            [],
            {"DeniedTargets": [("x", "22", REG_SZ)]},
            rf"{ROOT}\DeniedTargets\x: DeniedTargets: '22': expected host",
        ),
    ],
)
def test_an_error_in_the_registry_names_the_place(
    values: list[RegistryValue], subkeys: dict[str, list[RegistryValue]], message: str
) -> None:
    if not message:
        assert parse_registry(ROOT, values, subkeys).max_streams is not None
        return
    with pytest.raises(ConfigurationError) as caught:
        parse_registry(ROOT, values, subkeys)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("form", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_managed_preferences_are_read_in_both_forms(form: plistlib.PlistFormat, tmp_path: Path) -> None:
    path = tmp_path / "org.hybridrelay.plist"
    source = ManagedPreferences(path, os.getuid())
    assert (source.read(), source.stamp()) == ((), ())
    path.write_bytes(plistlib.dumps(plistlib.loads(PREFERENCES), fmt=form))
    path.chmod(0o644)

    (found,) = source.read()

    assert [(key, value) for key, value, _ in found.stated()] == STATED
    assert [str(place) for *_, place in found.stated()][:3] == [
        f"{path}: AllowHybridConnections",
        f"{path}: AllowedTargets, item 1",
        f"{path}: AllowedTargets, item 2",
    ]
    assert source.stamp()
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="users other than root can write"):
        source.read()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f is not a property list"),
        (b"bplist00" + b"\xff" * 40, "f is not a property list"),
        (b"<plist><dict><key>MaxStreams</key>", "f is not a property list"),
        (PREFERENCES.replace(b"<array/>", b"<date>x</date>"), "f is not a property list"),
        (plistlib.dumps([1]), "f is not a dictionary"),
        (plistlib.dumps({"DenyTargets": []}), "f: DenyTargets: unknown key"),
        (plistlib.dumps({"DeniedTargets": ["22"]}), "f: DeniedTargets, item 1: DeniedTargets: '22': expected"),
        (plistlib.dumps({"MaxStreams": True}), "f: MaxStreams: MaxStreams: expected a number"),
    ],
)
def test_an_error_in_a_property_list_names_the_place(data: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_property_list("f", data)

    assert str(caught.value).startswith(message)
