"""Answers requests for identities: streams of the kind *issue*.

An identity may have only a few open requests, and few requests are processed at a time. A request counts among the
latter only after it has arrived. So nobody can keep others from getting identities by opening requests and never
sending them.

Each identity may make only some requests a minute, whatever their answers. Everything that can be decided
without looking into a request is decided before a thread verifies it.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio

from ..._threads import run_in_thread
from ..._unexpected_failure import unexpected_failure
from ...audit.record import NotRecordedError
from ...errors import ConfigurationError
from ...events.identities import ClaimUsedAgain, IdentityIssued, IdentityNotIssued
from ...events.stream import EventStream
from ...mux import MuxStream, Offer
from ...policy import Policy
from ...protocol.issuing import (
    MAX_ISSUE_REQUEST,
    IssueAnswer,
    Issued,
    IssueRefused,
    parse_issue_request_untrusted,
)
from ...protocol.reasons import Reason
from ...security import Issuer, RequestError, Role, details_of, parse_request_untrusted
from ..recorded import wait_recorded
from ..stream_events import Origin
from .decision import RENEWALS_SECONDS, Decision, Requester, UsedClaims, decide_issue
from .rates import MAX_REQUESTS, REQUESTS_SECONDS, RequestRates
from .used_claims import UsedClaimsFile

__all__ = ["Issuing"]

#: How long one request may take to arrive, and how long it may take in all (seconds).
RECEIVE_SECONDS = 10.0
ISSUE_SECONDS = 20.0
#: How many requests of one identity may be open at a time; further ones are refused.
MAX_OF_ONE = 4
#: How many requests one connector processes at a time; others wait. Each takes some milliseconds.
_MAX_AT_WORK = 16
#: How many labels of renewed identities are remembered, for their rates. Beyond that, the earliest is forgotten.
_MAX_REMEMBERED = 4096


class Issuing:
    """Issues identities for all hybrid connections of a connector.

    Args:
        used: the file in which used claims are recorded; None: the connector has none, and serves no claims.
        policy: returns the policy that is in force now.
        events: the stream to which events are published.
        recorded: see `StreamService`.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        used: UsedClaimsFile | None,
        policy: Callable[[], Policy],
        events: EventStream,
        *,
        recorded: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._used = used
        self._policy = policy
        self._events = events
        self._recorded = recorded
        self._clock = clock
        #: When identities were renewed, by hybrid connection and label: each renewal makes another serial.
        self._renewals: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._rates = RequestRates()
        #: How many requests are open, by hybrid connection and serial.
        self._open: Counter[tuple[str, str]] = Counter()
        self._places = trio.CapacityLimiter(_MAX_AT_WORK)

    async def serve(self, offer: Offer, origin: Origin) -> None:
        """Serve one request, and publish an event about it. An error does not affect other streams.

        If cancelled before the answer is sent, a claim may be recorded as used. The same request is then answered the
        next time.
        """
        requester = origin.published.name, origin.peer.serial
        if not self._may_request(origin):
            offer.refuse(Reason.LIMIT)
            return
        if self._open[requester] >= MAX_OF_ONE:
            self._refused(origin, IssueRefused(Reason.LIMIT, "this identity has too many requests at the same time"))
            offer.refuse(Reason.LIMIT)
            return
        self._open[requester] += 1
        try:
            with trio.move_on_after(ISSUE_SECONDS):
                async with offer.accept() as stream:
                    await self._serve(stream, origin)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone; it asks again
        except Exception as exc:  # noqa: BLE001
            # A bug in this program. It is logged, and must not affect other streams.
            self._events.publish(unexpected_failure("request for an identity", exc, origin.published.name))
        finally:
            self._open[requester] -= 1
            if not self._open[requester]:
                del self._open[requester]

    def _may_request(self, origin: Origin) -> bool:
        """Return whether the program with this identity may make a request now. The first refusal in a minute is
        published."""
        program, now = (origin.published.name, origin.peer.owner_id), trio.current_time()
        if self._rates.admit(program, now):
            return True
        if self._rates.reports(program, now):
            detail = f"this identity has made {MAX_REQUESTS} requests in {REQUESTS_SECONDS:g} s"
            self._refused(origin, IssueRefused(Reason.LIMIT, detail))
        return False

    async def _serve(self, stream: MuxStream, origin: Origin) -> None:
        data: bytes | None = None
        with trio.move_on_after(RECEIVE_SECONDS):
            data = await _receive(stream)
        if data is None:
            answer: IssueAnswer = IssueRefused(Reason.PEER_SILENT, "the request has not arrived in time")
        else:
            answer = await self._answer(data, origin)
        if isinstance(answer, IssueRefused):
            self._refused(origin, answer)
        await stream.send_all(answer.encode())
        await stream.send_eof()

    async def _answer(self, data: bytes, origin: Origin) -> IssueAnswer:
        issuer = origin.published.string.issuer
        if issuer is None:  # it was removed while the session was open
            return IssueRefused(Reason.ISSUE_REFUSED, "the connector no longer has an issuer")
        try:
            request = parse_issue_request_untrusted(data)
        except ValueError as exc:
            return IssueRefused(Reason.ISSUE_REFUSED, f"the request is malformed: {exc}")
        peer = origin.peer
        requester = Requester(
            peer.connection_name, peer.role, peer.label, peer.serial, peer.not_after, peer.is_from_issuer
        )
        is_claim = requester.role is Role.CLAIM
        if not is_claim:
            decision = self._decide_renewal(requester, issuer)
            if decision.reason is not Reason.NO_ERROR:
                return IssueRefused(decision.reason, decision.detail)
        work = partial(_issue, request.request, requester, issuer, self._used, self._clock)
        try:
            # Noted before it waits, so that requests that are processed at the same time count as well.
            with contextlib.nullcontext() if is_claim else self._noted_renewal(requester):
                async with self._places:
                    decision, issued = await run_in_thread(work)
        except RequestError as exc:
            return IssueRefused(Reason.ISSUE_REFUSED, str(exc))
        except ConfigurationError as exc:
            # This is a problem of this machine, so the client is not told the details.
            self._refused(origin, IssueRefused(Reason.ISSUE_REFUSED, str(exc)), remedy=exc.remedy or "")
            return IssueRefused(Reason.ISSUE_REFUSED, "the connector cannot issue identities now; its log says why")
        if issued is None:
            if decision.reason is Reason.CLAIM_USED and decision.earlier is not None:
                self._events.publish(
                    ClaimUsedAgain(
                        connection=requester.connection,
                        label=requester.label,
                        claim=requester.serial,
                        used_at=decision.earlier.used_at,
                        client_address=origin.client_address,
                    )
                )
            return IssueRefused(decision.reason, decision.detail)
        details = details_of(issued.certificate)
        self._events.publish(
            IdentityIssued(
                connection=requester.connection,
                label=requester.label,
                serial=details.serial,
                not_after=details.not_after,
                claim=requester.serial if is_claim else "",
                earlier="" if is_claim else requester.serial,
                again=decision.earlier is not None,
                route=origin.route,
                client_address=origin.client_address,
            )
        )
        try:
            await wait_recorded(self._recorded, self._policy())
        except NotRecordedError as exc:
            return IssueRefused(Reason.AUDIT_UNAVAILABLE, str(exc))
        return issued

    def _decide_renewal(self, requester: Requester, issuer: Issuer) -> Decision:
        """Decide about a request for a renewal. The decision does not depend on the key in the request."""
        renewals = self._renewals.get((requester.connection, requester.label), ())
        now, ends = self._clock(), issuer.not_after
        return decide_issue(requester, b"", used=UsedClaims(), renewals=renewals, issuer_ends=ends, now=now)

    @contextlib.contextmanager
    def _noted_renewal(self, requester: Requester) -> Iterator[None]:
        """Note a renewal. It does not count if the block raises an exception."""
        key, now = (requester.connection, requester.label), self._clock()
        recent = [at for at in self._renewals.pop(key, ()) if abs(now - at) < RENEWALS_SECONDS]
        self._renewals[key] = [*recent, now]
        if len(self._renewals) > _MAX_REMEMBERED:
            self._renewals.popitem(last=False)
        try:
            yield
        except BaseException:
            with contextlib.suppress(KeyError, ValueError):  # it was forgotten
                self._renewals[key].remove(now)
            raise

    def _refused(self, origin: Origin, refusal: IssueRefused, *, remedy: str = "") -> None:
        self._events.publish(
            IdentityNotIssued(
                connection=origin.published.name,
                label=origin.peer.label,
                serial=origin.peer.serial,
                role=origin.peer.role.value,
                reason=refusal.reason,
                detail=refusal.detail,
                remedy=remedy,
                client_address=origin.client_address,
            )
        )


async def _receive(stream: MuxStream) -> bytes:
    """Return the request. If it is too long, return only as much as shows this."""
    received = bytearray()
    while len(received) <= MAX_ISSUE_REQUEST and (data := await stream.receive_some()):
        received += data
    return bytes(received)


def _issue(
    request: bytes,
    requester: Requester,
    issuer: Issuer,
    used: UsedClaimsFile | None,
    clock: Callable[[], float],
) -> tuple[Decision, Issued | None]:
    """Decide about a claim and record its use, and sign. Blocks.

    Raises:
        RequestError: the request is not acceptable.
        ConfigurationError: the file of used claims cannot be used, or the issuer is damaged.
    """
    checked = parse_request_untrusted(request)
    now = clock()
    if requester.role is not Role.CLAIM:  # `Issuing` has decided
        return Decision(Reason.NO_ERROR), issuer.sign(requester.connection, requester.label, checked, now=now)
    if used is None:
        raise ConfigurationError(
            "there is no file in which used claims could be recorded",
            remedy="name one that this program can write: --used-claims FILE",
        )
    decide = partial(decide_issue, requester, checked.public_key, renewals=(), issuer_ends=issuer.not_after, now=now)
    decision = used.decide(lambda known: decide(used=known))
    if decision.reason is not Reason.NO_ERROR:
        return decision, None
    return decision, issuer.sign(requester.connection, requester.label, checked, now=now)
