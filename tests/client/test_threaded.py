"""A forward in a thread: what cannot be used is said where the block would begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridrelay import forward_in_thread
from hybridrelay.errors import ConnectionStringError


@pytest.mark.parametrize(
    "path", ["orders.application", "/etc/hybridrelay/orders.application", "./a=b", "C:\\orders=1", "~/orders"]
)
def test_the_name_of_a_file_is_no_connection_string(path: str) -> None:
    with pytest.raises(ConnectionStringError, match="it has no fields") as caught:
        with forward_in_thread(path):
            pytest.fail("the block was entered")

    assert "load_connection_string(path) reads it" in (caught.value.remedy or "")
    assert path not in str(caught.value)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    for text, says in (('\ufeff{"format": "x"}', "relay file or an authority file"), ("-----BEGIN X", "in PEM")):
        with pytest.raises(ConnectionStringError, match=says):
            with forward_in_thread(text):
                pytest.fail("the block was entered")
