"""The ids of requests, which are in every response, in problem documents and in the audit log."""

from __future__ import annotations

import secrets

import attrs

from ..http import Failure

__all__ = ["REQUEST_ID", "new_request_id", "with_request_id"]

#: The header field of every response.
REQUEST_ID = "Request-Id"


def new_request_id() -> str:
    """Return a random id. The response and the audit log show it."""
    return secrets.token_hex(8)


def with_request_id(failure: Failure, request_id: str) -> Failure:
    """Add the id to the header and the problem document of a failure."""
    return attrs.evolve(
        failure,
        headers=(*failure.headers, (REQUEST_ID, request_id)),
        members={**failure.members, "requestId": request_id},
    )
