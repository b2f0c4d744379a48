"""The OpenAPI document as it is served."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from hybridrelay.management.description import Description


async def test_the_document_is_made_once_in_a_thread_when_it_is_first_read() -> None:
    made_in: list[threading.Thread] = []

    def make() -> Mapping[str, object]:
        made_in.append(threading.current_thread())
        return {"openapi": "3.1.0"}

    description = Description(make)
    assert not made_in

    assert await description.read() == b'{"openapi":"3.1.0"}'
    assert await description.read() == b'{"openapi":"3.1.0"}'
    assert len(made_in) == 1
    assert made_in[0] is not threading.main_thread()
