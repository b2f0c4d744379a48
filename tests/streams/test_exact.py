"""`receive_exactly` reads as many bytes as it was asked for and no more."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.streams import receive_exactly


async def test_leaves_what_follows() -> None:
    left, right = trio.testing.memory_stream_pair()
    await left.send_all(b"headbody")
    assert await receive_exactly(right, 4) == b"head"
    assert await receive_exactly(right, 0) == b""
    assert await right.receive_some() == b"body"


async def test_waits_for_the_rest() -> None:
    left, right = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:

        async def trickle() -> None:
            for byte in b"head":
                await left.send_all(bytes([byte]))

        nursery.start_soon(trickle)
        assert await receive_exactly(right, 4) == b"head"


@pytest.mark.parametrize("sent", [b"", b"hea"])
async def test_early_end_is_broken(sent: bytes) -> None:
    left, right = trio.testing.memory_stream_pair()
    await left.send_all(sent)
    await left.aclose()
    with pytest.raises(trio.BrokenResourceError, match=f"after {len(sent)} of 4"):
        await receive_exactly(right, 4)
