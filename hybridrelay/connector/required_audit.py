"""What the options and the policy of a connector require of its audit log before a stream is opened."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import trio

from ..audit.record import NotRecordedError, SinkProblem
from ..audit.witnesses import no_audit_directory
from ..events.audit import AuditSinkMissing, AuditWitnessFailed, AuditWitnessRestored
from ..events.stream import EventStream
from ..policy import Policy
from .recorded import wait_recorded

if TYPE_CHECKING:
    from ..audit import AuditLog

__all__ = ["RequiredAudit"]

#: How often to check whether required witnesses of the audit log have confirmed its checkpoints, and whether its
#: required sinks can be written (seconds).
_CHECK_SECONDS = 5.0


class RequiredAudit:
    """The audit log of a connector, with what is required of it.

    Args:
        audit: the audit log; None, or one without sinks: nothing is recorded.
        policy: returns the policy that is in force.
        hosts: returns the hosts of the relays that are used.
        events: the stream to which events are published.
    """

    def __init__(
        self,
        audit: AuditLog | None,
        policy: Callable[[], Policy],
        hosts: Callable[[], Collection[str]],
        events: EventStream,
    ) -> None:
        self._audit = audit
        self._policy = policy
        self._hosts = hosts
        self._events = events

    def policy_changed(self) -> None:
        """Tell the audit log which sinks the policy requires now."""
        if self._audit is not None:
            self._audit.require(self._policy().required_audit)

    def problems(self) -> tuple[SinkProblem, ...]:
        """Return the sinks that cannot be written or are missing, and the witnesses that have not confirmed."""
        if self._audit is not None and self._audit.has_sinks:
            return (*self._audit.problems, *self._witness_problems())
        missing = tuple(map(SinkProblem.missing, sorted(self._policy().required_audit)))
        return (*missing, no_audit_directory()) if self._policy().audit_witnesses else missing

    def _witness_problems(self) -> tuple[SinkProblem, ...]:
        """Return the relays that the policy requires as witnesses of the audit log, and that have not confirmed."""
        required = self._policy().audit_witnesses
        if self._audit is None or not self._audit.has_sinks or not required:
            return ()
        return self._audit.witnessing.witnesses.problems(required, set(self._hosts()), trio.current_time())

    async def wait_recorded(self) -> None:
        """Wait until the audit log has what was published so far, in all sinks that have to have it.

        Raises:
            NotRecordedError: a required sink cannot be written or is missing, or a required witness is overdue.
        """
        if self._audit is None or not self._audit.has_sinks:
            await wait_recorded(None, self._policy())
            return
        await self._audit.wait_recorded()
        for problem in self._witness_problems():
            raise NotRecordedError(f"{problem.sink}: {problem.detail}")

    async def watch(self, refuse: Callable[[bool], None]) -> None:
        """Publish when required witnesses fail, when they confirm again, and when there is no sink of a required
        kind, until cancelled.

        Args:
            refuse: called regularly; the argument is whether all streams have to be refused, because something that
                is required is missing or has failed.
        """
        failed: dict[str, str] = {}
        missing: set[str] = set()
        while True:
            sinks = {one.sink: one for one in self.problems() if one.is_missing and one.sink.startswith("sink ")}
            for sink in sinks.keys() - missing:
                self._events.publish(
                    AuditSinkMissing(sink=sink, detail=sinks[sink].detail, remedy=sinks[sink].remedy)
                )
            missing = set(sinks)
            problems = {one.sink: one.detail for one in self._witness_problems()}
            for sink in problems.keys() - failed.keys():
                self._events.publish(AuditWitnessFailed(witness=sink, detail=problems[sink]))
            for sink in failed.keys() - problems.keys():
                self._events.publish(AuditWitnessRestored(witness=sink))
            failed = problems
            refuse(any(one.is_required for one in self.problems()))
            await trio.sleep(_CHECK_SECONDS)
