"""Selecting the route to a relay from the results of trying its ports. Pure: time is an argument.

A route needs one to three ports. Trying one of them is a step; the steps are in the order of use, the probe first.
The rules:

1. A route is usable when all of its steps have passed. The other steps start when the probe has passed.
2. Routes start in order, the best first: the next one starts when the previous one has failed, or after a stagger.
   Once one is usable, no further route starts.
3. If a worse route is usable first, better ones that are still being tried get a grace period: as long as the worse
   one took, within limits. Routes that become usable later do not extend it.
4. The decision stops every step that is still running.

A *complete* selection instead starts every step of every route, waits for all of them, and then chooses the best
usable route. It is used for a report on all ports.

Each input returns the commands that it causes. The transition table below is for one step.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Mapping, Sequence

import attrs

from .._value import Value
from ..protocol.preamble import Purpose

__all__ = [
    "TRANSITIONS",
    "Command",
    "Decide",
    "RouteSelection",
    "SelectionRules",
    "Start",
    "StepEvent",
    "StepId",
    "StepState",
    "Stop",
]


class StepState(enum.Enum):
    """The state of a step."""

    #: Not started, and not needed so far.
    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    #: It was running when its result was no longer needed.
    STOPPED = "stopped"
    #: Not started, because the probe of its route failed.
    RULED_OUT = "ruled out"
    #: Its route needs a port that the relay does not serve.
    UNAVAILABLE = "unavailable"


class StepEvent(enum.Enum):
    """What happens to a step."""

    START = "start"
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    STOP = "stop"
    RULE_OUT = "rule out"
    #: The step passed, but what answered turned out not to be the relay.
    DISPROVE = "disprove"


#: A state and an event that are not in the table together are a bug of the caller. The results of a step that is
#: STOPPED are in it, because they may arrive just after the stop.
TRANSITIONS: Mapping[tuple[StepState, StepEvent], StepState] = {
    (StepState.WAITING, StepEvent.START): StepState.RUNNING,
    (StepState.WAITING, StepEvent.RULE_OUT): StepState.RULED_OUT,
    (StepState.RUNNING, StepEvent.PASS): StepState.PASSED,
    (StepState.RUNNING, StepEvent.FAIL): StepState.FAILED,
    (StepState.RUNNING, StepEvent.STOP): StepState.STOPPED,
    (StepState.STOPPED, StepEvent.PASS): StepState.STOPPED,
    (StepState.STOPPED, StepEvent.FAIL): StepState.STOPPED,
    (StepState.PASSED, StepEvent.DISPROVE): StepState.FAILED,
}

_UNDECIDED = frozenset({StepState.WAITING, StepState.RUNNING})


@attrs.frozen
class StepId(Value):
    """Identifies a step: trying one port of one route. `route` is the index of the route, best first."""

    route: int
    purpose: Purpose


@attrs.frozen
class Start(Value):
    """Command: try this port, and report the result with `passed` or `failed`."""

    step: StepId


@attrs.frozen
class Stop(Value):
    """Command: stop trying this port; its result is not needed."""

    step: StepId


@attrs.frozen
class Decide(Value):
    """Command: use this route, by index; None: no route is usable."""

    route: int | None


Command = Start | Stop | Decide


@attrs.frozen
class SelectionRules(Value):
    """When routes start, and how long to wait for a better one. Times are in seconds."""

    #: The next route starts when the previous one has failed, or after this time. RFC 8305 recommends 250 ms: most
    #: answers have arrived by then, and users do not notice this delay. Infinite: only when the previous one has
    #: failed.
    stagger_seconds: float = 0.25
    #: When a worse route is usable, better ones that are being tried get a grace period as long as the worse one
    #: took, since all routes to a distant relay are slow. This is the minimum of that period.
    min_grace_seconds: float = 0.3
    #: The maximum of that period.
    max_grace_seconds: float = 2.0
    #: Try every port of every route, all at the same time.
    complete: bool = False

    def grace(self, took: float) -> float:
        """Return how long to wait for a better route when a worse one took `took` seconds."""
        return min(max(took, self.min_grace_seconds), self.max_grace_seconds)


#: One route after the other, the best first; the first usable one is chosen.
ONE_AFTER_THE_OTHER = SelectionRules(stagger_seconds=math.inf, min_grace_seconds=0.0, max_grace_seconds=0.0)
#: Every port of every route.
COMPLETE = SelectionRules(complete=True)


@attrs.define
class StepRecord:
    """The state of one step, and when it began and ended, on the clock of the inputs."""

    state: StepState = StepState.WAITING
    began: float | None = None
    ended: float | None = None


class RouteSelection:
    """One selection. `begin` is its first input; it ends with `Decide`, after which only `disprove` has an effect.

    Args:
        routes: for each route, the best first, the purposes of its ports in the order of use; the first is the probe.
        rules: when to start routes, and how long to wait for them.
        unavailable: indices of routes that are not tried, because the relay does not serve one of their ports.
    """

    def __init__(
        self, routes: Sequence[Sequence[Purpose]], rules: SelectionRules, *, unavailable: Collection[int] = ()
    ) -> None:
        self._rules = rules
        self.steps: Mapping[StepId, StepRecord] = {
            StepId(route, purpose): StepRecord(StepState.UNAVAILABLE if route in unavailable else StepState.WAITING)
            for route, purposes in enumerate(routes)
            for purpose in purposes
        }
        self._by_route = [[StepId(route, purpose) for purpose in purposes] for route, purposes in enumerate(routes)]
        #: Routes that have not started, best first.
        self._waiting = [route for route in range(len(routes)) if route not in unavailable]
        self._started: list[int] = []
        #: The best route that is usable so far, and until when to wait for a better one.
        self._best: int | None = None
        self._grace_ends = math.inf
        #: None until the decision.
        self.decision: Decide | None = None

    # --- inputs

    def begin(self, now: float) -> list[Command]:
        """Start the first routes."""
        return self._advance(now)

    def passed(self, step: StepId, now: float) -> list[Command]:
        """Note that the port works."""
        commands: list[Command] = []
        if self._apply(step, StepEvent.PASS, now) is StepState.PASSED:
            if self._is_probe(step):
                commands += self._start_others(step, now)
            if self._is_usable(step.route):
                self._became_usable(step.route, now)
            commands += self._advance(now)
        return commands

    def failed(self, step: StepId, now: float) -> list[Command]:
        """Note that the port does not work."""
        commands: list[Command] = []
        if self._apply(step, StepEvent.FAIL, now) is StepState.FAILED:
            if self._rules.complete:
                commands += self._start_others(step, now) if self._is_probe(step) else []
            else:
                commands += self._give_up(step.route, now)
            commands += self._advance(now)
        return commands

    def handle_timeout(self, now: float) -> list[Command]:
        """Do what is due at `now`, if anything."""
        return self._advance(now)

    def disprove(self, now: float) -> list[Command]:
        """Decide again among the routes that had passed before the decision, without the chosen one, because what
        answered over it is not the relay. Routes that were stopped are not tried again."""
        assert self.decision is not None
        assert self.decision.route is not None
        self._apply(self._by_route[self.decision.route][0], StepEvent.DISPROVE, now)
        return self._decide(self._best_usable(), now)

    def next_deadline(self) -> float | None:
        """Return when `handle_timeout` has something to do, or None."""
        if self.decision is not None:
            return None
        deadline = self._grace_ends
        if self._may_start:
            deadline = min(deadline, self._next_start)
        return None if deadline == math.inf else deadline

    # --- private

    def _apply(self, step: StepId, event: StepEvent, now: float) -> StepState:
        record = self.steps[step]
        state = record.state = TRANSITIONS[record.state, event]
        if event is StepEvent.START:
            record.began = now
        elif record.began is not None and record.ended is None:
            record.ended = now
        return state

    def _is_probe(self, step: StepId) -> bool:
        return step == self._by_route[step.route][0]

    def _state(self, route: int) -> list[StepState]:
        return [self.steps[step].state for step in self._by_route[route]]

    def _is_usable(self, route: int) -> bool:
        return all(state is StepState.PASSED for state in self._state(route))

    def _has_failed(self, route: int) -> bool:
        return StepState.FAILED in self._state(route)

    def _best_usable(self) -> int | None:
        return next((route for route in range(len(self._by_route)) if self._is_usable(route)), None)

    @property
    def _may_start(self) -> bool:
        """Whether another route may start, now or later."""
        return bool(self._waiting) and self._best is None

    @property
    def _next_start(self) -> float:
        if self._rules.complete or not self._started or self._has_failed(self._started[-1]):
            return -math.inf
        began = self.steps[self._by_route[self._started[-1]][0]].began
        assert began is not None
        return began + self._rules.stagger_seconds

    def _advance(self, now: float) -> list[Command]:
        """Start the routes that are due, and decide if that is possible."""
        commands: list[Command] = []
        if self.decision is not None:
            return commands
        while self._may_start and now >= self._next_start:
            route = self._waiting.pop(0)
            self._started.append(route)
            commands += self._start(self._by_route[route][0], now)
        if self._is_settled(now):
            commands += self._decide(self._best, now)
        return commands

    def _is_settled(self, now: float) -> bool:
        if self._rules.complete:
            return not any(record.state in _UNDECIDED for record in self.steps.values())
        if self._best is None:
            return not self._waiting and all(map(self._has_failed, self._started))
        better = self._started[: self._started.index(self._best)]
        return now >= self._grace_ends or all(map(self._has_failed, better))

    def _became_usable(self, route: int, now: float) -> None:
        if self._best is not None and self._best < route:
            return
        self._best = route
        if not self._rules.complete:
            began = self.steps[self._by_route[route][0]].began
            assert began is not None
            self._grace_ends = min(self._grace_ends, now + self._rules.grace(now - began))

    def _start(self, step: StepId, now: float) -> list[Command]:
        self._apply(step, StepEvent.START, now)
        return [Start(step)]

    def _start_others(self, probe: StepId, now: float) -> list[Command]:
        return [command for step in self._by_route[probe.route][1:] for command in self._start(step, now)]

    def _give_up(self, route: int, now: float) -> list[Command]:
        """Stop or rule out the other steps of a route of which one step has failed: they are not needed."""
        commands: list[Command] = []
        for step in self._by_route[route]:
            if self.steps[step].state is StepState.WAITING:
                self._apply(step, StepEvent.RULE_OUT, now)
            elif self.steps[step].state is StepState.RUNNING:
                commands += self._stop(step, now)
        return commands

    def _stop(self, step: StepId, now: float) -> list[Command]:
        self._apply(step, StepEvent.STOP, now)
        return [Stop(step)]

    def _decide(self, route: int | None, now: float) -> list[Command]:
        running = [step for step, record in self.steps.items() if record.state is StepState.RUNNING]
        self.decision = Decide(route)
        return [*(command for step in running for command in self._stop(step, now)), self.decision]
