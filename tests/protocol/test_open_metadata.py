"""The port in the metadata of OPEN."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import Metadata, MetadataEntry
from hybridrelay.protocol.metadata import decode_metadata_untrusted
from hybridrelay.protocol.open_metadata import PORT, port_metadata, requested_port_untrusted


@given(st.integers(1, 65535) | st.none())
def test_a_port_arrives(port: int | None) -> None:
    assert requested_port_untrusted(decode_metadata_untrusted(port_metadata(port).encode())) == port


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_not_a_port_is_not_sent(port: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        port_metadata(port)


def test_the_bytes_and_that_a_peer_must_understand_them() -> None:
    assert port_metadata(50000).encode().hex() == "80010002c350"
    assert port_metadata(50000).not_understood(()) == PORT


@given(st.binary(max_size=8))
def test_any_other_value_is_an_error(value: bytes) -> None:
    metadata = Metadata([MetadataEntry(PORT, value)])
    if len(value) == 2 and any(value):
        assert requested_port_untrusted(metadata) == int.from_bytes(value, "big")
    else:
        with pytest.raises(ValueError):
            requested_port_untrusted(metadata)
