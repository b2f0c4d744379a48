"""Which route is chosen, and when: the pure selection, driven by transcripts and in simulated time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connectivity.selection import (
    COMPLETE,
    ONE_AFTER_THE_OTHER,
    TRANSITIONS,
    Command,
    Decide,
    RouteSelection,
    SelectionRules,
    Start,
    StepEvent,
    StepId,
    StepState,
    Stop,
)
from hybridrelay.protocol.preamble import Purpose

P, C, D = Purpose.PROBE, Purpose.CONTROL, Purpose.DATA
#: A native route with three ports, and two fallbacks with one port each.
ROUTES = [[P, C, D], [P], [P]]
POLICY = SelectionRules(stagger_seconds=1, min_grace_seconds=2, max_grace_seconds=8)
NEVER = 1000.0


def states(selection: RouteSelection) -> list[str]:
    return [record.state.value for record in selection.steps.values()]


# --- the table


@pytest.mark.parametrize("event", StepEvent)
@pytest.mark.parametrize("state", StepState)
def test_every_event_in_every_state(state: StepState, event: StepEvent) -> None:
    expected = {
        StepState.WAITING: {StepEvent.START: "running", StepEvent.RULE_OUT: "ruled out"},
        StepState.RUNNING: {StepEvent.PASS: "passed", StepEvent.FAIL: "failed", StepEvent.STOP: "stopped"},
        StepState.STOPPED: {StepEvent.PASS: "stopped", StepEvent.FAIL: "stopped"},
        StepState.PASSED: {StepEvent.DISPROVE: "failed"},
    }.get(state, {})
    found = TRANSITIONS.get((state, event))
    assert (None if found is None else found.value) == expected.get(event)


# --- transcripts: an input at a time, and the commands that follow

Input = tuple[str, float] | tuple[str, float, int, Purpose]


def play(selection: RouteSelection, transcript: Sequence[tuple[Input, list[Command]]]) -> None:
    for given_input, expected in transcript:
        name, now = given_input[:2]
        step = (StepId(given_input[2], given_input[3]),) if len(given_input) == 4 else ()
        method: Callable[..., list[Command]] = getattr(selection, name)
        commands = method(*step, now)
        assert commands == expected, given_input


def test_the_best_route_works() -> None:
    selection = RouteSelection(ROUTES, POLICY)
    play(
        selection,
        [
            (("begin", 0), [Start(StepId(0, P))]),
            (("passed", 0.1, 0, P), [Start(StepId(0, C)), Start(StepId(0, D))]),
            (("passed", 0.2, 0, D), []),
            (("passed", 0.3, 0, C), [Decide(0)]),
            (("handle_timeout", 50), []),
        ],
    )
    assert states(selection) == ["passed", "passed", "passed", "waiting", "waiting"]
    assert [record.ended for record in selection.steps.values()] == [0.1, 0.3, 0.2, None, None]
    assert selection.next_deadline() is None


def test_a_probe_that_fails_rules_the_other_ports_out_and_starts_the_next_route() -> None:
    selection = RouteSelection(ROUTES, POLICY)
    play(
        selection,
        [
            (("begin", 0), [Start(StepId(0, P))]),
            (("failed", 0.1, 0, P), [Start(StepId(1, P))]),
            (("failed", 0.2, 1, P), [Start(StepId(2, P))]),
            (("failed", 0.3, 2, P), [Decide(None)]),
        ],
    )
    assert states(selection) == ["failed", "ruled out", "ruled out", "failed", "failed"]


def test_one_port_that_fails_stops_the_others_of_its_route() -> None:
    selection = RouteSelection(ROUTES, POLICY)
    play(
        selection,
        [
            (("begin", 0), [Start(StepId(0, P))]),
            (("passed", 0.1, 0, P), [Start(StepId(0, C)), Start(StepId(0, D))]),
            (("failed", 0.2, 0, D), [Stop(StepId(0, C)), Start(StepId(1, P))]),
            (("passed", 0.2, 0, C), []),  # it ended at the same moment
            (("passed", 0.4, 1, P), [Decide(1)]),
        ],
    )
    assert states(selection) == ["passed", "stopped", "failed", "passed", "waiting"]


def test_a_silent_route_costs_a_stagger_and_a_grace() -> None:
    selection = RouteSelection(ROUTES, POLICY)
    play(selection, [(("begin", 0), [Start(StepId(0, P))])])
    assert selection.next_deadline() == 1
    play(selection, [(("handle_timeout", 0.5), []), (("handle_timeout", 1), [Start(StepId(1, P))])])
    assert selection.next_deadline() == 2
    play(selection, [(("passed", 1.5, 1, P), [])])
    assert selection.next_deadline() == 3.5, "no further route starts, and the first one has its grace"
    play(selection, [(("handle_timeout", 3.5), [Stop(StepId(0, P)), Decide(1)])])
    assert states(selection) == ["stopped", "waiting", "waiting", "passed", "waiting"]
    play(selection, [(("failed", 3.5, 0, P), [])])


def test_a_better_route_that_comes_within_the_grace_is_chosen() -> None:
    selection = RouteSelection([[P], [P]], POLICY)
    play(
        selection,
        [
            (("begin", 0), [Start(StepId(0, P))]),
            (("handle_timeout", 1), [Start(StepId(1, P))]),
            (("passed", 1.5, 1, P), []),
            (("passed", 3.4, 0, P), [Decide(0)]),
        ],
    )


def test_routes_whose_ports_are_off_are_left_out() -> None:
    selection = RouteSelection(ROUTES, POLICY, unavailable={0})
    play(selection, [(("begin", 0), [Start(StepId(1, P))]), (("passed", 1, 1, P), [Decide(1)])])
    assert states(selection) == ["unavailable"] * 3 + ["passed", "waiting"]
    nothing = RouteSelection(ROUTES, POLICY, unavailable={0, 1, 2})
    play(nothing, [(("begin", 0), [Decide(None)])])
    play(RouteSelection([], POLICY), [(("begin", 0), [Decide(None)])])


def test_a_complete_selection_tries_everything_to_its_end() -> None:
    selection = RouteSelection(ROUTES, COMPLETE)
    play(
        selection,
        [
            (("begin", 0), [Start(StepId(0, P)), Start(StepId(1, P)), Start(StepId(2, P))]),
            (("passed", 0.1, 1, P), []),
            (("failed", 0.2, 0, P), [Start(StepId(0, C)), Start(StepId(0, D))]),
            (("failed", 0.3, 2, P), []),
            (("passed", 0.4, 0, C), []),
        ],
    )
    assert selection.next_deadline() is None
    play(selection, [(("passed", 9, 0, D), [Decide(1)])])
    assert states(selection) == ["failed", "passed", "passed", "passed", "failed"]


def test_a_route_that_leads_to_somebody_else_is_replaced_by_the_next() -> None:
    selection = RouteSelection([[P], [P], [P]], COMPLETE)
    play(
        selection,
        [
            (("begin", 0), [Start(StepId(0, P)), Start(StepId(1, P)), Start(StepId(2, P))]),
            (("passed", 0.1, 0, P), []),
            (("failed", 0.1, 1, P), []),
            (("passed", 0.1, 2, P), [Decide(0)]),
            (("disprove", 0.5), [Decide(2)]),
            (("disprove", 0.6), [Decide(None)]),
        ],
    )
    assert states(selection) == ["failed", "failed", "failed"]


def test_one_after_the_other_waits_for_each() -> None:
    selection = RouteSelection([[P], [P, C]], ONE_AFTER_THE_OTHER)
    play(selection, [(("begin", 0), [Start(StepId(0, P))])])
    assert selection.next_deadline() is None
    play(
        selection,
        [
            (("failed", 9, 0, P), [Start(StepId(1, P))]),
            (("passed", 10, 1, P), [Start(StepId(1, C))]),
            (("passed", 11, 1, C), [Decide(1)]),
        ],
    )


# --- in simulated time


@attrs.frozen
class Outcome:
    chosen: int | None
    seconds: float
    started: int


def simulate(selection: RouteSelection, result: Callable[[StepId], tuple[float, bool]]) -> Outcome:
    """Carry out the commands: `result` says how long each step takes, and whether it passes."""
    now, count, running = 0.0, itertools.count(), set[StepId]()
    due: list[tuple[float, int, StepId, bool]] = []
    started, decided = 0, list[Decide]()

    def perform(commands: list[Command]) -> None:
        nonlocal started
        for command in commands:
            assert not decided, "nothing comes after the decision"
            match command:
                case Start(step):
                    seconds, passes = result(step)
                    heapq.heappush(due, (now + seconds, next(count), step, passes))
                    running.add(step)
                    started += 1
                case Stop(step):
                    running.remove(step)
                case Decide():
                    decided.append(command)

    perform(selection.begin(now))
    while not decided:
        deadline = selection.next_deadline()
        if due and (deadline is None or due[0][0] <= deadline):
            at, _, step, passes = heapq.heappop(due)
            if step not in running:
                continue
            now = at
            running.remove(step)
            perform(selection.passed(step, now) if passes else selection.failed(step, now))
        else:
            assert deadline is not None, "it waits for nothing"
            now = deadline
            perform(selection.handle_timeout(now))
    assert not running, "what was started has ended, or was stopped"
    return Outcome(decided[0].route, now, started)


# Routes as (seconds, whether they work), best first; which is chosen; when that is known; how many were started.
TABLE: list[tuple[list[tuple[float, bool]], int | None, float, int]] = [
    ([], None, 0, 0),
    ([(0, True)], 0, 0, 1),
    ([(5, True)], 0, 5, 1),
    ([(5, False)], None, 5, 1),
    # The next starts at once when one fails, and after the stagger when it is slow.
    ([(0, False), (0, True)], 1, 0, 2),
    ([(0.5, False), (0, True)], 1, 0.5, 2),
    ([(0.5, True), (0, True)], 0, 0.5, 1),
    ([(5, True), (NEVER, True)], 0, 5, 2),
    # A better one still under way gets the least grace, ...
    ([(2.5, True), (0.5, True)], 0, 2.5, 2),
    ([(NEVER, True), (0.5, True)], 1, 1 + 0.5 + 2, 2),
    # ... as long as the worse one took, ...
    ([(10, True), (5, True)], 0, 10, 2),
    ([(12, True), (5, True)], 1, 1 + 5 + 5, 2),
    # ... or the longest.
    ([(NEVER, True), (50, True)], 1, 1 + 50 + 8, 2),
    # The grace ends when nothing better is left.
    ([(2, False), (0.5, True)], 1, 2, 2),
    ([(NEVER, True), (NEVER, True), (0, True)], 2, 2 + 2, 3),
    # The middle one arrives within the grace of the last, and does not prolong it.
    ([(NEVER, True), (2.5, True), (0, True)], 1, 2 + 2, 3),
    ([(3, False), (2.5, True), (0, True)], 1, 3.5, 3),
    # Once one has arrived, no other starts.
    ([(NEVER, True), (0, True), (0, True)], 1, 1 + 2, 2),
    ([(0, False), (0, False), (0, False)], None, 0, 3),
    ([(3, False), (3, False), (0, False)], None, 4, 3),
]


@pytest.mark.parametrize(("routes", "chosen", "when", "started"), TABLE)
def test_rank_counts_for_more_than_speed(
    routes: list[tuple[float, bool]], chosen: int | None, when: float, started: int
) -> None:
    selection = RouteSelection([[P] for _ in routes], POLICY)
    outcome = simulate(selection, lambda step: routes[step.route])
    assert (outcome.chosen, outcome.started) == (chosen, started)
    assert outcome.seconds == pytest.approx(when)


#: How long each state of a port is waited for, and whether the port works.
PORT_STATES = {"open": (0.0, True), "refused": (0.0, False), "dropped": (2.0, False), "stalled": (3.0, False)}
PORTS = [StepId(0, P), StepId(0, C), StepId(0, D), StepId(1, P), StepId(2, P)]


def expected_route(combination: Sequence[str]) -> int | None:
    if all(state == "open" for state in combination[:3]):
        return 0
    return next((route for route, state in ((1, combination[3]), (2, combination[4])) if state == "open"), None)


def test_every_combination_of_what_a_firewall_may_do() -> None:
    """All 1,024: every port open, refused, silent before or silent after the connection."""
    for combination in itertools.product(PORT_STATES, repeat=len(PORTS)):
        results = {step: PORT_STATES[state] for step, state in zip(PORTS, combination, strict=True)}
        expected = expected_route(combination)

        quick = RouteSelection(ROUTES, SelectionRules())
        outcome = simulate(quick, results.__getitem__)
        assert outcome.chosen == expected, combination
        # Never tens of seconds: three silent routes that start a quarter of a second apart, and their deadlines.
        assert outcome.seconds <= 0.5 + 2 * 3.0, combination
        if expected is not None:
            assert outcome.seconds <= 0.5 + 3.0, combination
        for step, record in quick.steps.items():
            if record.state in (StepState.PASSED, StepState.FAILED):
                assert (record.state is StepState.PASSED) == results[step][1], combination

        whole = RouteSelection(ROUTES, COMPLETE)
        assert simulate(whole, results.__getitem__).chosen == expected, combination
        for step, record in whole.steps.items():
            assert record.state is (StepState.PASSED if results[step][1] else StepState.FAILED), combination

        orderly = RouteSelection(ROUTES, ONE_AFTER_THE_OTHER)
        assert simulate(orderly, results.__getitem__).chosen == expected, combination


routes = st.lists(st.sampled_from([[P], [P, C], [P, D], [P, C, D]]), max_size=5)
seconds = st.one_of(st.sampled_from([0.0, 0.25, 1.0, 2.0]), st.floats(0, 20))


@given(st.data(), routes, st.sampled_from([POLICY, SelectionRules(), COMPLETE, ONE_AFTER_THE_OTHER]))
def test_whatever_happens_there_is_one_decision_and_it_is_usable(
    data: st.DataObject, chosen_from: list[list[Purpose]], rules: SelectionRules
) -> None:
    ids = [StepId(route, purpose) for route, purposes in enumerate(chosen_from) for purpose in purposes]
    results = {step: data.draw(st.tuples(seconds, st.booleans())) for step in ids}
    off = data.draw(st.sets(st.sampled_from(range(len(chosen_from))))) if chosen_from else set[int]()
    selection = RouteSelection(chosen_from, rules, unavailable=off)
    outcome = simulate(selection, results.__getitem__)
    works = [
        route
        for route, purposes in enumerate(chosen_from)
        if route not in off and all(results[StepId(route, purpose)][1] for purpose in purposes)
    ]
    assert (outcome.chosen is None) == (not works)
    if outcome.chosen is not None:
        assert outcome.chosen in works
        if rules in (COMPLETE, ONE_AFTER_THE_OTHER):
            assert outcome.chosen == works[0]
        assert all(
            record.state is StepState.PASSED
            for step, record in selection.steps.items()
            if step.route == outcome.chosen
        )
