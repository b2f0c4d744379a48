"""Makes the response for a request that has not reached an operation: a problem document with a request id."""

from __future__ import annotations

from ..http import Failure, Response
from .problems import render_problem
from .request_ids import new_request_id, with_request_id

__all__ = ["render_failure"]


def render_failure(failure: Failure) -> Response:
    """See `http.RenderFailure`. A failure without a request id, such as an unknown path, gets one."""
    return render_problem(failure if "requestId" in failure.members else with_request_id(failure, new_request_id()))
