"""The kinds of errors of the management API. Pure, and quick to import, because the clients of the API use it too."""

from __future__ import annotations

import enum

__all__ = ["Problem"]


class Problem(enum.Enum):
    """The kinds of errors: the last part of the document's ``type``, and the status code."""

    UNAUTHENTICATED = ("unauthenticated", 401)
    FORBIDDEN = ("forbidden", 403)
    NOT_FOUND = ("not-found", 404)
    #: No operation has this path.
    NO_OPERATION = ("no-operation", 404)
    #: The name is taken.
    EXISTS = ("exists", 409)
    #: The edition of the relay does not allow this.
    QUOTA = ("quota", 409)
    #: The object has changed since the caller read it: the generation in the request's body is out of date.
    CHANGED = ("changed", 409)
    #: A precondition in the request's header has failed (RFC 9110, 13.1).
    PRECONDITION_FAILED = ("precondition-failed", 412)
    INVALID = ("invalid", 400)
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405)
    #: The request, or its body, did not arrive in time.
    TIMEOUT = ("timeout", 408)
    TOO_LARGE = ("too-large", 413)
    UNSUPPORTED_MEDIA_TYPE = ("unsupported-media-type", 415)
    #: The request's host name is not one of the relay's names.
    MISDIRECTED = ("misdirected", 421)
    #: There are too many requests or failed attempts. Retry-After says when to send the next request.
    RATE = ("rate", 429)
    #: A bug in the relay, whose log contains the details.
    INTERNAL = ("internal", 500)
    UNAVAILABLE = ("unavailable", 503)

    @property
    def status(self) -> int:
        """The status code of the response."""
        return self.value[1]

    @property
    def type(self) -> str:
        """The problem document's ``type``, a URN, for programs."""
        return f"urn:hybridrelay:problem:{self.value[0]}"
