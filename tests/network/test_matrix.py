"""The prober against every combination of what a firewall may do to the five ports of a relay."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.connectivity import AUTO, NoRouteWorks, Prober, RelayEndpoint, Report
from hybridrelay.security import parse_connection_string_untrusted

from .conftest import NetworkDeployment
from .lab import CLIENT, HTTP, HTTPS, NATIVE, PORTS, RELAY_ADDRESSES, RELAY_HOST, Lab, State

Combination = tuple[State, ...]

#: All 1024 in `nox -s network`; otherwise those that differ in more than the number of faults.
EVERYTHING = os.environ.get("HYBRIDRELAY_EVERY_COMBINATION", "") == "1"
#: Surveys at a time: they wait for deadlines, most of the time. All come from one address and with one key, and the
#: relay limits the handshakes of those that do not go on to authenticate, so there must not be many at the same time.
TOGETHER = 12
#: Decisions at a time: they race, and a busy machine is not what is tried here.
RACES_TOGETHER = 8
DEADLINE_SECONDS = 900 if EVERYTHING else 100


def combinations() -> list[Combination]:
    """What is tried.

    The representative subset: everything open; every single fault and every pair of faults; then, native closed in
    each way as a whole or by one port, with each combination of the two ports of the fallback: this is what decides.
    """
    everything = list(itertools.product(State, repeat=len(PORTS)))
    if EVERYTHING:
        return everything
    closed = [state for state in State if state is not State.OPEN]
    chosen = {one for one in everything if sum(state is not State.OPEN for state in one) <= 2}
    for fallback in itertools.product(State, repeat=2):
        for state in closed:
            chosen.add((state,) * len(NATIVE) + fallback)
    return [one for one in everything if one in chosen]


def expected_route(combination: Combination) -> str | None:
    states = dict(zip(PORTS, combination, strict=True))
    if all(states[port] is State.OPEN for port in NATIVE):
        return "tcp"
    if states[HTTPS] is State.OPEN:
        return "wss"
    return "ws" if states[HTTP] is State.OPEN else None


@attrs.frozen
class Site:
    """One relay address behind one combination."""

    combination: Combination
    endpoint: RelayEndpoint

    def state(self, port: int | None) -> State:
        return self.combination[PORTS.index(port or 0)]

    def check_attempts(self, report: Report) -> None:
        """Check that every attempt in the report states what the firewall does."""
        for attempt in report.attempts:
            state = self.state(attempt.port)
            kind = None if attempt.failure is None else str(attempt.failure.kind)
            if attempt.outcome == "PASS":
                assert state is State.OPEN, self.describe(report)
            elif attempt.outcome == "FAIL":
                assert kind == state.value, self.describe(report)

    def describe(self, report: Report) -> str:
        states = ", ".join(f"{port} {state.value}" for port, state in zip(PORTS, self.combination, strict=True))
        return f"{states}\n{report.as_table()}"


@pytest.fixture
def endpoint(deployment: NetworkDeployment) -> RelayEndpoint:
    published = deployment.create("matrix", ("127.0.0.1", 1))
    text = Path(published.application).read_text()
    (endpoint,) = RelayEndpoint.all_from(parse_connection_string_untrusted(text))
    return endpoint


@pytest.fixture
def sites(endpoint: RelayEndpoint, lab: Lab) -> Iterator[list[Site]]:
    """Every combination that is tried now, each at an address of its own."""
    found, states = [], {}
    for combination, address in zip(combinations(), RELAY_ADDRESSES.hosts(), strict=False):
        found.append(Site(combination, attrs.evolve(endpoint, host=str(address))))
        for port, state in zip(PORTS, combination, strict=True):
            states[CLIENT, str(address), port] = state
    lab.set_many(states)
    yield found
    lab.reset()


async def for_each(sites: Sequence[Site], together: int, try_one: Callable[[Site], Awaitable[None]]) -> None:
    limit = trio.CapacityLimiter(together)

    async def run(site: Site) -> None:
        async with limit:
            await try_one(site)

    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            for site in sites:
                nursery.start_soon(run, site)


@pytest.mark.timeout(DEADLINE_SECONDS + 60)
async def test_the_survey_reports_every_port_as_it_is(
    sites: list[Site], lab: Lab, remark: Callable[[str], None]
) -> None:
    async def survey(site: Site) -> None:
        report = await Prober(site.endpoint, mode=AUTO).survey()
        assert report.chosen == expected_route(site.combination), site.describe(report)
        assert [attempt.port for attempt in report.attempts if attempt.outcome == "SKIP"] == []
        site.check_attempts(report)
        longest.append(report.seconds)

    longest: list[float] = []
    began = trio.current_time()
    with lab.inside(CLIENT):
        await for_each(sites, TOGETHER, survey)
    remark(
        f"survey: {len(sites)} combinations as documented, in {trio.current_time() - began:.0f} s; "
        f"the longest took {max(longest):.1f} s"
    )


@pytest.mark.timeout(DEADLINE_SECONDS + 60)
async def test_the_decision_is_as_documented(sites: list[Site], lab: Lab, remark: Callable[[str], None]) -> None:
    async def choose(site: Site) -> None:
        try:
            decision = await Prober(site.endpoint, mode=AUTO).choose()
            report, route = decision.report, decision.candidate.route.name
        except NoRouteWorks as exc:
            report, route = exc.report, None
            # Every route says what is wrong with it.
            assert {attempt.route for attempt in report.failures} == {"tcp", "wss", "ws"}, site.describe(report)
        assert route == report.chosen == expected_route(site.combination), site.describe(report)
        site.check_attempts(report)
        taken[route].append(report.seconds)

    taken: dict[str | None, list[float]] = {route: [] for route in ("tcp", "wss", "ws", None)}
    began = trio.current_time()
    with lab.inside(CLIENT):
        await for_each(sites, RACES_TOGETHER, choose)
    remark(f"decision: {len(sites)} combinations as documented, in {trio.current_time() - began:.0f} s")
    for route, seconds in taken.items():
        if seconds:
            remark(
                f"  {route or 'no route'}: {len(seconds)} times, in {min(seconds):.3f} to {max(seconds):.3f} s, "
                f"median {sorted(seconds)[len(seconds) // 2]:.3f} s"
            )


@pytest.mark.slow
async def test_times_to_a_decision(endpoint: RelayEndpoint, lab: Lab, remark: Callable[[str], None]) -> None:
    """The figures that docs/connectivity.md gives."""
    for what, state, expected in (
        ("everything open", State.OPEN, "tcp"),
        ("all native ports refused", State.REFUSED, "wss"),
        ("all native ports dropped", State.DROPPED, "wss"),
        ("all native ports stalled", State.STALLED, "wss"),
    ):
        lab.set(state, *NATIVE)
        seconds = []
        with lab.inside(CLIENT), trio.fail_after(DEADLINE_SECONDS):
            for _ in range(5):
                decision = await Prober(endpoint, mode=AUTO).choose()
                assert decision.candidate.route.name == expected
                seconds.append(decision.report.seconds)
        remark(f"{what}: {expected} after {sorted(seconds)[2] * 1000:.0f} ms (median of 5)")


@pytest.mark.parametrize(
    "combination",
    [
        pytest.param((State.OPEN,) * 5, marks=pytest.mark.slow),
        (State.OPEN, State.STALLED, State.OPEN, State.OPEN, State.OPEN),
        pytest.param(
            (State.DROPPED, State.DROPPED, State.DROPPED, State.STALLED, State.OPEN), marks=pytest.mark.slow
        ),
        (State.REFUSED, State.DROPPED, State.STALLED, State.REFUSED, State.STALLED),
    ],
    ids=["open", "data-stalled", "only-80", "nothing"],
)
def test_the_probe_command_reports_the_state_of_each_port(
    deployment: NetworkDeployment, lab: Lab, combination: Combination
) -> None:
    """The real thing: `hybridrelay probe --json` in the client's namespace."""
    published = deployment.create("command", ("127.0.0.1", 1))
    lab.set_many({(CLIENT, RELAY_HOST, port): state for port, state in zip(PORTS, combination, strict=True)})
    done = deployment.run("probe", "--connection-string-file", published.application, "--json")
    route = expected_route(combination)
    assert (done.returncode == 0) == (route is not None), done.stderr
    report = json.loads(done.stdout)
    assert report["chosen"] == route
    reasons = {attempt["port"]: attempt["reason"] for attempt in report["attempts"]}
    assert reasons == {
        port: None if state is State.OPEN else state.value for port, state in zip(PORTS, combination, strict=True)
    }
