"""A forward in a thread: what cannot be used is said where the block would begin."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from hybridrelay import ConnectorConfig, forward_in_thread
from hybridrelay.errors import ConnectionStringError


@pytest.mark.parametrize(
    "path", ["orders.application", "/etc/hybridrelay/orders.application", "./a=b", "C:\\orders=1", "~/orders"]
)
def test_the_name_of_a_file_is_not_a_connection_string(path: str) -> None:
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


@pytest.mark.parametrize("value", [Path("orders.application"), b"Endpoint=x", None, ["Endpoint=x"]])
def test_what_is_not_a_connection_string_is_a_type_error_that_says_how_to_read_one(value: Any) -> None:
    for use in (lambda: forward_in_thread(value).__enter__(), lambda: ConnectorConfig([value])):
        with pytest.raises(TypeError, match=r"expected a ConnectionString, not .*load_connection_string\(path\)"):
            use()


@pytest.mark.parametrize("value", ["Endpoint=x", b"Endpoint=x", Path("orders.connector")])
def test_a_connector_takes_a_list(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a list of ConnectionString, not"):
        ConnectorConfig(value)


def test_the_traceback_of_an_error_shows_what_to_do() -> None:
    error = ConnectionStringError("it is wrong", remedy="write another")

    assert str(error) == "it is wrong"
    assert "What to do: write another" in "".join(traceback.format_exception(error))
    assert not hasattr(ConnectionStringError("it is wrong"), "__notes__")
