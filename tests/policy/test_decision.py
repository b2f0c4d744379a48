"""What the policy decides, and which rule it names."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConfigurationError
from hybridrelay.policy import Action, Decision, Policy, Resource
from hybridrelay.policy.directory import PolicyDirectory
from hybridrelay.policy.document import Entry, IdentityList, Place, Restrictions
from hybridrelay.policy.index import TargetIndex, UnknownPort
from hybridrelay.policy.toml_files import parse_policy_file
from hybridrelay.policy.values import Address
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, HostPorts, NamedInstance, PeerIdentity, PortSet, Role, UnixSocket

DENIED = Reason.DENIED_BY_POLICY
PINS = tuple(f"sha256:{letter * 43}=" for letter in "AE")
RESOURCE = Resource(
    "orders",
    HostPort("db.corp.example", 5432),
    relays=("relay.example.com",),
    pins=PINS[:1],
    authority="ab" * 32,
    at=dt.datetime(2026, 3, 4, 12, 0),  # noqa: DTZ001 - local time; a Wednesday
)
INSTANCE, SQL_PORT = NamedInstance("sql", "EXPRESS"), HostPort("sql", 49823)
FTP = HostPorts("ftp", PortSet([(21, 21), (50000, 50001)]))
SHOP = PeerIdentity("orders", Role.APPLICATION, "shop", "0a", 4e9)
STREAM = Action.OPEN_STREAM


def policy(*texts: str) -> Policy:
    return Policy(files=tuple(parse_policy_file(f"{number}.toml", text) for number, text in enumerate(texts)))


@pytest.mark.parametrize("action", [one for one in Action if one is not Action.OPEN_DATAGRAMS])
def test_without_rules_everything_but_datagrams_is_allowed(action: Action) -> None:
    decision = Policy().decide(SHOP, action, RESOURCE)

    assert decision == Decision()
    assert decision.reason is None


MISSING = "AllowUdp is not set (datagrams need AllowUdp = true)"
MISSING_IN_MACHINE = "AllowUdp is not set in the policy of the machine (datagrams need AllowUdp = true)"


@pytest.mark.parametrize(
    ("of_machine", "further", "rule"),
    [
        ([], [], MISSING),
        ([], ["MaxStreams = 1"], MISSING),
        ([], ["AllowUdp = true"], ""),
        ([], ["AllowUdp = true", "MaxStreams = 1"], ""),
        ([], ["AllowUdp = true", "AllowUdp = false"], "AllowUdp = false (further 1:1)"),
        (["MaxStreams = 1"], [], MISSING_IN_MACHINE),
        (["MaxStreams = 1"], ["AllowUdp = true"], MISSING_IN_MACHINE),
        (["AllowUdp = true"], [], ""),
        (["MaxStreams = 1", "AllowUdp = true"], ["MaxStreams = 1"], ""),
        (["AllowUdp = true"], ["AllowUdp = false"], "AllowUdp = false (further 0:1)"),
        (["AllowUdp = true", "AllowUdp = false"], [], "AllowUdp = false (machine 1:1)"),
        (["AllowUdp = false"], ["AllowUdp = true"], "AllowUdp = false (machine 0:1)"),
    ],
)
def test_datagrams_are_denied_unless_the_policy_of_the_machine_allows_them(
    of_machine: list[str], further: list[str], rule: str
) -> None:
    """A further directory may allow them only on a machine without a policy. A deny list is not a policy."""
    deny_list = Restrictions(file="deny", is_deny_list=True, denied_identities=IdentityList(Place("deny"), ()))
    files = [parse_policy_file(f"machine {number}", text) for number, text in enumerate(of_machine)]
    files += [
        attrs.evolve(parse_policy_file(f"further {number}", text), is_further=True)
        for number, text in enumerate(further)
    ]
    found = Policy(files=(*files, deny_list)).decide(SHOP, Action.OPEN_DATAGRAMS, RESOURCE)
    expected = Decision(DENIED, rule, "allow-udp") if rule else Decision()
    assert found == expected
    assert Policy(files=(*files, deny_list)).decide_datagrams() == expected


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize(
    ("entry", "rule"), [("shop", "deny list: label shop"), ("0A", "deny list: serial 0A"), ("other", "")]
)
def test_the_deny_list_applies_to_everything_and_is_named(action: Action, entry: str, rule: str) -> None:
    denied = Policy(frozenset({entry})).and_also(policy("AllowUdp = true"))
    decision = denied.decide(SHOP, action, RESOURCE)

    assert decision.reason is (Reason.IDENTITY_DENIED if rule else None)
    assert decision.rule == rule


#: A file, what is different from `RESOURCE`, the actions that are denied, the kind of the rule, and its text.
P, R, S, O, D, F, N = (  # noqa: E741
    Action.PUBLISH,
    Action.REGISTER,
    Action.OPEN_SESSION,
    Action.OPEN_STREAM,
    Action.OPEN_DATAGRAMS,
    Action.FORWARD,
    Action.RUN,
)
ALL = {P, R, S, O, D, F, N}
DENIALS: list[tuple[str, dict[str, Any], set[Action], str, str]] = [
    ("\nAllowHybridConnections = false", {}, ALL, "allow-hybrid-connections", "= false (0.toml:2)"),
    ("AllowHybridConnections = true", {}, set(), "", ""),
    (
        "AllowedTargets = [\n'other:1']",
        {},
        {P, S, O, D},
        "allowed-targets",
        "AllowedTargets (0.toml:1) does not allow db.corp.example:5432",
    ),
    ("AllowedTargets = []", {}, {P, S, O, D}, "allowed-targets", "AllowedTargets (0.toml:1) does not allow db.corp"),
    ("AllowedTargets = ['*.corp.example:5432']", {}, set(), "", ""),
    ("AllowedTargets = ['10.0.0.0/8:*']", {}, set(), "", ""),
    ("AllowedTargets = ['sql:1433']", {"target": INSTANCE}, set(), "", ""),
    ("AllowedTargets = ['sql:1433']", {"target": SQL_PORT}, {P, S, O, D}, "allowed-targets", "allow sql:49823"),
    ("AllowedTargets = ['db:*']", {"target": INSTANCE}, {P, S, O, D}, "allowed-targets", r"not allow sql\EXPRESS"),
    ("DeniedTargets = ['sql:1-1000']", {"target": INSTANCE}, set(), "", ""),
    ("DeniedTargets = ['sql:*']", {"target": INSTANCE}, {P, S, O, D}, "denied-targets", r"denies sql\EXPRESS"),
    ("DeniedTargets = ['sql:1-99', 'sql:100-65535']", {"target": INSTANCE}, {P, S, O, D}, "denied-targets", ""),
    (
        "DeniedTargets = ['10.0.0.0/8:*']",
        {"target": INSTANCE, "address": "10.1.1.1"},
        {P, S, O, D},
        "denied-targets",
        r"denies sql\EXPRESS at 10.1.1.1",
    ),
    ("AllowedTargets = ['ftp:21']", {"target": FTP}, {P, O, D}, "allowed-targets", "does not allow ftp:50000"),
    ("DeniedTargets = ['ftp:50001']", {"target": FTP}, {P, O, D}, "denied-targets", "denies ftp:50001"),
    ("AllowedTargets = ['ftp:22']", {"target": FTP}, {P, S, O, D}, "allowed-targets", "does not allow ftp:21"),
    ("AllowedTargets = ['ftp:21', 'ftp:50000-50001']", {"target": FTP}, set(), "", ""),
    ("AllowedForwardAddresses = ['ftp:21']", {"target": FTP}, {F}, "allowed-forward-addresses", "ftp:50000"),
    (
        "AllowedTargets = ['10.0.0.0/8:*']",
        {"address": "11.0.0.1"},
        {P, S, O, D},
        "allowed-targets",
        "does not allow db.corp.example:5432 at 11.0.0.1",
    ),
    (
        "AllowedTargets = ['*:*']\nDeniedTargets = ['a:1',\n'*:5432']",
        {},
        {P, S, O, D},
        "denied-targets",
        'DeniedTargets "*:5432" (0.toml:3) denies db.corp.example:5432',
    ),
    (
        "DeniedTargets = ['127.0.0.0/8:*']",
        {"address": "127.0.0.1"},
        {P, S, O, D},
        "denied-targets",
        "denies db.corp.example:5432 at 127.0.0.1",
    ),
    ("DeniedTargets = ['127.0.0.0/8:*']", {}, set(), "", ""),
    ("DeniedTargets = ['*:*']", {"target": None}, {Action.PUBLISH} - {P}, "", ""),
    ("AllowedRelays = ['relay.example.com']", {}, set(), "", ""),
    (
        "AllowedRelays = ['other']",
        {},
        ALL,
        "allowed-relays",
        "AllowedRelays (0.toml:1) does not allow relay.example.com",
    ),
    (
        "AllowedRelays = ['relay.example.com']",
        {"relays": ("relay.example.com", "b")},
        ALL,
        "allowed-relays",
        "does not allow b",
    ),
    (f"AllowedRelays = ['{PINS[0]}']", {}, set(), "", ""),
    (f"AllowedRelays = ['{PINS[0]}']", {"pins": PINS}, ALL, "allowed-relays", "does not allow relay.example.com"),
    (f"AllowedRelays = ['{PINS[0]}']", {"pins": ()}, ALL, "allowed-relays", "does not allow relay.example.com"),
    (f"AllowedAuthorities = ['{'AB' * 32}']", {}, set(), "", ""),
    (f"AllowedAuthorities = ['{'AC' * 32}']", {}, ALL, "allowed-authorities", f"does not allow sha256:{'ab' * 32}"),
    ("DeniedIdentities = ['x',\n'shop']", {}, ALL, "denied-identities", "DeniedIdentities: label shop (0.toml:2)"),
    ("DeniedIdentities = ['0a']", {}, ALL, "denied-identities", "DeniedIdentities: serial 0A (0.toml:1)"),
    ("MaxStreams = 3", {"streams": 2}, set(), "", ""),
    ("MaxStreams = 3", {"streams": 3}, {O, D}, "max-streams", "MaxStreams = 3 (0.toml:1); 3 are open"),
    ("MaxStreams = 0", {}, {O, D}, "max-streams", "MaxStreams = 0 (0.toml:1); 0 are open"),
    ("MaxStreamsPerLabel = 1", {"streams": 9}, set(), "", ""),
    (
        "MaxStreamsPerLabel = 1",
        {"streams_of_label": 1},
        {O, D},
        "max-streams-per-label",
        "MaxStreamsPerLabel = 1 (0.toml:1); 1 are open",
    ),
    (
        "AllowedTargets = ['unix:/run/db/*']",
        {"target": UnixSocket("/var/run/db/s"), "address": "/run/other"},
        {P, S, O, D},
        "allowed-targets",
        "AllowedTargets (0.toml:1) does not allow unix:/var/run/db/s at /run/other",
    ),
    ("AllowedTargets = ['unix:/run/db/*']", {"target": UnixSocket("/var/run/db/s")}, set(), "", ""),
    (
        "DeniedTargets = ['unix:/run/docker.sock']\nAllowedTargets = ['unix:*']",
        {"target": UnixSocket("/tmp/link"), "address": "/run/docker.sock"},
        {P, S, O, D},
        "denied-targets",
        'DeniedTargets "unix:/run/docker.sock" (0.toml:1) denies unix:/tmp/link at /run/docker.sock',
    ),
    ("AllowUdp = false", {}, {D}, "allow-udp", "AllowUdp = false (0.toml:1)"),
    ("AllowUdp = true", {}, set(), "", ""),
    ("AllowRun = false", {}, {N}, "allow-run", "AllowRun = false (0.toml:1)"),
    ("AllowRun = true", {}, set(), "", ""),
    ("AllowedHours = ['Wed 11:00-13:00']", {}, set(), "", ""),
    (
        "AllowedHours = ['Wed 13:00-14:00', 'Thu 11:00-13:00']",
        {},
        {S, O, D},
        "allowed-hours",
        "AllowedHours (0.toml:1) does not allow Wed 12:00",
    ),
    (
        "AllowedForwardAddresses = ['127.0.0.1:*']",
        {"target": None, "path": "/run/x"},
        {F},
        "allowed-forward-addresses",
        "AllowedForwardAddresses (0.toml:1) does not allow unix:/run/x",
    ),
    ("AllowedForwardAddresses = ['unix:/run/x']", {"target": None, "path": "/run/x"}, set(), "", ""),
    ("AllowedForwardAddresses = ['unix:*']", {"target": None, "path": "/run/x"}, set(), "", ""),
    ("AllowedForwardAddresses = ['*:*']", {}, set(), "", ""),
    (
        "AllowedForwardAddresses = ['unix:*']",
        {"target": HostPort("::1", 1)},
        {F},
        "allowed-forward-addresses",
        "AllowedForwardAddresses (0.toml:1) does not allow [::1]:1",
    ),
    (
        "AllowedForwardAddresses = ['127.0.0.1:*']",
        {"target": HostPort("0.0.0.0", 5432)},
        {F},
        "allowed-forward-addresses",
        "AllowedForwardAddresses (0.toml:1) does not allow 0.0.0.0:5432",
    ),
]


@pytest.mark.parametrize(("text", "changes", "actions", "kind", "rule"), DENIALS)
def test_what_is_denied_and_by_which_rule(
    text: str, changes: dict[str, Any], actions: set[Action], kind: str, rule: str
) -> None:
    resource = attrs.evolve(RESOURCE, **changes)

    for action in Action:
        decision = policy(text, "AllowUdp = true").decide(SHOP, action, resource)
        assert (decision.reason is not None) is (action in actions), action
        if action in actions:
            assert decision.reason is (Reason.IDENTITY_DENIED if kind == "denied-identities" else DENIED)
            assert decision.kind == kind
            assert rule in decision.rule


HOURS = st.sampled_from(["Mon-Fri 08:00-18:00", "daily 12:00-24:00", "Sun 01:00-02:00", "Sat-Mon 00:00-12:00"])


@given(
    st.lists(st.lists(HOURS, max_size=2), max_size=3),
    st.lists(st.datetimes(dt.datetime(2026, 3, 1), dt.datetime(2026, 3, 15)), min_size=2, max_size=2),  # noqa: DTZ001
)
def test_time_changes_a_decision_only_if_it_changes_which_hours_it_is_within(
    hours: list[list[str]], times: list[dt.datetime]
) -> None:
    rules = policy("MaxStreams = 9", *(f"AllowedHours = {entries!r}" for entries in hours))
    one, other = ((rules.within_hours(at), rules.decide(SHOP, STREAM, attrs.evolve(RESOURCE, at=at))) for at in times)
    assert len(one[0]) == len(hours)
    assert one[1].reason == (None if all(one[0]) else DENIED)
    assert one[0] != other[0] or one[1].reason == other[1].reason


def test_every_file_has_to_allow_it() -> None:
    both = policy("AllowedTargets = ['*.corp.example:*']", "\nAllowedTargets = ['*:5432']")

    assert both.decide(SHOP, STREAM, RESOURCE).reason is None
    other_port = attrs.evolve(RESOURCE, target=HostPort("db.corp.example", 22))
    assert both.decide(SHOP, STREAM, other_port).rule == (
        "AllowedTargets (1.toml:2) does not allow db.corp.example:22"
    )
    other_host = attrs.evolve(RESOURCE, target=HostPort("db.example", 5432))
    assert both.decide(SHOP, STREAM, other_host).rule == "AllowedTargets (0.toml:1) does not allow db.example:5432"


def test_the_sinks_of_the_audit_log_that_any_file_requires() -> None:
    assert policy().required_audit == frozenset()
    texts = ("RequireAudit = ['file']", "RequireAudit = ['syslog', 'file']", "RequireAudit = []")
    assert policy(*texts).required_audit == {"file", "syslog"}
    for wrong in ("['File']", "['stderr']", "['']", "'file'", "[1]"):
        with pytest.raises(ConfigurationError, match="RequireAudit"):
            policy(f"RequireAudit = {wrong}")


def test_a_request_that_is_not_an_applications_has_no_identity() -> None:
    assert policy("DeniedIdentities = ['shop']").decide(None, Action.PUBLISH, RESOURCE).reason is None
    assert policy("DeniedTargets = ['*:*']").decide(None, Action.PUBLISH, RESOURCE).reason is DENIED


# --- another file can only restrict

_HOSTS = st.sampled_from(
    ["db.corp.example", "*.corp.example", "*", "10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "[::/0]", "[::1]", "localhost"]
)
_TARGETS = st.builds("{}:{}".format, _HOSTS, st.sampled_from(["*", "22", "1-1024", "5432"]))


def _listed(name: str, elements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(elements, max_size=3).map(lambda found: f"{name} = {found}\n")


_STATEMENTS = [
    st.sampled_from(["AllowHybridConnections = true\n", "AllowHybridConnections = false\n"]),
    _listed("AllowedTargets", _TARGETS),
    _listed("DeniedTargets", _TARGETS),
    _listed("AllowedRelays", st.sampled_from(["relay.example.com", "*.example.com", "b", *PINS])),
    _listed("AllowedAuthorities", st.sampled_from(["ab" * 32, "cd" * 32])),
    _listed("DeniedIdentities", st.sampled_from(["shop", "0A", "billing"])),
    st.integers(0, 3).map("MaxStreams = {}\n".format),
    st.integers(0, 3).map("MaxStreamsPerLabel = {}\n".format),
    _listed("AllowedHours", st.sampled_from(["Mon-Fri 08:00-18:00", "daily 00:00-24:00", "Sun 01:00-02:00"])),
    _listed("AllowedForwardAddresses", _TARGETS),
    st.sampled_from(["AllowUdp = true\n", "AllowUdp = false\n"]),
    st.sampled_from(["AllowRun = true\n", "AllowRun = false\n"]),
]
FILES = st.tuples(*(st.one_of(st.just(""), one) for one in _STATEMENTS)).map("".join)
RESOURCES = st.builds(
    Resource,
    st.just("orders"),
    st.builds(
        HostPort,
        st.sampled_from(["db.corp.example", "corp.example", "10.1.2.3", "localhost", "::1", "0.0.0.0"]),
        st.sampled_from([22, 5432, 65535]),
    ),
    address=st.sampled_from(["", "10.1.2.3", "127.0.0.1", "::1", "::ffff:10.1.2.3", "192.0.2.1"]),
    relays=st.sampled_from([("relay.example.com",), ("relay.example.com", "b"), ()]),
    pins=st.sampled_from([PINS, PINS[:1], ()]),
    authority=st.sampled_from(["ab" * 32, "cd" * 32, ""]),
    streams=st.integers(0, 4),
    streams_of_label=st.integers(0, 4),
    at=st.none() | st.datetimes(dt.datetime(2026, 3, 2), dt.datetime(2026, 3, 9)),  # noqa: DTZ001
)


@given(st.lists(FILES, max_size=3), FILES, st.integers(0, 3), st.sampled_from(Action), RESOURCES)
def test_another_file_never_widens(
    texts: list[str], more: str, position: int, action: Action, resource: Resource
) -> None:
    further = attrs.evolve(parse_policy_file("further", more), is_further=True)
    before = policy("", *texts)
    after = Policy(files=(*before.files[:position], further, *before.files[position:]))

    if before.decide(SHOP, action, resource).reason is not None:
        assert after.decide(SHOP, action, resource).reason is not None
    alone = Policy(files=(further, *policy("AllowUdp = true").files))
    if alone.decide(SHOP, action, resource).reason is not None:
        assert after.decide(SHOP, action, resource).reason is not None


@given(st.lists(FILES, max_size=3), st.sampled_from(Action), RESOURCES)
def test_the_order_of_files_does_not_matter(texts: list[str], action: Action, resource: Resource) -> None:
    forward, backward = policy(*texts), policy(*reversed(texts))

    assert (forward.decide(SHOP, action, resource).reason is None) is (
        backward.decide(SHOP, action, resource).reason is None
    )


@given(FILES, FILES, st.sampled_from(sorted(set(Action) - {Action.OPEN_DATAGRAMS}, key=str)), RESOURCES)
def test_together_they_allow_what_both_allow(one: str, other: str, action: Action, resource: Resource) -> None:
    allowed = [found.decide(SHOP, action, resource).reason is None for found in (policy(one), policy(other))]

    assert (policy(one, other).decide(SHOP, action, resource).reason is None) is all(allowed)
    assert (policy(one).and_also(policy(other)).decide(SHOP, action, resource).reason is None) is all(allowed)


@given(FILES, RESOURCES)
def test_what_a_stream_may_do_its_session_and_its_connection_may_do(text: str, resource: Resource) -> None:
    """Otherwise an open stream would be closed by a decision about something that it depends on."""
    one = policy(text)

    if one.decide(SHOP, Action.OPEN_STREAM, resource).reason is None:
        assert one.decide(SHOP, Action.OPEN_SESSION, resource).reason is None
        assert one.decide(None, Action.PUBLISH, resource).reason is None
    if one.decide(None, Action.PUBLISH, resource).reason is None:
        assert one.decide(None, Action.REGISTER, resource).reason is None


# --- hostile files

#: What the machine's administrator has written.
BASE = """\
AllowedTargets = ["db.corp.example:5432", "10.1.0.0/16:443"]
DeniedTargets = ["*:22", "127.0.0.0/8:*"]
AllowedRelays = ["relay.example.com"]
DeniedIdentities = ["intruder"]
MaxStreams = 5
AllowedHours = ["Mon-Fri 08:00-18:00"]
"""
HOSTILE = [
    b"",
    b"\n",
    b"AllowHybridConnections = true\n",
    b"AllowedTargets = ['*:*']\n",
    b"AllowedTargets = ['*:1-65535', '0.0.0.0/0:*', '[::/0]:*']\n",
    b"AllowedTargets = []\n",
    b"DeniedTargets = []\n",
    b"DeniedTargets = ['!*:22']\n",
    b"DeniedTargets = ['-*:22']\n",
    b"AllowedRelays = ['*']\n",
    b"AllowedAuthorities = []\n",
    b"DeniedIdentities = []\n",
    b"DeniedIdentities = ['!intruder']\n",
    b"DeniedIdentities = ['']\n",
    b"MaxStreams = 1000000\n",
    b"MaxStreams = 1000001\n",
    b"MaxStreams = -1\n",
    b"MaxStreams = 9999999999999999999999\n",
    b"MaxStreams = inf\n",
    b"MaxStreams = nan\n",
    b"MaxStreams = 0x7fffffff\n",
    b"MaxStreams = true\n",
    b"AllowedHours = ['daily 00:00-24:00']\n",
    b"AllowedHours = ['Mon-Sun 00:00-24:00']\n",
    b"AllowedHours = ['Mon 99:99-99:99']\n",
    b"AllowedForwardAddresses = ['*:*']\n",
    b"AllowedTargets = ['10.1.0.0/0:*']\n",
    b"AllowedTargets = ['\\u0000:*']\n",
    b"AllowedTargets = ['*\n",
    b"AllowedTargets = [['*:*']]\n",
    b"AllowedTargets = {'*:*' = true}\n",
    b"AllowedTargets = '*:*'\n",
    b"AllowedTargets = ['*:*']\nAllowedTargets = ['*:*']\n",
    b"allowedTargets = ['*:*']\n",
    b"Allowed\xc2\xa0Targets = ['*:*']\n",
    b"Allow\xd0\xb5dTargets = ['*:*']\n",
    b"[policy]\nAllowedTargets = ['*:*']\n",
    b"[[AllowedTargets]]\n",
    b"AllowedTargets.append = ['*:*']\n",
    b"__class__ = 'x'\n",
    b"file = '00.toml'\n",
    b"is_deny_list = true\n",
    b"allowed_targets = ['*:*']\n",
    b"Override = true\nAllowedTargets = ['*:*']\n",
    b"include = '/tmp/other.toml'\n",
    b"\xff\xfe\x00A\n",
    b"\xef\xbb\xbfAllowedTargets = ['*:*']\r\n",
    b"\x00\n",
    b"# \xff\n",
    b"AllowedTargets = [" + b"'*:*'," * 10_001 + b"]\n",
    b"AllowedTargets = " + b"[" * 2000 + b"]" * 2000 + b"\n",
    b"AllowedTargets = ['" + b"*" * 100_000 + b"']\n",
    b"#" * ((1 << 20) + 1),
    b"---\nAllowedTargets: ['*:*']\n",
    b'{"AllowedTargets": ["*:*"]}\n',
]
#: What the administrator's file denies.
REQUESTS = [
    (action, attrs.evolve(RESOURCE, **changes), subject)
    for action in (P, S, O)
    for changes in (
        {"target": HostPort("db.corp.example", 22)},
        {"target": HostPort("other.example", 5432)},
        {"target": HostPort("10.1.2.3", 22)},
        {"target": HostPort("127.0.0.1", 443)},
        {"target": HostPort("0.0.0.0", 443)},
        {"address": "127.0.0.1"},
        {"relays": ("other.example",)},
    )
    for subject in (SHOP, None)
] + [
    (O, attrs.evolve(RESOURCE, streams=5), SHOP),
    (O, attrs.evolve(RESOURCE, at=dt.datetime(2026, 3, 8, 12)), SHOP),  # noqa: DTZ001
    (S, RESOURCE, attrs.evolve(SHOP, label="intruder")),
]


@pytest.mark.parametrize("name", ["00.toml", "20.toml"], ids=["before", "after"])
@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: ascii(content[:30]))
def test_no_hostile_file_widens_anything(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "10.toml").write_text(BASE)
    (tmp_path / name).write_bytes(content)

    assert len(HOSTILE) >= 50
    try:
        found = Policy(files=PolicyDirectory(tmp_path).read())
    except ConfigurationError:
        return  # nothing is in force: a connector does not start, or keeps the last valid policy
    for action, resource, subject in REQUESTS:
        assert policy(BASE).decide(subject, action, resource).reason is not None
        assert found.decide(subject, action, resource).reason is not None, resource


def test_a_deny_list_for_one_hybrid_connection() -> None:
    everything = Policy(files=(Restrictions(file="all", is_deny_list=True, denied_identities=_denies("a")),))
    one = Policy(files=(Restrictions(file="one", is_deny_list=True, denied_identities=_denies("b")),)).only_for(
        "orders"
    )
    both = everything.and_also(one)

    def allows(label: str, connection: str) -> bool:
        subject = PeerIdentity(connection, Role.APPLICATION, label, "0A", 4e9)
        return both.decide(subject, STREAM, Resource(connection, None)).reason is None

    assert [allows("a", "orders"), allows("a", "billing")] == [False, False]
    assert [allows("b", "orders"), allows("b", "billing")] == [False, True]
    assert allows("c", "orders")


def _denies(label: str) -> IdentityList:
    place = Place("file", 1)
    return IdentityList(place, (Entry(frozenset({label}), label, place),))


_PORTS = st.integers(1, 30)
_ENTRIES = st.builds(
    lambda host, ports: f"{host}:{min(ports)}-{max(ports)}",
    st.sampled_from(("ftp.corp", "*.corp", "*", "other.corp")),
    st.tuples(_PORTS, _PORTS),
)


@given(
    st.lists(_ENTRIES, max_size=3),
    st.lists(_ENTRIES, min_size=1, max_size=3),
    st.lists(_PORTS, min_size=2, max_size=12, unique=True),
)
def test_several_ports_are_decided_about_as_each_of_them(
    denied: list[str], allowed: list[str], ports: list[int]
) -> None:
    """The rule that is named is that of the first port that is denied."""
    rules = policy(f"DeniedTargets = {denied}\nAllowedTargets = {allowed}")
    target = HostPorts("ftp.corp", PortSet.of(ports))
    each = [rules.decide(None, P, Resource("orders", one)) for one in target.each]
    denials = [one for one in each if one.reason is not None]
    expected = denials[0] if denials else Decision()
    assert rules.decide(None, P, Resource("orders", target)) == expected
    assert rules.decide(None, S, Resource("orders", target)) == (
        expected if len(denials) == len(each) else Decision()
    )


def test_what_is_done_for_a_session_does_not_depend_on_the_number_of_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = policy('DeniedTargets = ["10.0.0.0/8:*", "*.evil.example:*"]\nAllowedTargets = ["ftp:50510"]')
    looked_up: list[object] = []
    original = TargetIndex.permits

    def permits(self: TargetIndex, host: str, port: int | UnknownPort, address: Address | None) -> bool:
        looked_up.append(port)
        return original(self, host, port, address)

    monkeypatch.setattr(TargetIndex, "permits", permits)
    target = HostPorts("ftp", PortSet([(50000, 50510), (21, 21)]))
    assert rules.decide(None, S, Resource("orders", target)).reason is None
    assert looked_up == [50000, 50510]
