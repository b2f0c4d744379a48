"""The prober: finds out by trying which route to a relay works, and decides.

Rules:

1. A port counts as usable when it carried a round trip of its own purpose: middleboxes accept, then stall. The probe
   port returns 4 KiB of random bytes; the control port proves with TLS who it is; the data port knows that a ticket
   of zeros is none.
2. A route is usable when its probe port is, and then each other port that it needs.
3. Every step has a deadline, and routes start staggered: a port on which packets are dropped costs a fraction of a
   second.
4. Rank beats speed by a grace: a worse route that was faster waits a moment for a better one under way.
5. Where the relay's name has several addresses, a step races them up to the relay's answer, and not to the TCP
   connection. The address that answered last is tried first, in later steps and by the channels too.

It remembers nothing: the caller keeps the `Decision`, and asks again when the route has failed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial

import attrs
import trio

from .._nursery import FlatNursery
from ..abc import Dial, Purpose, Route, Transport
from ..errors import HybridRelayError, RelayIdentityError
from ..failure import Failure, Step
from ..protocol import control
from ..protocol.preamble import PROBE_SIZE
from ..protocol.reasons import Reason
from ._race import RaceTiming, race
from .addresses import first_answer
from .control import ControlChannel, Introduction, run_control_channel
from .discovery import AUTO, Candidate, candidates, discover
from .endpoint import RelayEndpoint
from .instance import new_instance
from .interception import OuterCertificate, explain_failure
from .proxies.dial import proxy_of, resolve_dial, resolves_here
from .report import Attempt, NoRouteWorks, Outcome, Report
from .steps import StepFailed, connect, echo, greet, resolve_relay, secure, wrong_identity


@attrs.frozen
class ProbeTiming:
    """Deadlines of the steps, each on its own, and the order of the start. All in seconds."""

    #: TCP, with the name looked up. Outlasts one lost SYN packet, which is sent again after 1 s.
    dial_seconds: float = 2.0
    #: The transport's own handshake: up to four round trips, with 600 ms for each.
    transport_seconds: float = 3.0
    #: From the preamble to the status.
    status_seconds: float = 2.0
    #: The round trip of `PROBE_SIZE` bytes.
    echo_seconds: float = 3.0
    #: The TLS handshake on the control port.
    tls_seconds: float = 3.0
    #: The relay's own list of its outer certificates, in a survey that saw one.
    welcome_seconds: float = 3.0
    #: For closing the connection to a port that works: this must not take long.
    close_seconds: float = 0.25
    #: After this time without an answer from one of the relay's addresses, the next is tried beside it.
    next_address_seconds: float = 0.5
    race: RaceTiming = attrs.field(factory=RaceTiming)


@attrs.frozen
class Decision:
    """The route to use, and how that was found out."""

    route: Route
    transport: Transport
    report: Report


# What a usable port answers. A busy data port has carried the round trip too, and is no reason to go elsewhere.
_EXPECTED = {
    Purpose.PROBE: frozenset({Reason.NO_ERROR}),
    Purpose.CONTROL: frozenset({Reason.NO_ERROR}),
    Purpose.DATA: frozenset({Reason.TICKET_UNKNOWN, Reason.BUSY}),
}


@attrs.define
class _Step:
    """One port of one route: what will be an `Attempt`."""

    candidate: Candidate
    purpose: Purpose
    began: float | None = None
    seconds: float | None = None
    passed: bool = False
    failure: Failure | None = None
    note: str = "not needed"
    certificate: OuterCertificate | None = None
    intercepted_by: str | None = None
    #: The address of the relay that answered, or that failed in the most informative way; None if it is not known.
    reached: str | None = None


@attrs.define
class _AddressFailed(Exception):
    """An address gave no answer of a relay."""

    address: str | None
    failure: Failure
    certificate: OuterCertificate | None


class Prober:
    """Tries the routes to one relay.

    Args:
        endpoint: the relay.
        mode: `AUTO`, or the name of the only transport allowed.
        transports: by name; None means those that are installed.
        dial: opens TCP connections; None means through the proxy that the environment names, if any.
        timing: deadlines; None means the defaults.
        clock: seconds, for the report only; deadlines are Trio's.
        random_bytes: makes what the probe sends, so that no middlebox can know the answer.

    Raises:
        ConfigurationError: no transport has this `mode`, or the environment names an impossible proxy.
    """

    def __init__(
        self,
        endpoint: RelayEndpoint,
        *,
        mode: str = AUTO,
        transports: Mapping[str, Transport] | None = None,
        dial: Dial | None = None,
        timing: ProbeTiming | None = None,
        clock: Callable[[], float] = trio.current_time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        #: The relay. One with another key may take its place at any time.
        self.endpoint = endpoint
        self._mode = mode
        self._candidates = candidates(discover() if transports is None else transports, mode)
        self._dial = resolve_dial(dial)
        self._timing = ProbeTiming() if timing is None else timing
        self._clock = clock
        self._random_bytes = random_bytes

    async def choose(self) -> Decision:
        """Find the route to use, as fast as that can be known.

        Raises:
            NoRouteWorks: none is usable; its `report` says why.

        Cancelled, nothing stays open.
        """
        began = self._clock()
        plans = self._plans()
        open_plans = [plan for plan in plans if not self._mark_missing_ports(plan)]
        runners = [partial(self._run, plan, thorough=False) for plan in open_plans]
        index = await race(runners, self._timing.race)
        chosen = None if index is None else open_plans[index][0].candidate
        report = self._report(plans, chosen, self._clock() - began)
        if chosen is None:
            raise NoRouteWorks(report)
        return Decision(chosen.route, chosen.transport, report)

    async def better_than(self, current: Candidate) -> Candidate | None:
        """The best usable route among those that rank before `current`, or None.

        Cancelled, nothing stays open.
        """
        for plan in self._plans():
            candidate = plan[0].candidate
            if candidate.route.rank >= current.route.rank:
                break
            if not self._mark_missing_ports(plan) and await self._run(plan, thorough=False):
                return candidate
        return None

    async def survey(self) -> Report:
        """Try every port of every route to its end, for a complete report: what an administrator wants to see.

        Where an outer certificate was seen and a route works, the relay is asked whether that is its own.

        Cancelled, nothing stays open.
        """
        began = self._clock()
        plans = self._plans()
        usable: list[Candidate] = []

        async def run(plan: list[_Step]) -> None:
            if await self._run(plan, thorough=True):
                usable.append(plan[0].candidate)

        async with trio.open_nursery() as nursery:
            for plan in plans:
                if not self._mark_missing_ports(plan):
                    nursery.start_soon(run, plan)
        chosen = next((candidate for candidate in self._candidates if candidate in usable), None)
        steps = [step for plan in plans for step in plan]
        while chosen is not None and (untrusted := await self._ask_relay(steps, chosen)) is not None:
            # The round trip works, but what answers is not the relay.
            failed = next(step for step in steps if step.candidate == chosen)
            failed.passed, failed.failure = False, wrong_identity(untrusted)
            usable.remove(chosen)
            chosen = next((candidate for candidate in self._candidates if candidate in usable), None)
        return self._report(plans, chosen, self._clock() - began)

    async def _ask_relay(self, steps: list[_Step], candidate: Candidate) -> RelayIdentityError | None:
        """Ask the relay over `candidate` which outer certificates are its own. No answer: nothing is known.

        Returns:
            Why it is not the relay that answers, where that shows.
        """
        introduction = Introduction(control.Role.CLIENT, new_instance(), 1)
        pins: tuple[str, ...] = ()
        untrusted: RelayIdentityError | None = None
        with trio.move_on_after(self._timing.welcome_seconds), contextlib.suppress(HybridRelayError):
            try:
                async with FlatNursery() as nursery:
                    serve = partial(run_control_channel, self.endpoint, candidate, introduction, dial=self._dial)
                    channel: ControlChannel = await nursery.start(serve)
                    pins = channel.outer_pins
                    nursery.cancel_scope.cancel()
            except RelayIdentityError as exc:
                untrusted = exc
        for step in steps:
            if step.certificate is not None:
                step.intercepted_by = step.certificate.opened_by(pins)
        return untrusted

    def _plans(self) -> list[list[_Step]]:
        """The steps of each route: its ports in the order of use, each port once."""
        plans = []
        for candidate in self._candidates:
            ports = candidate.route.ports
            purposes = [
                purpose for purpose in Purpose if purpose is Purpose.PROBE or ports[purpose] != ports[Purpose.PROBE]
            ]
            plans.append([_Step(candidate, purpose) for purpose in purposes])
        return plans

    def _mark_missing_ports(self, plan: list[_Step]) -> bool:
        missing = self.endpoint.missing_ports(plan[0].candidate.route)
        for step in plan:
            if missing:
                step.note = f"the relay does not serve port {', '.join(missing)}"
        return bool(missing)

    async def _run(self, plan: list[_Step], *, thorough: bool) -> bool:
        """Whether the route is usable. Not `thorough`: as soon as that is known."""
        probe, *others = plan
        await self._try(probe)
        if not probe.passed and not thorough:
            for step in others:
                step.note = "not tried: the probe failed"
            return False

        async def check(step: _Step) -> None:
            await self._try(step)
            if not step.passed and not thorough:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for step in others:
                nursery.start_soon(check, step)
        return all(step.passed for step in plan)

    async def _try(self, step: _Step) -> None:
        step.began = self._clock()
        # Stands if we get cancelled.
        step.note = "no answer yet, and not waited for"
        try:
            await self._check(step)
        except _AddressFailed as failed:
            step.failure, step.reached, step.certificate = failed.failure, failed.address, failed.certificate
        else:
            step.passed = True
        step.note = ""
        step.seconds = self._clock() - step.began

    async def _check(self, step: _Step) -> None:
        """Try the addresses of the relay.

        Raises:
            _AddressFailed: none of them passes; the most informative failure.
        """
        number = self.endpoint.number_of(step.candidate.route.ports[step.purpose])
        if number is None or not resolves_here(self._dial, self.endpoint.host, number):
            _, step.certificate = await self._check_address(step, None)
            return
        try:
            found = await resolve_relay(self.endpoint, number, seconds=self._timing.dial_seconds)
        except StepFailed as error:
            raise _AddressFailed(None, error.failure, None) from error
        book = self.endpoint.addresses
        try:
            step.reached, step.certificate = await first_answer(
                book.in_order(found),
                partial(self._check_address, step),
                no_answer=(_AddressFailed,),
                stagger_seconds=self._timing.next_address_seconds,
                discard=_nothing_to_discard,
            )
        except ExceptionGroup as group:
            failures = [exc for exc in group.exceptions if isinstance(exc, _AddressFailed)]
            failed = max(failures, key=lambda exc: exc.failure.specificity)
        else:
            book.succeeded(step.reached, proved=step.purpose is Purpose.CONTROL)
            return
        raise failed

    async def _check_address(self, step: _Step, address: str | None) -> tuple[str | None, OuterCertificate | None]:
        """One address of the relay; None: whichever the dial takes. Gives it back, with what its outer TLS showed.

        Raises:
            _AddressFailed: it does not pass.
        """
        seen: list[OuterCertificate] = []

        def see(certificate: bytes) -> None:
            seen[:] = [OuterCertificate.from_der_untrusted(certificate)]

        try:
            await self._check_port(step.candidate, step.purpose, address, see)
        except StepFailed as error:
            certificate = seen[0] if seen else None
            raise _AddressFailed(address, explain_failure(error.failure, certificate), certificate) from error
        return address, seen[0] if seen else None

    async def _check_port(
        self, candidate: Candidate, purpose: Purpose, address: str | None, see: Callable[[bytes], None]
    ) -> None:
        timing = self._timing
        plain = await connect(
            self.endpoint,
            candidate.transport,
            candidate.route,
            purpose,
            dial=self._dial,
            address=address,
            dial_seconds=timing.dial_seconds,
            transport_seconds=timing.transport_seconds,
            on_outer_certificate=see,
        )
        stream: trio.abc.Stream = plain
        try:
            reason = await greet(plain, self.endpoint.preamble(purpose), seconds=timing.status_seconds)
            if reason not in _EXPECTED[purpose]:
                raise StepFailed(Failure.from_reason(reason).at(Step.STATUS))
            if purpose is Purpose.PROBE:
                await echo(plain, self._random_bytes(PROBE_SIZE), seconds=timing.echo_seconds)
            elif purpose is Purpose.CONTROL:
                stream = await secure(plain, self.endpoint, seconds=timing.tls_seconds)
            with trio.move_on_after(timing.close_seconds):
                await stream.aclose()
        finally:
            await trio.aclose_forcefully(stream)

    def _report(self, plans: list[list[_Step]], chosen: Candidate | None, seconds: float) -> Report:
        return Report(
            host=self.endpoint.host,
            mode=self._mode,
            attempts=tuple(self._attempt(step) for plan in plans for step in plan),
            chosen=None if chosen is None else chosen.route.name,
            seconds=seconds,
            default_ports=not self.endpoint.ports,
        )

    def _attempt(self, step: _Step) -> Attempt:
        route = step.candidate.route
        seconds = step.seconds
        if seconds is None and step.began is not None:
            seconds = self._clock() - step.began
        port = self.endpoint.number_of(route.ports[step.purpose])
        proxy = None if port is None else proxy_of(self._dial, self.endpoint.host, port)
        outcome = Outcome.PASS if step.passed else Outcome.SKIP if step.failure is None else Outcome.FAIL
        return Attempt(
            route=route.name,
            step=step.purpose.name.lower(),
            host=self.endpoint.host,
            port=port,
            outcome=outcome,
            seconds=seconds,
            failure=step.failure,
            note=step.note,
            proxy=None if proxy is None else str(proxy),
            intercepted_by=step.intercepted_by,
            reached=step.reached,
        )


async def _nothing_to_discard(answer: object) -> None:
    """An address that passed has been closed already."""
