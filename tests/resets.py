"""Why a stream was reset."""

from __future__ import annotations

from hybridrelay.errors import StreamReset
from hybridrelay.protocol import Reason


def reset_reason(broken: BaseException) -> Reason:
    """The reason of the `StreamReset` that caused what a stream has raised. Fails the test if something else did."""
    assert isinstance(broken.__cause__, StreamReset), broken.__cause__
    return broken.__cause__.reason
