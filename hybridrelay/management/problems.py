"""The errors of the management API: problem documents (RFC 9457) with a stable type and a remedy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ..errors import ConfigurationError, StateError
from ..http import Failure, Fields, RequestError, Response, problem_json
from ..relay.store.store import ChangedMeanwhile, NameTaken, NotFound, QuotaReached, StoreBusy
from .problem_kinds import Problem

__all__ = ["problem", "problem_of", "render_problem"]

#: The remedies for requests that have not reached an operation, by status.
_REMEDIES: Mapping[int, str] = {
    404: "GET /openapi.json lists all operations and their paths",
    405: "the header Allow names the methods of this path",
    421: "use an address, a name in the certificate, or a name that the relay has from --management-host",
}


#: The kinds of the failures that `hybridrelay.http` detects, by status. All others are malformed requests.
_KINDS: Mapping[int, Problem] = {
    404: Problem.NO_OPERATION,
    405: Problem.METHOD_NOT_ALLOWED,
    408: Problem.TIMEOUT,
    413: Problem.TOO_LARGE,
    414: Problem.TOO_LARGE,
    421: Problem.MISDIRECTED,
    431: Problem.TOO_LARGE,
    500: Problem.INTERNAL,
    501: Problem.METHOD_NOT_ALLOWED,
    503: Problem.UNAVAILABLE,
}


def problem(
    kind: Problem,
    detail: str,
    *,
    remedy: str | None = None,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Fields = (),
    close: bool = False,
) -> RequestError:
    """Make the exception that answers a request with a problem document.

    Args:
        kind: determines the type and the status.
        detail: a sentence for people.
        remedy: what the caller can do.
        errors: for an invalid request, what is wrong in it. Each has a ``pointer`` (RFC 6901 for the body, ``?/name``
            for a query parameter, or the name of a header) and a ``detail``.
        headers: further header fields of the response.
        close: whether to close the connection afterwards.
    """
    members: dict[str, object] = {"type": kind.type}
    if remedy is not None:
        members["remedy"] = remedy
    if errors:
        members["errors"] = [dict(error) for error in errors]
    return RequestError(Failure(kind.status, detail, headers, members, close))


def render_problem(failure: Failure) -> Response:
    """Return the response with the problem document for a failure, which need not be that of an operation."""
    if "type" not in failure.members:
        kind = _KINDS.get(failure.status, Problem.INVALID)
        failure = attrs.evolve(failure, members={"type": kind.type, **failure.members})
    if "remedy" not in failure.members and (remedy := _REMEDIES.get(failure.status)):
        failure = attrs.evolve(failure, members={**failure.members, "remedy": remedy})
    return problem_json(failure)


def problem_of(exc: ConfigurationError, *, conditional: bool) -> RequestError:
    """Make the exception that answers a request which the store has refused.

    Args:
        exc: the store's exception.
        conditional: whether the request had a precondition in its header. `ChangedMeanwhile` then means that the
            precondition has failed.
    """
    headers: Fields = ()
    match exc:
        case NotFound():
            kind = Problem.NOT_FOUND
        case NameTaken():
            kind = Problem.EXISTS
        case QuotaReached():
            kind = Problem.QUOTA
        case ChangedMeanwhile():
            kind = Problem.PRECONDITION_FAILED if conditional else Problem.CHANGED
        case StoreBusy():
            kind, headers = Problem.UNAVAILABLE, (("Retry-After", "1"),)
        case StateError():
            kind = Problem.UNAVAILABLE
        case _:
            kind = Problem.INVALID
    return problem(kind, str(exc), remedy=exc.remedy, headers=headers)
