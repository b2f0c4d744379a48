"""To which groups a holder belongs."""

from __future__ import annotations

import pytest

from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot


@pytest.mark.parametrize(
    ("connection", "beginnings"),
    [
        ("db", []),
        ("prod/db", ["prod/"]),
        ("prod/team/db", ["prod/team/", "prod/"]),
        ("a/b/c/db", ["a/b/c/", "a/b/", "a/"]),
        ("a/b/c/d/e/db", ["a/b/c/", "a/b/", "a/"]),
    ],
)
def test_groups_are_the_key_the_hybrid_connection_and_what_its_name_begins_with(
    connection: str, beginnings: list[str]
) -> None:
    key = KeyId(connection, "sender", KeySlot.PRIMARY, 1)
    assert Holder(key, "192.0.2.1").groups == (key, connection, *beginnings)
