"""The configuration of a client: its defaults, and what it rejects."""

from __future__ import annotations

import math
from typing import TypedDict

import attrs
import pytest

from hybridrelay import ConfigurationError, ConnectionStringError
from hybridrelay.client import ClientConfig
from hybridrelay.security import HostPort

from .relays.test_relay_connection import connection_string


def test_a_connection_string_is_enough_as_text_or_parsed() -> None:
    string = connection_string()
    assert ClientConfig(string.format()).string == ClientConfig(string).string == string


class Times(TypedDict, total=False):
    open_patience: float
    resume_deadline: float
    upgrade_interval: float


@pytest.mark.parametrize(
    "times",
    [
        {name: seconds}
        for name in ("open_patience", "resume_deadline", "upgrade_interval")
        for seconds in (-1.0, math.nan)
    ],
)
def test_seconds_are_not_negative(times: Times) -> None:
    config = ClientConfig(connection_string())
    with pytest.raises(ValueError, match=next(iter(times))):
        attrs.evolve(config, **times)


def test_what_is_not_a_connection_string_of_an_application_is_rejected() -> None:
    with pytest.raises(ConnectionStringError):
        ClientConfig("Endpoint=hr://relay.example/")
    with pytest.raises(ConfigurationError, match="connector"):
        ClientConfig(attrs.evolve(connection_string(), target=HostPort("127.0.0.1", 1)))
    with pytest.raises(TypeError):
        ClientConfig(b"Endpoint=hr://relay.example/")  # type: ignore[arg-type]


def test_it_shows_no_secret() -> None:
    string = connection_string()
    assert string.key.reveal() not in repr(ClientConfig(string))
