"""The state of one stream: its queues, and that only its own methods change it."""

from __future__ import annotations

import ast
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybridrelay
from hybridrelay.protocol import Budget
from hybridrelay.protocol.config import BASE_WINDOW
from hybridrelay.protocol.sending import BUFFER_OVERHEAD
from hybridrelay.protocol.states import Opening, StreamStates
from hybridrelay.protocol.stream import Stream
from hybridrelay.protocol.windows import ReceiveWindow


def _stream() -> Stream:
    return Stream(1, StreamStates(Opening.AWAITING), ReceiveWindow(Budget(BASE_WINDOW), BASE_WINDOW))


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=30), st.floats(0, 1)), max_size=60))
def test_bytes_leave_in_order_and_their_memory_is_counted_once(steps: list[bytes | float]) -> None:
    """In the list, bytes are queued, and a float stands for a frame with that part of the queue."""
    stream, queued, left = _stream(), b"", b""
    counted = freed = frames = 0
    for step in [*steps, 1.0]:
        if isinstance(step, bytes):
            counted += stream.queue_output(step)
            queued += step
        elif amount := int(step * stream.queued_bytes):
            frames += 1
            memory, pieces = stream.take_output(amount, frames)
            freed += memory
            left += b"".join(pieces)
            assert stream.last_number == frames
        assert stream.queued_bytes == len(queued) - len(left)
        assert stream.send_window.sent == len(left)
        assert counted - freed >= stream.queued_bytes
    assert left == queued
    assert counted == freed == len(queued) + BUFFER_OVERHEAD * sum(isinstance(step, bytes) for step in steps)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=6000), st.integers(1, 9000)), max_size=40))
def test_what_was_received_is_read_in_order(steps: list[bytes | int]) -> None:
    stream, received, read = _stream(), b"", b""
    for step in steps:
        if isinstance(step, bytes):
            stream.add_input(step)
            received += step
        else:
            pieces, size = stream.take_input(step)
            data = b"".join(pieces)
            assert len(data) == size == min(step, len(received) - len(read))
            read += data
        assert stream.readable_bytes == len(received) - len(read)
        assert received.startswith(read)


@pytest.mark.parametrize("part", ["protocol", "mux"])
def test_nothing_else_changes_it(part: str) -> None:
    """Other code reads the attributes of a stream, and calls its methods to change them."""
    own = {field.name for field in attrs.fields(Stream)}
    directory = Path(hybridrelay.__file__).parent / part
    files = [file for file in directory.glob("*.py") if file.name != "stream.py" or part == "mux"]
    assert len(files) > 5
    found = [
        f"{file.name}:{node.lineno}: {ast.unparse(node)}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and isinstance(node.value, ast.Name)
        and node.value.id != "self"
        and node.attr in own
    ]
    assert not found, "use or add a method of Stream"
