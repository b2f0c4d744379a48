"""The results of the prober: as a table for people, and as JSON for programs."""

from __future__ import annotations

import enum
import itertools
import json
from collections.abc import Sequence

import attrs

from .._printable import printable
from .._value import Value
from ..errors import RelayUnreachable
from ..failure import Failure, FailureKind
from ..protocol.reasons import Reason
from .endpoint import format_address


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    #: The attempt was not made, or was stopped because its result was no longer needed.
    SKIP = "SKIP"


@attrs.frozen(kw_only=True)
class Attempt(Value):
    """One port of one route, and the result of trying it."""

    route: str
    #: The purpose of the port: ``probe``, ``control``, ``data``.
    step: str
    host: str
    #: None if the relay does not serve the port, or if a command, and not a port, leads to the relay.
    port: int | None
    outcome: Outcome
    #: How long the attempt took, or ran before it was stopped; None if it was not made.
    seconds: float | None = None
    #: Why it failed; None if it did not.
    failure: Failure | None = None
    #: Why it was skipped; empty otherwise.
    note: str = ""
    #: Whether a command led to the relay.
    by_command: bool = False
    #: The proxy that was used, without credentials.
    proxy: str | None = None
    #: The issuer of the certificate that an interceptor of the outer TLS presented; None if no interception is known.
    intercepted_by: str | None = None
    #: The address of the relay that answered; if none did, the one whose failure is reported. None if it is not
    #: known, because a proxy resolves the name, or nothing was tried.
    reached: str | None = None

    @property
    def address(self) -> str:
        """``host:port``, and the address that was reached if `host` is a name."""
        if self.port is None:
            return f"{self.host} ({'command' if self.by_command else 'off'})"
        address = format_address(self.host, self.port)
        return address if self.reached in (None, self.host) else f"{address} ({self.reached})"

    @property
    def milliseconds(self) -> float | None:
        """`seconds` in milliseconds, rounded for reports."""
        return None if self.seconds is None else round(self.seconds * 1000, 1)

    @property
    def explanation(self) -> str:
        """One line of text: why the attempt did not pass, or that TLS was intercepted. Empty if there is nothing to
        say."""
        text = self.note if self.failure is None else self.failure.text
        if self.failure is None and self.intercepted_by is not None:
            text = f"intercepted: {self.intercepted_by} intercepts TLS; what is inside is encrypted again"
        return printable(text)  # it may quote what a peer sent

    def as_dict(self) -> dict[str, object]:
        """Return the attempt for JSON. Future versions only add keys."""
        return {
            "route": self.route,
            "step": self.step,
            "host": self.host,
            "port": self.port,
            "outcome": str(self.outcome),
            "milliseconds": self.milliseconds,
            "reason": None if self.failure is None else str(self.failure.kind),
            "failed_step": None if self.failure is None or self.failure.step is None else str(self.failure.step),
            "explanation": self.explanation or None,
            "remedy": None if self.failure is None else self.failure.remedy,
            "proxy": self.proxy,
            "intercepted_by": self.intercepted_by,
            "reached": self.reached,
        }


@attrs.frozen(kw_only=True)
class Report(Value):
    """All attempts of one run of the prober."""

    host: str
    mode: str
    #: Sorted by the rank of the route, then in the order of its steps.
    attempts: tuple[Attempt, ...]
    #: The name of the route to use; None if none works.
    chosen: str | None
    seconds: float
    #: Whether the default ports were tried, because the connection string names none.
    default_ports: bool = False

    @property
    def failures(self) -> tuple[Attempt, ...]:
        """The attempts that failed."""
        return tuple(attempt for attempt in self.attempts if attempt.outcome is Outcome.FAIL)

    def failure_of(self, route: str) -> Failure | None:
        """Return why this route does not work, or None if no attempt over it failed."""
        return next((attempt.failure for attempt in self.failures if attempt.route == route), None)

    @property
    def proxy(self) -> str | None:
        """The proxy that was used, without credentials, or None."""
        return next((attempt.proxy for attempt in self.attempts if attempt.proxy is not None), None)

    def with_interception(self, route: str, issuer: str) -> Report:
        """Return the same report, with the issuer of the intercepting certificate on this route."""
        attempts = (
            attrs.evolve(attempt, intercepted_by=issuer) if attempt.route == route else attempt
            for attempt in self.attempts
        )
        return attrs.evolve(self, attempts=tuple(attempts))

    def summary(self) -> str:
        """Return the result in one line."""
        if self.chosen is not None:
            return f"{self.host}: use {self.chosen}"
        reasons: dict[str, list[Attempt]] = {}
        for attempt in self.failures or self.attempts:
            reasons.setdefault(attempt.explanation, []).append(attempt)
        beginning = f"the relay {self.host} cannot be reached"
        if len(reasons) > 1:
            return f"{beginning}: {'; '.join(f'{_places(tried)}: {text}' for text, tried in reasons.items())}"
        [(text, tried)] = reasons.items()
        made = [attempt for attempt in tried if attempt.seconds is not None and not attempt.by_command]
        ports = list(dict.fromkeys(str(attempt.port) for attempt in made))
        if not ports:
            return f"{beginning}: {text}"
        kind = f"{'default ' if self.default_ports else ''}port{'s' if len(ports) > 1 else ''}"
        return f"{beginning} at {'the ' if self.default_ports else ''}{kind} {', '.join(ports)}: {text}"

    def as_dict(self) -> dict[str, object]:
        """Return the report for JSON. Future versions only add keys."""
        return {
            "host": self.host,
            "mode": self.mode,
            "chosen": self.chosen,
            "milliseconds": round(self.seconds * 1000, 1),
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }

    def as_json(self) -> str:
        """Return the report as one JSON object, for programs."""
        return json.dumps(self.as_dict(), indent=2)

    def as_table(self) -> str:
        """Return the report as an aligned table in plain text, followed by what to do about each failure."""
        rows = [("ROUTE", "STEP", "ADDRESS", "RESULT", "TIME", "REASON")]
        for (route, outcome, text), attempts in itertools.groupby(self.attempts, _row_key):
            alike = list(attempts)
            if outcome is Outcome.SKIP and len(alike) > 1:
                # The reason why several ports were skipped is written once.
                steps = ", ".join(attempt.step for attempt in alike)
                whole = len(alike) == len([one for one in self.attempts if one.route == route])
                rows.append((route, "all" if whole else steps, self.host, str(outcome), "-", text))
                continue
            for attempt in alike:
                time = "-" if attempt.milliseconds is None else f"{attempt.milliseconds:.0f} ms"
                rows.append((route, attempt.step, attempt.address, str(outcome), time, text))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = []
        for *cells, explanation in rows:
            padded = [
                # Times are aligned to the right.
                cell.rjust(width) if column == 4 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append("  ".join([*padded, explanation]).rstrip())
        advice: dict[str, list[str]] = {}
        for attempt in self.failures:
            if attempt.failure is not None and attempt.failure.remedy:
                advice.setdefault(attempt.failure.remedy, []).append(attempt.address)
        through = f", through {self.proxy}" if self.proxy else ""
        lines += ["", f"Result: {self.summary()} (mode {self.mode}, {self.seconds * 1000:.0f} ms{through})"]
        lines += [f"  {', '.join(addresses)}: {remedy}" for remedy, addresses in advice.items()]
        return "\n".join(lines)


def _places(tried: Sequence[Attempt]) -> str:
    return ", ".join(one.route if one.port is None else f"{one.route} {one.port}" for one in tried)


def _row_key(attempt: Attempt) -> tuple[str, Outcome, str]:
    return attempt.route, attempt.outcome, attempt.explanation


class NoRouteWorks(RelayUnreachable):
    """The prober found no route that works. `report` has all attempts, `failure` the most important failure."""

    def __init__(self, report: Report) -> None:
        # A wrong certificate comes before all other failures, because the administrator has to know about it.
        found = [attempt.failure for attempt in report.failures if attempt.failure is not None]
        found.sort(key=lambda failure: failure.kind is not FailureKind.WRONG_IDENTITY)
        failure = next(iter(found), None)
        reason = next((failure.reason for failure in found if failure.reason is not None), Reason.RELAY_UNREACHABLE)
        remedy = next((failure.remedy for failure in found if failure.remedy is not None), None)
        brief = f"the relay {report.host} cannot be reached"
        super().__init__(report.summary(), reason=reason, remedy=remedy, brief=brief, failure=failure)
        self.report = report
