"""Converts error responses of the management API into exceptions for an administrator. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from ..errors import ConfigurationError, HybridRelayError, ManagementError, OutcomeUnknown
from ..relay.store.store import ChangedMeanwhile, NameTaken, NotFound
from .problem_kinds import Problem

__all__ = ["refusal_of", "unreadable_change"]

_OTHER_VERSION = "use the same version of hybridrelay as the relay"
_LOOK_FIRST = "check whether the change was made, and repeat it if it was not"

#: The exceptions, by the type of the problem. Their text and remedy are those of the problem.
_EXCEPTIONS: Mapping[str, Callable[..., HybridRelayError]] = {
    Problem.FORBIDDEN.type: ConfigurationError,
    Problem.NOT_FOUND.type: NotFound,
    Problem.EXISTS.type: NameTaken,
    Problem.CHANGED.type: ChangedMeanwhile,
    Problem.PRECONDITION_FAILED.type: ChangedMeanwhile,
    Problem.INVALID.type: ConfigurationError,
    Problem.TOO_LARGE.type: ConfigurationError,
    Problem.RATE.type: ManagementError,
    Problem.UNAVAILABLE.type: ManagementError,
}


class _Detail(msgspec.Struct):
    pointer: str = ""
    detail: str = ""


class _Problem(msgspec.Struct):
    """The parts of a problem document that are shown to an administrator. Others are ignored."""

    detail: str
    type: str = "about:blank"
    remedy: str | None = None
    errors: Sequence[_Detail] = ()


def refusal_of(
    method: str, path: str, status: int, headers: Mapping[str, str], body: bytes, *, changes: bool
) -> HybridRelayError:
    """Return the exception for a response.

    Args:
        method, path: the method and the path of the request.
        status: the status of the response, 300 or above.
        headers: the headers of the response, with names in lower case.
        body: the body of the response.
        changes: whether the request was to change something.
    """
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _not_from_a_relay(status, changes=changes)
    if status == 401:
        return ConfigurationError(
            "the relay does not accept the token: it was revoked, has expired, or is for another relay",
            remedy="an administrator of the relay creates tokens with: hybridrelay tokens create",
        )
    if problem.type == Problem.NO_OPERATION.type:
        return ConfigurationError(
            f"the relay does not know {method} {path.partition('?')[0]}: it runs a different version",
            remedy=_OTHER_VERSION,
        )
    text, remedy = problem.detail, problem.remedy
    if problem.errors:
        text += f" ({'; '.join(f'{one.pointer}: {one.detail}' for one in problem.errors)})"
    if status in (429, 503):
        remedy = _when(headers.get("retry-after"), remedy)
    make = _EXCEPTIONS.get(problem.type)
    if make is None and status >= 500 and changes:
        return OutcomeUnknown(f"{text} (status {status})", remedy=remedy or _LOOK_FIRST)
    if make is None:
        make = ConfigurationError if status < 500 else ManagementError
    return make(text, remedy=remedy)


def _when(seconds: str | None, remedy: str | None) -> str:
    if seconds is None or not seconds.isascii() or not seconds.isdecimal():
        return remedy or "try again later"
    return f"run the command again in {seconds} s"


def _not_from_a_relay(status: int, *, changes: bool) -> HybridRelayError:
    # From a reverse proxy, which may have passed the request on, or have replaced the body of the answer. 503 says
    # that nothing was done.
    if changes and status >= 500 and status != 503:
        return OutcomeUnknown(f"the relay did not answer (status {status})", remedy=_LOOK_FIRST)
    return ManagementError(
        f"the answer has the status {status} and is not from the management API of a relay",
        remedy="check --management: its host, its port and its path",
    )


def unreadable_change(problem: ManagementError) -> OutcomeUnknown:
    """Return the exception for an answer to a change that cannot be used. `problem` says why."""
    remedy = _LOOK_FIRST if problem.remedy is None else f"{_LOOK_FIRST}; {problem.remedy}"
    return OutcomeUnknown(f"{problem}. The change may have been made, or not", remedy=remedy)
