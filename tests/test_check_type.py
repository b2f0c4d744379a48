"""Calls of the library with arguments of the wrong type say how to get the right one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hybridrelay import open_client, run_connector, run_forward, run_relay
from hybridrelay.security import generate_key, parse_connection_string_untrusted

STRING = parse_connection_string_untrusted(
    f"Endpoint=hr://relay.example/;SharedAccessKeyName=x;SharedAccessKey={generate_key().reveal()};EntityPath=orders"
)


@pytest.mark.parametrize("value", ["connector.txt", Path("connector.txt"), STRING, [STRING], None])
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            run_connector,
            r"expected a ConnectorConfig, not \w+: ConnectorConfig\(\[load_connection_string\(path\)\]\)",
        ),
        (run_relay, r"expected a RelayConfig, not \w+: RelayConfig\(state_dir, "),
        (lambda value: run_forward(value, []), r"expected a Client, not \w+: async with open_client"),
    ],
)
async def test_the_message_says_what_is_expected(
    call: Callable[[object], Awaitable[None]], says: str, value: object
) -> None:
    with pytest.raises(TypeError, match=says) as caught:
        await call(value)
    assert STRING.key.reveal() not in str(caught.value)


@pytest.mark.parametrize("value", [b"Endpoint=x", Path("application.txt"), None])
async def test_what_is_not_a_connection_string(value: object) -> None:
    with pytest.raises(TypeError, match="expected a ConnectionString, not"):
        async with open_client(value):  # type: ignore[arg-type]
            pass
