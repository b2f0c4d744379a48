"""Trying one port of one route: all steps, at the relay's addresses until one of them answers.

A port counts as usable only after a round trip for its own purpose, because middleboxes accept connections and then
stall. On the probe port, the relay returns 4 KiB of random bytes; on the control port, it proves its identity with
TLS; on the data port, it answers that a ticket of zeros is unknown. A *thorough* check also does a TLS handshake on
the data port, because some firewalls let the first bytes pass and then reject TLS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import attrs
import trio

from .._value import Value
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

# The answers of a usable port. BUSY also shows that the data port works: the round trip succeeded.
_EXPECTED = {
    Purpose.PROBE: frozenset({Reason.NO_ERROR}),
    Purpose.CONTROL: frozenset({Reason.NO_ERROR}),
    Purpose.DATA: frozenset({Reason.TICKET_UNKNOWN, Reason.BUSY}),
}


# The same for a thorough check of the data port, which opens a control channel there.
_EXPECTED_BEFORE_TLS = frozenset({Reason.NO_ERROR, Reason.BUSY})


@attrs.frozen
class CheckTiming(Value):
    """The deadline of each step, in seconds."""

    #: Name resolution, and then TCP, each: enough for one lost SYN packet, which is sent again after 1 s.
    dial_seconds: float = 2.0
    #: The transport's own handshake: up to four round trips, with 600 ms for each.
    transport_seconds: float = 3.0
    #: From the preamble to the status.
    status_seconds: float = 2.0
    #: The round trip of `PROBE_SIZE` bytes.
    echo_seconds: float = 3.0
    #: The TLS handshake on the control port, and in a thorough check on the data port.
    tls_seconds: float = 3.0
    #: Closing the connection to a port that works.
    close_seconds: float = 0.25
    #: If one of the relay's addresses has not answered after this time, the next one is tried in parallel.
    next_address_seconds: float = 0.5


@attrs.frozen
class PortResult(Value):
    """The result of trying a port."""

    #: Why it is not usable; None if it is.
    failure: Failure | None = None
    #: The certificate that the other end of the outer TLS presented, if there was any.
    certificate: OuterCertificate | None = None
    #: The relay's address that answered. If none did, the address with the most specific failure; None if it is
    #: unknown.
    reached: str | None = None


@attrs.define
class _AddressFailed(Exception):
    """The port is not usable at one address."""

    result: PortResult


@attrs.frozen
class PortCheck(Value):
    """Tries ports of one relay.

    Args:
        endpoint: the relay.
        dialer: opens what the transports need.
        timing: deadlines.
        thorough: whether to do a TLS handshake on the data port, too.
    """

    endpoint: RelayEndpoint
    dialer: Dialer
    timing: CheckTiming = attrs.field(factory=CheckTiming)
    thorough: bool = False

    async def run(self, candidate: Candidate, purpose: Purpose) -> PortResult:
        """Try the port that this route has for `purpose`.

        The relay's addresses are tried in a race for the relay's answer, not only for the TCP connection. They begin
        in the order of `AddressBook.in_order`. If all fail, the most specific failure is the result.

        Every step has a deadline. If cancelled, nothing stays open.
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
        """Try one address of the relay; None leaves the choice to the dialer.

        Raises:
            _AddressFailed: the port is not usable there.
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
            # On every port for data, the relay serves control channels, too: only they have TLS to the relay itself.
            said = Purpose.CONTROL if self.thorough and purpose is Purpose.DATA else purpose
            reason = await greet(plain, self.endpoint.preamble(said), seconds=timing.status_seconds)
            if reason not in (_EXPECTED[purpose] if said is purpose else _EXPECTED_BEFORE_TLS):
                raise StepFailed(Failure.from_status(reason).at(Step.STATUS))
            if purpose is Purpose.PROBE:
                # Random bytes, so that no middlebox can know the answer.
                await echo(plain, os.urandom(PROBE_SIZE), seconds=timing.echo_seconds)
            elif said is Purpose.CONTROL and reason is Reason.NO_ERROR:
                stream = await secure(plain, self.endpoint, seconds=timing.tls_seconds)
            with trio.move_on_after(timing.close_seconds):
                await stream.aclose()
        finally:
            await trio.aclose_forcefully(stream)


async def _nothing_to_discard(result: PortResult) -> None:
    """The connection to an address that passed is already closed."""
