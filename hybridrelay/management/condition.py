"""Finds the current and expected problems of a relay, and a remedy for each. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from itertools import islice

import attrs

from .._value import Value
from ..audit.record import SinkProblem
from ..errors import ConfigurationError
from ..relay.claims import OpenClaim
from ..relay.snapshot import CertificateSnapshot, PlacesSnapshot, QuotaSnapshot, RelaySnapshot, UnkeptKeySnapshot
from .callers import Scope
from .live_values import ProblemCode, RelayProblem
from .sizes import bytes_of

__all__ = [
    "MAX_NAMES",
    "LastReload",
    "Names",
    "management_certificate_problem",
    "part_of_scope",
    "relay_problems",
    "reload_problems",
    "sink_problems",
]

#: A certificate is reported as a problem if it expires within this time (seconds). Certificates of public CAs are
#: usually renewed a month before they expire.
EXPIRY_SECONDS = 21 * 86400.0
#: Places are reported as a problem if at least this fraction of them is taken.
NEARLY_FULL = 0.9
#: How many hybrid connections with the same problem are listed by name.
MAX_NAMES = 100
#: How many claims that expire soon are listed.
MAX_CLAIMS = 100

_PLACES_REMEDY = "raise LimitNOFILE= of the relay's unit"


@attrs.define
class Names:
    """The names of hybrid connections with the same problem: the first ones, and how many there are in all."""

    first: list[str] = attrs.field(factory=list)
    count: int = 0

    def add(self, name: str) -> None:
        """Add one. At most `MAX_NAMES` are kept."""
        self.count += 1
        if len(self.first) < MAX_NAMES:
            self.first.append(name)


@attrs.frozen(kw_only=True)
class LastReload(Value):
    """What the last reload of a relay's configuration file could not use."""

    #: Seconds since 1970.
    at: float
    file: str
    #: What is wrong, and its remedy, if there is one: for each group of options that could not be used, or once for
    #: the whole file.
    failures: tuple[tuple[str, str | None], ...] = ()
    #: The changed keys that take effect only after a restart.
    needs_restart: tuple[str, ...] = ()


def part_of_scope(snapshot: RelaySnapshot, scope: Scope) -> RelaySnapshot:
    """Return the part of a snapshot that concerns the hybrid connections of a scope, and whether the relay drains.

    Args:
        snapshot: its quotas and keys are those that the caller may see.
        scope: of the caller.
    """
    if scope.is_everything:
        return snapshot
    return RelaySnapshot(
        is_running=snapshot.is_running,
        draining_since=snapshot.draining_since,
        quotas=snapshot.quotas,
        unkept_keys=snapshot.unkept_keys,
    )


def relay_problems(
    snapshot: RelaySnapshot,
    unserved: Names,
    now: float,
    *,
    unhealthy: Names | None = None,
    claims: Sequence[OpenClaim] = (),
    others: Sequence[RelayProblem] = (),
) -> tuple[RelayProblem, ...]:
    """Return the problems, the most important first.

    Args:
        snapshot: the state of the relay.
        unserved: the hybrid connections without a registered connector.
        now: the time, in seconds since 1970.
        unhealthy: those of which all connectors report that they cannot reach their target.
        claims: the open claims.
        others: problems that are not in the snapshot, such as `reload_problems`.
    """
    found: list[RelayProblem] = []
    if snapshot.draining_since is not None:
        found.append(
            _problem(
                code="draining",
                detail=f"the relay has been draining since {_date(snapshot.draining_since)}, and accepts no new "
                "registrations and joins",
                remedy="hybridrelay drain --undo",
            )
        )
    for certificate in snapshot.certificates:
        found += _of_certificate(certificate, now)
    found += others
    found += [_problem(code=one.code, detail=one.detail, remedy=one.remedy) for one in snapshot.file_problems]
    found += [_of_quota(one) for one in sorted(snapshot.quotas, key=lambda one: not one.is_reached)]
    found += _of_places("pairs", "places for pairs of data channels", snapshot.pairs, "or --max-pairs")
    found += _of_places("control-channels", "places for control channels", snapshot.control_channels)
    found += _of_places(
        "unauthenticated-slots",
        "slots for connections that have not authenticated",
        snapshot.unauthenticated,
        "if all of them stay taken, someone is opening connections without authenticating",
    )
    found += [_of_key(one) for one in snapshot.unkept_keys]
    found += islice((_of_claim(claim) for claim in claims if claim.expires_soon(now)), MAX_CLAIMS)
    found += _of_connections(
        "no-listener",
        unserved,
        lambda name: f"no connector listens for {name}",
        "start the connector, or check its log to see why it is not registered",
        "list the hybrid connections whose listenerCount is 0",
    )
    found += _of_connections(
        "target-unhealthy",
        unhealthy or Names(),
        lambda name: f"no connector can serve {name}: all report that its target fails, or that they refuse streams",
        "see what is wrong at a connector: hybridrelay status --from, or its log; no connector has to be restarted",
        "list the listeners whose target is unhealthy",
    )
    return tuple(found)


def _of_key(unkept: UnkeptKeySnapshot) -> RelayProblem:
    programs = (
        "1 program that is connected has"
        if unkept.programs == 1
        else f"{unkept.programs} programs that are connected have"
    )
    old = (
        "is revoked at the end of the roll" if unkept.ended_at is None else f"was revoked at {_date(unkept.ended_at)}"
    )
    return _problem(
        code="key-not-kept",
        detail=f"{programs} the new key of rule {unkept.rule} of {unkept.connection} only in memory, and would fail "
        f"after a restart: the old key {old}",
        remedy=f"hybridrelay keys list {unkept.connection} shows them; write the new key where their connection "
        "strings come from (hybridrelay keys use), or let them write their files",
        connection=unkept.connection,
    )


def reload_problems(last: LastReload) -> tuple[RelayProblem, ...]:
    """Return what is in the configuration file and not in use."""
    found = [
        _problem(
            code="reload-failed",
            detail=f"the reload at {_date(last.at)} failed in part, and what was in use before stays in use: {text}",
            remedy=f"{remedy or 'correct it'}; then reload the relay (SIGHUP)",
        )
        for text, remedy in last.failures
    ]
    if last.needs_restart:
        found.append(
            _problem(
                code="restart-needed",
                detail=f"{last.file} was reloaded at {_date(last.at)}, and changes of these keys take effect only "
                f"after a restart: {', '.join(last.needs_restart)}",
                remedy="restart the relay; or undo these changes, and reload it (SIGHUP)",
            )
        )
    return tuple(found)


def sink_problems(sinks: Sequence[SinkProblem]) -> tuple[RelayProblem, ...]:
    """Return the problem of each sink of the relay's audit log that cannot be written."""
    return tuple(
        _problem(code="audit-failed", detail=f"{one.text}; its records wait", remedy=one.remedy) for one in sinks
    )


def management_certificate_problem(error: ConfigurationError) -> RelayProblem:
    """Return the problem that the certificate of the management API cannot be read again."""
    return _not_renewed("--management-tls-certificate", str(error), error.remedy)


def _not_renewed(option: str, failure: str, remedy: str | None) -> RelayProblem:
    return _problem(
        code="certificate-not-renewed",
        detail=f"the files of {option} have changed, and cannot be used: {failure}; the earlier certificate stays in "
        "force",
        remedy=remedy or "correct the files; the relay reads them again within half a minute",
    )


def _of_connections(
    code: ProblemCode, names: Names, detail: Callable[[str], str], remedy: str, remedy_of_others: str
) -> list[RelayProblem]:
    """Return a problem for each hybrid connection that is named, and one for all others."""
    found = [_problem(code=code, detail=detail(one), remedy=remedy, connection=one) for one in names.first]
    if names.count > len(names.first):
        others = f"{names.count - len(names.first)} more hybrid connections"
        found.append(_problem(code=code, detail=detail(others), remedy=remedy_of_others))
    return found


def _problem(*, code: ProblemCode, detail: str, remedy: str, connection: str | None = None) -> RelayProblem:
    return RelayProblem(code=code, detail=detail, remedy=remedy, connection=connection)


def _of_certificate(certificate: CertificateSnapshot, now: float) -> list[RelayProblem]:
    found = []
    if certificate.failure:
        found.append(_not_renewed("--tls-certificate", certificate.failure, certificate.remedy))
    if now < certificate.expires_at - EXPIRY_SECONDS:
        return found
    is_over = now >= certificate.expires_at
    return [
        *found,
        _problem(
            code="certificate-expired" if is_over else "certificate-expires",
            detail=f"the certificate of --tls-certificate {'expired' if is_over else 'expires'} at "
            f"{_date(certificate.expires_at)}",
            remedy="renew it; the relay notices the new file within half a minute",
        ),
    ]


def _of_quota(quota: QuotaSnapshot) -> RelayProblem:
    whose = "the relay" if quota.connection is None else quota.connection
    if quota.kind == "bytes":
        used = f"{bytes_of(quota.used)} of the {bytes_of(quota.limit)} of {whose} for this month are used"
    else:
        used = f"{quota.used} of {quota.limit} {quota.kind} of {whose} are used"
    command = "hybridrelay editions --help" if quota.connection is None else "hybridrelay connections limits --help"
    return _problem(
        code="quota-reached" if quota.is_reached else "quota-near",
        detail=f"{used}; further requests are refused" if quota.is_reached else used,
        remedy=f"raise the limit if it is too low: {command}",
        connection=quota.connection,
    )


def _of_claim(claim: OpenClaim) -> RelayProblem:
    note = f" ({claim.note})" if claim.note else ""
    return _problem(
        code="claim-expires",
        detail=f"the claim {claim.id[:8]}{note} of {claim.connection} was not taken, and expires at "
        f"{_date(claim.expires_at)}",
        remedy=f"take it on its machine before that, or revoke it: hybridrelay claims revoke {claim.connection} "
        f"{claim.id[:8]}",
        connection=claim.connection,
    )


def _of_places(code: ProblemCode, what: str, places: PlacesSnapshot, remedy: str = "") -> list[RelayProblem]:
    if places.total == 0 or places.taken < NEARLY_FULL * places.total:
        return []
    detail = f"{places.taken} of {places.total} {what} are taken"
    return [_problem(code=code, detail=detail, remedy="; ".join(filter(None, (_PLACES_REMEDY, remedy))))]


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
