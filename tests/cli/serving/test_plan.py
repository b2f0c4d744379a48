"""Applying a changed configuration: every rule, and whatever configuration follows another."""

from __future__ import annotations

import time
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.cli.entries import ANYWHERE, Entry, Key, Listen
from hybridrelay.cli.serving.plan import Change, Plan, Replace, Running, Start, Stop, Update, Wanted, make_plan
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import ConnectionString, Endpoint, HostPort, Role, create_authority, generate_key

NOW = time.time()
RELAYS = (Endpoint("relay.example"),)
NAMES = ("one", "two", "three")
AUTHORITIES = {name: create_authority(name, now=NOW) for name in NAMES}
KEYS = (generate_key(), generate_key())
IDENTITIES = {
    (name, role, number): AUTHORITIES[name].issue(role, role.value, now=NOW)
    for name in NAMES
    for role in (Role.CONNECTOR, Role.APPLICATION)
    for number in range(2)
}


def string(
    name: str, role: Role = Role.CONNECTOR, *, key: int = 0, identity: int = 0, port: int = 1
) -> ConnectionString:
    return ConnectionString(
        RELAYS,
        "rule",
        KEYS[key],
        name,
        HostPort("db", port) if role is Role.CONNECTOR else None,
        IDENTITIES[name, role, identity],
        AUTHORITIES[name].certificate,
    )


def entry(file: str, *listen: Listen, where: str = "") -> Entry:
    return Entry(file, (file, 0), listen, where=where)


ONE, TWO = Wanted(entry("1"), string("one")), Wanted(entry("2"), string("two"))


def running(*wanted: Wanted) -> dict[Key, Running]:
    found = {}
    for one in wanted:
        assert one.string is not None
        found[one.entry.key] = Running(one.entry, one.string)
    return found


def start(wanted: Wanted) -> Start:
    assert wanted.string is not None
    return Start(wanted.entry, wanted.string)


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        ([], [ONE, TWO], [start(ONE), start(TWO)]),
        ([ONE, TWO], [ONE, TWO], []),
        ([ONE, TWO], [TWO, ONE], []),
        ([ONE], [TWO], [Stop(ONE.entry.key), start(TWO)]),
        # The file of an entry now has a string for another hybrid connection.
        ([ONE], [attrs.evolve(ONE, string=TWO.string)], [Stop(("1", 0)), Start(ONE.entry, string("two"))]),
        # It cannot be read now.
        ([ONE, TWO], [attrs.evolve(ONE, string=None), TWO], []),
        ([ONE], [Wanted(entry("1"), string("one", identity=1))], [Replace(ONE.entry, string("one", identity=1))]),
        # Another identity and another key at once.
        (
            [ONE],
            [Wanted(entry("1"), string("one", identity=1, key=1))],
            [Replace(ONE.entry, string("one", identity=1, key=1))],
        ),
        (
            [Wanted(entry("1", ANYWHERE), string("one", Role.APPLICATION))],
            [Wanted(entry("1", ("127.0.0.1", 5432)), None)],
            [Change(entry("1", ("127.0.0.1", 5432)))],
        ),
        (
            [ONE],
            [attrs.evolve(ONE, entry=attrs.evolve(ONE.entry, proxy_protocol=True))],
            [Change(attrs.evolve(ONE.entry, proxy_protocol=True))],
        ),
        (
            [ONE],
            [attrs.evolve(ONE, entry=attrs.evolve(ONE.entry, connect_in_parallel=True))],
            [Change(attrs.evolve(ONE.entry, connect_in_parallel=True))],
        ),
        # The place in the file is not a setting.
        ([ONE], [attrs.evolve(ONE, entry=entry("1", where="connector.toml: line 9"))], []),
    ],
)
def test_what_a_reload_starts_changes_and_stops(
    before: Sequence[Wanted], after: Sequence[Wanted], steps: Sequence[object]
) -> None:
    assert make_plan(running(*before), after).steps == tuple(steps)


def test_what_is_used_in_place() -> None:
    (step,) = make_plan(running(ONE), [Wanted(entry("1"), string("one", key=1, port=2))]).steps
    assert isinstance(step, Update)
    assert step.update.taken_up == ("shared access key", "target")
    assert step.update.string == string("one", key=1, port=2)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (
            [ONE, Wanted(entry("2", where="c.toml: line 7"), string("one", identity=1))],
            "c.toml: line 7: two connection strings are for one at relay.example: 1 and 2",
        ),
        (
            [
                Wanted(entry("1", ("::1", 5)), string("one", Role.APPLICATION)),
                Wanted(entry("2", ("::1", 5), where="f.toml: line 3"), string("two", Role.APPLICATION)),
            ],
            r"f.toml: line 3: \[::1\]:5 is already a local address of 1",
        ),
        ([Wanted(entry("1", ("::1", 5), ("::1", 5)), string("one", Role.APPLICATION))], "already a local address"),
    ],
)
def test_what_cannot_be_served_together(wanted: Sequence[Wanted], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make_plan({}, wanted)


def test_several_ports_that_the_system_chooses_and_clients_of_one_hybrid_connection() -> None:
    application = string("one", Role.APPLICATION)
    plan = make_plan({}, [Wanted(entry(file, ANYWHERE, ANYWHERE), application) for file in ("1", "2")])
    assert [type(step) for step in plan.steps] == [Start, Start]


SETTINGS = st.builds(
    lambda name, key, identity, port, listen: (
        string(name, Role.APPLICATION, key=key, identity=identity)
        if listen
        else string(name, key=key, identity=identity, port=port),
        tuple(("127.0.0.1", number) for number in sorted(listen)),
    ),
    st.sampled_from(NAMES),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(1, 2),
    st.sets(st.integers(0, 3)),
)
CONFIGURATIONS = st.dictionaries(st.sampled_from("abc"), SETTINGS)


def after(before: dict[Key, Running], plan: Plan) -> dict[Key, Running]:
    """What runs when the steps of a plan were taken, in their order."""
    now = dict(before)
    for step in plan.steps:
        match step:
            case Stop(key):
                del now[key]
            case Start(entry, string):
                assert entry.key not in now
                # Nothing that runs at this moment has the same name at the same relay, or the same port.
                make_plan({}, [*(Wanted(one.entry, one.string) for one in now.values()), Wanted(entry, string)])
                now[entry.key] = Running(entry, string)
            case Replace(entry, string):
                assert now[entry.key].string.entity_path == string.entity_path
                now[entry.key] = Running(entry, string)
            case Update(key, update):
                now[key] = attrs.evolve(now[key], string=update.string)
            case Change(entry):
                now[entry.key] = Running(entry, now[entry.key].string)
    return now


@given(CONFIGURATIONS, CONFIGURATIONS, st.sets(st.sampled_from("abc")))
def test_afterwards_everything_is_as_wanted(
    first: dict[str, tuple[ConnectionString, tuple[Listen, ...]]],
    second: dict[str, tuple[ConnectionString, tuple[Listen, ...]]],
    unreadable: set[str],
) -> None:
    """What is unchanged is in no step."""
    try:
        before = after({}, make_plan({}, [Wanted(entry(file, *where), one) for file, (one, where) in first.items()]))
        wanted = [
            Wanted(entry(file, *where), None if file in unreadable and file in first else one)
            for file, (one, where) in second.items()
        ]
        plan = make_plan(before, wanted)
    except ConfigurationError:
        return  # nothing changes
    now = after(before, plan)
    assert now == {one.entry.key: Running(one.entry, one.string or before[one.entry.key].string) for one in wanted}
    assert set(plan.unchanged) == {key for key in now if before.get(key) == now[key]}
    assert make_plan(now, wanted).steps == (), "a second time, nothing is left to do"
