"""The prober: finds out which routes to a relay work, by trying them, and chooses one.

`selection.py` decides what to try when, and which route to choose; `port_check.py` tries a port. This module runs the
attempts that `selection.py` decides on, and makes the report.

The prober keeps no state between runs: the caller remembers the chosen route, and runs the prober again when it
fails.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import partial

import attrs
import trio

from .._nursery import FlatNursery
from .._value import Value
from ..abc import Dialer, Purpose, Transport
from ..errors import HybridRelayError, RelayIdentityError
from ..protocol import control
from .control import ControlChannel, Introduction, run_control_channel
from .discovery import AUTO, Candidate, candidates, discover
from .endpoint import RelayEndpoint
from .instance import new_instance
from .port_check import CheckTiming, PortCheck, PortResult
from .proxies.dial import proxy_of, resolve_dialer
from .report import Attempt, NoRouteWorks, Outcome, Report
from .selection import (
    COMPLETE,
    ONE_AFTER_THE_OTHER,
    Command,
    Decide,
    RouteSelection,
    SelectionRules,
    Start,
    StepId,
    StepState,
    Stop,
)
from .steps import wrong_identity

_OUTCOMES = {StepState.PASSED: Outcome.PASS, StepState.FAILED: Outcome.FAIL}
#: Why a step was skipped.
_NOTES = {
    StepState.WAITING: "not needed",
    StepState.RULED_OUT: "not tried: the probe failed",
    StepState.STOPPED: "stopped before it answered: not needed",
}


@attrs.frozen
class ProbeTiming(Value):
    """When routes are tried, and how long each step may take."""

    check: CheckTiming = attrs.field(factory=CheckTiming)
    selection: SelectionRules = attrs.field(factory=SelectionRules)
    #: How long a survey waits for the relay's list of its outer certificates (seconds).
    welcome_seconds: float = 3.0


@attrs.frozen
class RouteChoice(Value):
    """The route to use, and how it was found."""

    candidate: Candidate
    report: Report


class Prober:
    """Tries the routes to one relay.

    Args:
        endpoint: the relay.
        mode: `AUTO`, or the name of the only transport allowed.
        transports: by name; None means those that are installed.
        dialer: opens connections; None means one that uses the proxy that the environment names, if any.
        timing: deadlines; None means the defaults.

    Raises:
        ConfigurationError: no transport has this `mode`, or the environment names an unusable proxy.
    """

    def __init__(
        self,
        endpoint: RelayEndpoint,
        *,
        mode: str = AUTO,
        transports: Mapping[str, Transport] | None = None,
        dialer: Dialer | None = None,
        timing: ProbeTiming | None = None,
    ) -> None:
        #: The relay. It may be replaced at any time by the same relay with another key.
        self.endpoint = endpoint
        self._mode = mode
        self._candidates = candidates(discover() if transports is None else transports, mode)
        self._dialer = resolve_dialer(dialer)
        self._timing = ProbeTiming() if timing is None else timing

    async def choose(self, *, thorough: bool = False) -> RouteChoice:
        """Find the route to use, as quickly as possible.

        Args:
            thorough: also do a TLS handshake on the data ports, because data channels have failed behind a probe that
                has passed; see `PortCheck`.

        Raises:
            NoRouteWorks: no route is usable; its `report` says why.

        If cancelled, nothing stays open.
        """
        probing = self._probing(self._candidates, self._timing.selection, thorough=thorough)
        chosen = await probing.run()
        report = self._report(probing, chosen)
        if chosen is None:
            raise NoRouteWorks(report)
        return RouteChoice(chosen, report)

    async def find_better(self, candidate: Candidate) -> Candidate | None:
        """Return the best usable route that ranks before that of `candidate`, or None. The check is thorough.

        If cancelled, nothing stays open.
        """
        better = [one for one in self._candidates if one.route.rank < candidate.route.rank]
        return await self._probing(better, ONE_AFTER_THE_OTHER, thorough=True).run()

    async def survey(self) -> Report:
        """Try every port of every route thoroughly, for a complete report to an administrator.

        If a route works, the relay is asked over it which outer certificates are its own. If TLS shows that what
        answers is not the relay, the next best route is asked; if nothing answers in time, the route still counts.

        If cancelled, nothing stays open.
        """
        probing = self._probing(self._candidates, COMPLETE, thorough=True)
        chosen = await probing.run()
        pins: tuple[str, ...] = ()
        while chosen is not None:
            untrusted, pins = await self._ask_relay(chosen)
            if untrusted is None:
                break
            chosen = probing.disprove(untrusted)
        return self._report(probing, chosen, pins)

    async def _ask_relay(self, candidate: Candidate) -> tuple[RelayIdentityError | None, tuple[str, ...]]:
        """Ask the relay over `candidate` which outer certificates are its own.

        Returns:
            The error if what answers is not the relay, or None; and the pins of the certificates, which are empty if
            there was no answer.
        """
        introduction = Introduction(control.PeerRole.CLIENT, new_instance(), 1)
        pins: tuple[str, ...] = ()
        with trio.move_on_after(self._timing.welcome_seconds), contextlib.suppress(HybridRelayError):
            try:
                async with FlatNursery() as nursery:
                    serve = partial(run_control_channel, self.endpoint, candidate, introduction, dialer=self._dialer)
                    channel: ControlChannel = await nursery.start(serve)
                    pins = channel.outer_pins
                    nursery.cancel_scope.cancel()
            except RelayIdentityError as exc:
                return exc, ()
        return None, pins

    def _probing(self, tried: Sequence[Candidate], rules: SelectionRules, *, thorough: bool) -> _Probing:
        check = PortCheck(self.endpoint, self._dialer, self._timing.check, thorough)
        return _Probing(tried, rules, check)

    def _report(self, probing: _Probing, chosen: Candidate | None, pins: Sequence[str] = ()) -> Report:
        return Report(
            host=self.endpoint.host,
            mode=self._mode,
            attempts=tuple(self._attempt(probing, step, pins) for step in probing.selection.steps),
            chosen=None if chosen is None else chosen.route.name,
            seconds=probing.seconds,
            default_ports=not self.endpoint.ports,
        )

    def _attempt(self, probing: _Probing, step: StepId, pins: Sequence[str]) -> Attempt:
        record = probing.selection.steps[step]
        result = probing.results.get(step, PortResult())
        route = probing.candidates[step.route].route
        port = route.port_for(step.purpose)
        number = None if port.local else self.endpoint.number_of(port)
        proxy = None if number is None else proxy_of(self._dialer, self.endpoint.host, number)
        note = _NOTES.get(record.state, "")
        if record.state is StepState.UNAVAILABLE:
            missing = self.endpoint.missing_ports(route)
            note = f"the relay does not serve port{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        return Attempt(
            route=route.name,
            step=step.purpose.name.lower(),
            host=self.endpoint.host,
            port=number,
            outcome=_OUTCOMES.get(record.state, Outcome.SKIP),
            seconds=None if record.began is None or record.ended is None else record.ended - record.began,
            failure=result.failure,
            note=note,
            by_command=port.local,
            proxy=None if proxy is None else str(proxy),
            intercepted_by=None if result.certificate is None else result.certificate.intercepted_by(pins),
            reached=result.reached,
        )


class _Probing:
    """Runs one selection: executes its commands as tasks, and passes their results to it as inputs."""

    def __init__(self, tried: Sequence[Candidate], rules: SelectionRules, check: PortCheck) -> None:
        self.candidates = tried
        #: The results of the steps that were not stopped.
        self.results: dict[StepId, PortResult] = {}
        #: How long the selection took.
        self.seconds = 0.0
        self._check = check
        self.selection = RouteSelection(
            [
                # Each port once, in the order of use.
                [
                    one
                    for one in Purpose
                    if one is Purpose.PROBE or route.port_for(one) != route.port_for(Purpose.PROBE)
                ]
                for route in (candidate.route for candidate in tried)
            ],
            rules,
            unavailable={
                index for index, candidate in enumerate(tried) if check.endpoint.missing_ports(candidate.route)
            },
        )
        self._scopes: dict[StepId, trio.CancelScope] = {}
        self._changed = trio.Event()

    async def run(self) -> Candidate | None:
        """Try ports until the selection has decided. Returns the chosen route, or None. If cancelled, nothing stays
        open."""
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            self._perform(self.selection.begin(began), nursery)
            while self.selection.decision is None:
                deadline = self.selection.next_deadline()
                with trio.move_on_at(math.inf if deadline is None else deadline):
                    await self._changed.wait()
                self._changed = trio.Event()
                self._perform(self.selection.handle_timeout(trio.current_time()), nursery)
        self.seconds = trio.current_time() - began
        return self._chosen()

    def disprove(self, error: RelayIdentityError) -> Candidate | None:
        """Drop the chosen route, because what answered over it is not the relay. Returns the next best route, or
        None."""
        decision = self.selection.decision
        assert decision is not None
        assert decision.route is not None
        probe = StepId(decision.route, Purpose.PROBE)
        self.results[probe] = attrs.evolve(self.results[probe], failure=wrong_identity(error))
        self.selection.disprove(trio.current_time())
        return self._chosen()

    def _chosen(self) -> Candidate | None:
        decision = self.selection.decision
        return None if decision is None or decision.route is None else self.candidates[decision.route]

    def _perform(self, commands: Sequence[Command], nursery: trio.Nursery) -> None:
        for command in commands:
            match command:
                case Start(step):
                    self._scopes[step] = trio.CancelScope()
                    nursery.start_soon(self._try, step, nursery)
                case Stop(step):
                    self._scopes[step].cancel()
                case Decide():
                    self._changed.set()

    async def _try(self, step: StepId, nursery: trio.Nursery) -> None:
        with self._scopes[step]:
            result = await self._check.run(self.candidates[step.route], step.purpose)
            if self.selection.steps[step].state is not StepState.RUNNING:
                return  # it was stopped at the same moment
            self.results[step] = result
            now = trio.current_time()
            if result.failure is None:
                self._perform(self.selection.passed(step, now), nursery)
            else:
                self._perform(self.selection.failed(step, now), nursery)
            self._changed.set()
