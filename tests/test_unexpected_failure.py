"""An exception that nothing expects is a bug, unless memory has run out."""

from __future__ import annotations

import pytest

from hybridrelay._unexpected_failure import unexpected_failure
from hybridrelay.events import InternalError, OutOfMemory


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (ExceptionGroup("", [MemoryError(), ExceptionGroup("", [MemoryError()])]), OutOfMemory),
        (KeyError("a bug"), InternalError),
        (ExceptionGroup("", [MemoryError(), KeyError("a bug")]), InternalError),
    ],
)
def test_a_bug_is_told_apart_from_a_lack_of_memory(exception: Exception, kind: type[object]) -> None:
    event = unexpected_failure("here", exception, "db")
    assert type(event) is kind
    assert (event.where, event.connection) == ("here", "db")
