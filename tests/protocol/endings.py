"""How a session has ended."""

from __future__ import annotations

from hybridrelay.protocol import Reason, SessionCore


def end_reason(core: SessionCore) -> Reason | None:
    """Why the session has ended; None while it has not."""
    return None if core.ended is None else core.ended.reason
