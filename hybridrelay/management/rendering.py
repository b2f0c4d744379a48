"""The response for a request that no operation has answered: a problem document with the id of the request."""

from __future__ import annotations

from ..http import Failure, Response
from .problems import render_problem
from .request_ids import new_request_id, with_request_id

__all__ = ["render_failure"]


def render_failure(failure: Failure) -> Response:
    """See `http.RenderFailure`. A failure that has no id, such as that of an unknown path, gets one."""
    return render_problem(failure if "requestId" in failure.members else with_request_id(failure, new_request_id()))
