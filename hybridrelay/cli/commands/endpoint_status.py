"""``hybridrelay status --from``: the status of a connector or forward."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ...monitoring.client import read_endpoint_status
from .. import exits
from ..endpoint_text import endpoint_text

__all__ = ["endpoint_state"]


async def endpoint_state(where: Path | tuple[str, int], *, as_json: bool) -> tuple[Iterable[str], int]:
    """Read the status, and return it as text or JSON, in parts, with the exit code.

    Args:
        where: the value of ``--from``.
        as_json: whether to return JSON.

    Raises:
        HybridRelayError: no program serves its status there, or its answer cannot be used.
    """
    status = await read_endpoint_status(where)
    code = exits.FAILED if status.problems else exits.OK
    if as_json:
        return (msgspec.json.format(msgspec.json.encode(status), indent=2).decode(),), code
    return (endpoint_text(status, time.time()),), code
