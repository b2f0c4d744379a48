"""A policy file: what it may contain, the line of everything in it, and errors that name file and line."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConfigurationError
from hybridrelay.policy.document import Entry, EntryList, Restrictions, field_of
from hybridrelay.policy.schema import KEYS, Key, Kind
from hybridrelay.policy.toml_files import parse_policy_file

EVERYTHING = """\
# Everything that a policy can state.
AllowHybridConnections = true
AllowedTargets = [
    "db.corp.example:5432",  # a comment with ] and " in it
    # "not.an.entry:1",
    '*.corp.example:*', "10.0.0.0/8:8000-8999",
]
"DeniedTargets" = ["*:22",
'''[::1]:*''']
AllowedRelays = ["relay.example.com"]
AllowedAuthorities = []

DeniedIdentities = ["reporting", "03:FA:01:78"]
MaxStreams = 1_000
MaxStreamsPerLabel = 10
AllowedHours = [ "Mon-Fri 08:00-18:00" ]
AllowedForwardAddresses = ["127.0.0.0/8:*"]"""


def test_every_key_has_its_value_and_its_line() -> None:
    found = parse_policy_file("10.toml", EVERYTHING)

    assert [(key, text, place.line) for key, text, place in found.stated()] == [
        ("AllowHybridConnections", "true", 2),
        ("AllowedTargets", "db.corp.example:5432", 4),
        ("AllowedTargets", "*.corp.example:*", 6),
        ("AllowedTargets", "10.0.0.0/8:8000-8999", 6),
        ("DeniedTargets", "*:22", 8),
        ("DeniedTargets", "[::1]:*", 9),
        ("AllowedRelays", "relay.example.com", 10),
        ("AllowedAuthorities", "(an empty list)", 11),
        ("DeniedIdentities", "reporting", 13),
        ("DeniedIdentities", "03:FA:01:78", 13),
        ("MaxStreams", "1000", 14),
        ("MaxStreamsPerLabel", "10", 15),
        ("AllowedHours", "Mon-Fri 08:00-18:00", 16),
        ("AllowedForwardAddresses", "127.0.0.0/8:*", 17),
    ]
    assert {str(place).partition(":")[0] for *_, place in found.stated()} == {"10.toml"}


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
def test_the_example_of_every_key_is_valid_and_has_the_type_of_its_field(key: Key) -> None:
    name, kind = key.name, key.kind
    found = parse_policy_file("f", f"{name} = {KEYS[name].example}\n")

    value = getattr(found, field_of(name))
    assert isinstance(value, EntryList if kind is Kind.LIST else Entry)
    assert [stated for stated, *_ in found.stated()] == [name] * len(found.stated())
    # The type that the field declares.
    declared = str(Restrictions.__annotations__[field_of(name)])
    made = type(value).__name__ if kind is Kind.LIST else "Entry[bool]" if kind is Kind.FLAG else "Entry[int]"
    assert declared == f"{made} | None"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AllowedTargets = [\n", "f:2: this is not TOML"),
        ("\nMaxStreams = \n", "f:2: this is not TOML"),
        ("MaxStreams = 1\nMaxStreams = 2\n", "f:2: this is not TOML"),
        ("\n\nDeniedTarget = ['*:22']\n", "f:3: unknown key 'DeniedTarget'"),
        ("deniedtargets = ['*:22']\n", "f:1: unknown key 'deniedtargets'"),
        ("[policy]\nMaxStreams = 1\n", "f:1: a policy has no tables"),
        ("MaxStreams = 1\n[[x]]\n", "f:2: a policy has no tables"),
        ("Denied.Targets = ['*:22']\n", "f:1: a policy has no tables and no keys with dots"),
        ("MaxStreams = {n = 1}\n", "f:1: MaxStreams: expected a number"),
        ("MaxStreams = -1\n", "f:1: MaxStreams: expected a number from 0"),
        ("MaxStreams = true\n", "f:1: MaxStreams: expected a number"),
        ("MaxStreams = 1.5\n", "f:1: MaxStreams: expected a number"),
        ("AllowHybridConnections = 'false'\n", "f:1: AllowHybridConnections: expected true or false"),
        ("AllowHybridConnections = 0\n", "f:1: AllowHybridConnections: expected true or false"),
        ("DeniedTargets = '*:22'\n", "f:1: DeniedTargets: expected a list"),
        ("DeniedTargets = [\n'*:22',\n22]\n", "f:1: DeniedTargets: expected a string"),
        ("DeniedTargets = [\n'*:22',\n'10.0.0.1/8:22']\n", "f:3: DeniedTargets: '10.0.0.1/8:22': not a valid"),
        ("DeniedTargets = ['\\u0007:22']\n", "f:1: DeniedTargets"),
        ("DeniedIdentities = ['# billing']\n", "f:1: DeniedIdentities: '# billing': expected a label"),
        ("DeniedIdentities = ['']\n", "f:1: DeniedIdentities: '': expected a label"),
        ("AllowedForwardAddresses = ['unix:run/x']\n", "f:1: AllowedForwardAddresses: 'unix:run/x': expected unix:/"),
        ("AllowedHours = ['Mon 10:00']\n", "f:1: AllowedHours: 'Mon 10:00': expected days and hours"),
        (f"MaxStreams = {'9' * 5000}\n", "f: a number has too many digits"),
        (f"MaxStreams = {'[' * 5000}\n", "f: a number has too many digits, or the file is nested too deeply"),
    ],
)
def test_an_error_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_policy_file("f", text)

    assert str(caught.value).startswith(message)


def test_a_misspelt_key_has_a_suggestion() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_policy_file("f", "DenyedTargets = []\n")

    assert caught.value.remedy == "did you mean DeniedTargets?"


@given(
    st.lists(
        st.sampled_from(
            [
                "# a comment = [\n",
                "\n",
                "MaxStreams = 1 # x\n",
                "MaxStreamsPerLabel=2\n",
                'AllowedTargets = [\n# one\n"a:1", "b:2",\n\n"c:3"]\n',
                "DeniedTargets = ['''\nd:4''', \"\"\"e:\\\n   5\"\"\"\n, 'f:6']\n",
                "'AllowedRelays' = ['r']\n",
                '"DeniedIdentities" = ["a\\"b", "[", "]"]\n',
            ]
        ),
        unique_by=lambda text: text if "=" in text and not text.startswith("#") else object(),
    )
)
def test_the_lines_are_where_the_texts_are(parts: list[str]) -> None:
    text = "".join(parts)
    tomllib.loads(text)
    lines = text.split("\n")

    for key, value, place in parse_policy_file("f", text).stated():
        assert place.line is not None
        at = "\n".join(lines[place.line - 1 : place.line + 1])
        wanted = key if value.isdecimal() else value[:1]
        assert wanted in at
