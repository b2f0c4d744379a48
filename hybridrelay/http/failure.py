"""Failures: the answers to requests that cannot be served, as values.

A `Failure` has a status and a sentence. A hook of the service turns it into a response: `plain_text`, `problem_json`,
or one of the caller's own. A failure never contains anything that the peer sent, so it is safe to show and to log.
"""

from __future__ import annotations

import http
import json
from collections.abc import Callable, Mapping

import attrs

from .._value import Value
from .response import Fields, Response

__all__ = ["Failure", "RenderFailure", "RequestError", "plain_text", "problem_json"]


@attrs.frozen
class Failure(Value):
    """An error response that has not been rendered yet. Handlers return it, or raise it inside a `RequestError`."""

    #: From 400 to 599.
    status: int = attrs.field(validator=[attrs.validators.ge(400), attrs.validators.lt(600)])
    #: One sentence for people. Never contains what the peer sent.
    detail: str
    #: Header fields that belong to the status, such as ``Allow`` or ``Retry-After``.
    headers: Fields = ()
    #: Further members of a problem document (RFC 9457 section 3.2). `problem_json` adds them; `plain_text` does not.
    members: Mapping[str, object] = attrs.field(factory=dict)
    #: Whether to close the connection afterwards, because the input that follows cannot be trusted or is not read.
    close: bool = False


class RequestError(Exception):
    """The request is refused. No other exception can be caused by bytes from the peer. Handlers may raise it, too."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.status}: {failure.detail}")
        self.failure = failure


#: Turns a failure into the response that is sent. Must not raise.
RenderFailure = Callable[[Failure], Response]


def plain_text(failure: Failure) -> Response:
    """Render the detail as a line of text."""
    return Response(
        failure.status,
        f"{failure.detail}\n".encode(),
        (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"), *failure.headers),
    )


def problem_json(failure: Failure) -> Response:
    """Render a problem document (RFC 9457) with `title`, `status`, `detail`, and the failure's own members."""
    document = {
        "title": _phrase(failure.status),
        "status": failure.status,
        "detail": failure.detail,
        **failure.members,
    }
    return Response(
        failure.status,
        json.dumps(document).encode(),
        (("Content-Type", "application/problem+json"), ("Cache-Control", "no-store"), *failure.headers),
    )


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"
