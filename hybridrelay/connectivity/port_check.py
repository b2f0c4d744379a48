"""Trying one port of one route: all of its steps, at each of the relay's addresses as far as necessary.

A port counts as usable after a round trip of its own purpose, because middleboxes accept connections and then stall.
The probe port returns 4 KiB of random bytes; the control port proves with TLS that it is the relay; the data port
answers that a ticket of zeros is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import attrs
import trio

from ..abc import Dialer, Purpose
from ..failure import Failure, Step
from ..protocol.preamble import PROBE_SIZE
from ..protocol.reasons import Reason
from .addresses import first_answer
from .discovery import Candidate
from .endpoint import RelayEndpoint
from .interception import OuterCertificate, explain_failure
from .proxies.dial import resolves_here
from .steps import ConnectTiming, StepFailed, connect, echo, greet, resolve_relay, secure

# What a usable port answers. A busy data port has carried the round trip too, and is no reason to go elsewhere.
_EXPECTED = {
    Purpose.PROBE: frozenset({Reason.NO_ERROR}),
    Purpose.CONTROL: frozenset({Reason.NO_ERROR}),
    Purpose.DATA: frozenset({Reason.TICKET_UNKNOWN, Reason.BUSY}),
}


@attrs.frozen
class CheckTiming:
    """Deadlines of the steps, each on its own. All in seconds."""

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
    #: For closing the connection to a port that works: this must not take long.
    close_seconds: float = 0.25
    #: After this time without an answer from one of the relay's addresses, the next is tried beside it.
    next_address_seconds: float = 0.5


@attrs.frozen
class PortResult:
    """What trying a port showed."""

    #: Why it is not usable; None if it is.
    failure: Failure | None = None
    #: What its outer TLS showed, if there was any.
    certificate: OuterCertificate | None = None
    #: The address of the relay that answered, or that failed in the most informative way; None if it is not known.
    reached: str | None = None


@attrs.define
class _AddressFailed(Exception):
    """One address does not pass."""

    result: PortResult


@attrs.frozen
class PortCheck:
    """Tries ports of one relay.

    Args:
        endpoint: the relay.
        dialer: opens what the transports need.
        timing: deadlines.
        random_bytes: makes what a probe sends, so that no middlebox can know the answer.
    """

    endpoint: RelayEndpoint
    dialer: Dialer
    timing: CheckTiming = attrs.field(factory=CheckTiming)
    random_bytes: Callable[[int], bytes] = os.urandom

    async def run(self, candidate: Candidate, purpose: Purpose) -> PortResult:
        """Try the port that this route has for `purpose`.

        The relay's addresses race up to the relay's answer, and not only to the TCP connection; the one that answered
        last is tried first. Of several failures, the most specific is the result.

        Every step has a deadline. Cancelled, nothing stays open.
        """
        port = candidate.route.port_for(purpose)
        number = self.endpoint.number_of(port)
        check = partial(self._check_address, candidate, purpose)
        try:
            if number is None or port.local or not resolves_here(self.dialer, self.endpoint.host, number):
                return await check(None)
            addresses = self.endpoint.addresses
            found = await resolve_relay(self.endpoint, number, seconds=self.timing.dial_seconds)
            result = await first_answer(
                addresses.in_order(found),
                check,
                no_answer=(_AddressFailed,),
                stagger_seconds=self.timing.next_address_seconds,
                discard=_nothing_to_discard,
            )
            addresses.succeeded(result.reached, proved=purpose is Purpose.CONTROL)
            return result
        except StepFailed as exc:
            return PortResult(exc.failure)
        except _AddressFailed as exc:
            return exc.result
        except ExceptionGroup as group:
            results = [exc.result for exc in group.exceptions if isinstance(exc, _AddressFailed)]
            return max(results, key=lambda one: 0 if one.failure is None else one.failure.specificity)

    async def _check_address(self, candidate: Candidate, purpose: Purpose, address: str | None) -> PortResult:
        """One address of the relay; None: whichever the dialer takes.

        Raises:
            _AddressFailed: it does not pass.
        """
        seen: list[OuterCertificate] = []

        def see(certificate: bytes) -> None:
            seen[:] = [OuterCertificate.from_der_untrusted(certificate)]

        try:
            await self._check_port(candidate, purpose, address, see)
        except StepFailed as exc:
            certificate = seen[0] if seen else None
            failure = explain_failure(exc.failure, certificate)
            if candidate.route.port_for(purpose).local:
                failure = failure.over_command()
            raise _AddressFailed(PortResult(failure, certificate, address)) from exc
        return PortResult(None, seen[0] if seen else None, address)

    async def _check_port(
        self, candidate: Candidate, purpose: Purpose, address: str | None, see: Callable[[bytes], None]
    ) -> None:
        timing = self.timing
        plain = await connect(
            self.endpoint,
            candidate,
            purpose,
            dialer=self.dialer,
            address=address,
            timing=ConnectTiming(timing.dial_seconds, timing.transport_seconds),
            on_outer_certificate=see,
        )
        stream: trio.abc.Stream = plain
        try:
            reason = await greet(plain, self.endpoint.preamble(purpose), seconds=timing.status_seconds)
            if reason not in _EXPECTED[purpose]:
                raise StepFailed(Failure.from_status(reason).at(Step.STATUS))
            if purpose is Purpose.PROBE:
                await echo(plain, self.random_bytes(PROBE_SIZE), seconds=timing.echo_seconds)
            elif purpose is Purpose.CONTROL:
                stream = await secure(plain, self.endpoint, seconds=timing.tls_seconds)
            with trio.move_on_after(timing.close_seconds):
                await stream.aclose()
        finally:
            await trio.aclose_forcefully(stream)


async def _nothing_to_discard(result: PortResult) -> None:
    """An address that passed has been closed already."""
