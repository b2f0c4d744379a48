"""The configuration of a connector: what it accepts, and what the errors say."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import TypedDict

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connector import Connector, ConnectorConfig, PolicyFile
from hybridrelay.errors import ConfigurationError
from hybridrelay.events import Event, EventStream
from hybridrelay.policy import Policy
from hybridrelay.security import HostPort

from ..resolving import FixedResolver
from ..silent import silent_listener
from .fakes import published


def test_a_configuration_has_these_defaults() -> None:
    string = published("orders").string
    config = ConnectorConfig([string])
    assert config.strings == (string,)
    assert config.mode == "auto"
    assert config.resume_deadline == 25.0
    assert config.upgrade_interval == 30.0
    assert config.check_target_interval is None
    assert config.connect_in_parallel is False
    assert config.policy == Policy()
    assert config.instance_file is None


def test_it_is_frozen_and_shows_no_secret() -> None:
    string = published("orders").string
    config = ConnectorConfig([string])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.mode = "tcp"  # type: ignore[misc]
    assert string.key.reveal() not in repr(config)


def test_without_a_connection_string_there_is_nothing_to_do() -> None:
    with pytest.raises(ConfigurationError, match="at least one connection string"):
        ConnectorConfig([])


@pytest.mark.parametrize("value", ["Endpoint=x", b"Endpoint=x", Path("orders.connector"), published("orders").string])
def test_one_connection_string_is_not_a_list(value: object) -> None:
    with pytest.raises(TypeError, match="expected a list of ConnectionString, not"):
        ConnectorConfig(value)  # type: ignore[arg-type]


class Times(TypedDict, total=False):
    resume_deadline: float
    upgrade_interval: float
    check_target_interval: float


@pytest.mark.parametrize(
    "seconds",
    [
        {"resume_deadline": -1.0},
        {"resume_deadline": math.nan},
        {"upgrade_interval": 0.0},
        {"check_target_interval": 0.9},
    ],
)
def test_impossible_times_are_refused(seconds: Times) -> None:
    with pytest.raises(ValueError, match=next(iter(seconds))):
        ConnectorConfig([published("orders").string], **seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="needs many loopback addresses, and full backlogs")
@pytest.mark.parametrize("changed", [False, True])
async def test_checks_connect_as_streams_do(changed: bool, mock_clock: trio.testing.MockClock) -> None:
    """The clock stands still: in a staggered race, the address that does not answer would be in the way."""
    silent = f"127.{random.randrange(1, 64)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    trio.socket.set_custom_hostname_resolver(FixedResolver(silent, "127.0.0.1"))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        string = published("orders", target=HostPort("db.example", port)).string
        connector = Connector(ConnectorConfig([string], connect_in_parallel=not changed))
        if changed:
            connector.connect_in_parallel(0, on=True)
        with silent_listener(silent, port):
            (check,) = await connector.check_targets()
    assert check.ok


async def test_two_strings_for_the_same_hybrid_connection_at_one_relay() -> None:
    string = published("orders").string
    with pytest.raises(ConfigurationError, match="two connection strings are for orders"):
        Connector(ConnectorConfig([string, string]))


async def test_the_deny_list_is_reported_when_the_connector_is_made(tmp_path: Path) -> None:
    (tmp_path / "deny").write_text("billing\nbilling, x\n")
    happened: list[Event] = []
    config = ConnectorConfig([published("orders").string], policy=PolicyFile(tmp_path / "deny"))
    Connector(config, events=EventStream(happened.append))
    assert [event.name for event in happened] == ["deny-list.loaded", "deny-list.ambiguous"]
