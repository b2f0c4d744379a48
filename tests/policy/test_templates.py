"""Templates have every key, and what is made from them can be read."""

from __future__ import annotations

import plistlib
import re
from xml.etree import ElementTree as ET

import pytest

from hybridrelay.policy.managed import parse_property_list
from hybridrelay.policy.schema import KEYS, Kind
from hybridrelay.policy.templates import TEMPLATES
from hybridrelay.policy.toml_files import parse_policy_file

_SPACE = "{http://schemas.microsoft.com/GroupPolicy/2006/07/PolicyDefinitions}"


def _keys(stated: list[tuple[str, str, object]]) -> list[str]:
    return list(dict.fromkeys(key for key, *_ in stated))


def test_the_toml_template_states_nothing_until_keys_are_uncommented() -> None:
    text = TEMPLATES["toml"]()

    assert parse_policy_file("f", text).stated() == []
    uncommented = re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE)
    assert _keys(parse_policy_file("f", uncommented).stated()) == list(KEYS)  # type: ignore[arg-type]


def test_the_payload_of_the_profile_is_a_policy() -> None:
    profile = plistlib.loads(TEMPLATES["mobileconfig"]().encode())

    (payload,) = profile["PayloadContent"]
    (forced,) = payload["PayloadContent"]["org.hybridrelay"]["Forced"]
    found = parse_property_list("f", plistlib.dumps(forced["mcx_preference_settings"]))
    assert _keys(found.stated()) == list(KEYS)  # type: ignore[arg-type]


def test_the_definitions_for_group_policy_refer_to_their_texts() -> None:
    admx, adml = (ET.fromstring(TEMPLATES[name]()) for name in ("admx", "adml"))
    strings = {element.get("id") for element in adml.iter(f"{_SPACE}string")}
    presentations = {element.get("id"): element for element in adml.iter(f"{_SPACE}presentation")}
    policies = {element.get("name"): element for element in admx.iter(f"{_SPACE}policy")}

    references = re.findall(r"\$\((string|presentation)\.(\w+)\)", TEMPLATES["admx"]())
    assert {name for kind, name in references if kind == "string"} == strings
    assert {name for kind, name in references if kind == "presentation"} == set(presentations)
    assert list(policies) == list(KEYS)
    for name, policy in policies.items():
        assert name is not None
        assert policy.get("key") == r"SOFTWARE\Policies\HybridRelay"
        values = {element.tag.removeprefix(_SPACE): element for element in policy.iter()}
        match KEYS[name].kind:
            case Kind.FLAG:
                assert policy.get("valueName") == name
                assert [values[one][0].get("value") for one in ("enabledValue", "disabledValue")] == ["1", "0"]
            case Kind.COUNT:
                assert values["decimal"].get("valueName") == name
            case Kind.LIST:
                assert values["list"].get("key") == rf"SOFTWARE\Policies\HybridRelay\{name}"
        if KEYS[name].kind is not Kind.FLAG:
            assert presentations[name][0].get("refId") == name


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_ends_its_last_line(name: str) -> None:
    assert TEMPLATES[name]().endswith("\n")
