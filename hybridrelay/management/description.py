"""The OpenAPI document as it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from .._threads import run_in_thread

__all__ = ["Description"]


class Description:
    """Makes a document when somebody first asks for it. Making it takes a tenth of the processor time that a relay
    needs to start, and most relays are never asked for it."""

    def __init__(self, make: Callable[[], Mapping[str, object]]) -> None:
        """Take the function that makes the document. It is called in a thread."""
        self._make = make
        self._encoded: bytes | None = None

    async def read(self) -> bytes:
        """Return the document as JSON."""
        if self._encoded is None:
            self._encoded = await run_in_thread(lambda: msgspec.json.encode(self._make()))
        return self._encoded
