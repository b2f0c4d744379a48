"""Local names: which are accepted, and that connection strings carry them."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConnectionStringError
from hybridrelay.security import (
    ConnectionString,
    HostPort,
    choose_local_name,
    local_name_of_target,
    parse_connection_string_untrusted,
    parse_local_name_untrusted,
    update_string,
)

PLAIN = "Endpoint=hr://relay.example.com/;SharedAccessKeyName=app;SharedAccessKey=c2VjcmV0=;EntityPath=db"
NAME = HostPort("sql01.corp.example", 1433)


def string(local_name: HostPort | None = None, target: HostPort | None = None) -> ConnectionString:
    return attrs.evolve(parse_connection_string_untrusted(PLAIN), local_name=local_name, target=target)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("sql01.corp.example:1433", "sql01.corp.example"),
        ("SQL01.Corp.Example.:1433", "sql01.corp.example"),
        ("sql01:1433", "sql01"),
        ("10.20.30.40:1433", "10.20.30.40"),
        ("[FD00:0::5]:1433", "fd00::5"),
        ("my_server:1433", "my_server"),
    ],
)
def test_names_in_their_normal_form(text: str, host: str) -> None:
    assert parse_local_name_untrusted(text) == HostPort(host, 1433)


@pytest.mark.parametrize(
    "text",
    [
        "localhost:80", "LOCALHOST.:80", "db.localhost:80", "127.0.0.1:80", "127.1.2.3:80", "[::1]:80",
        "[::ffff:127.0.0.1]:80", "0.0.0.0:80", "[::]:80", "224.0.0.1:80", "[ff02::1]:80", "255.255.255.255:80",
        "[fe80::1%eth0]:80", "sql01", "sql01:0", "sql01:65536", ":80", "a b:80", "a\tb:80", "*.corp:80", "tcp://a:80",
    ],
)  # fmt: skip
def test_what_cannot_be_a_local_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_local_name_untrusted(text)
    with pytest.raises(ConnectionStringError) as caught:
        parse_connection_string_untrusted(f"{PLAIN};LocalName={text}")
    assert caught.value.part in ("LocalName", None)  # None: a line break, which the whole string cannot have


def test_a_string_carries_it() -> None:
    text = string(local_name=NAME).format()
    assert text == f"{PLAIN};LocalName=sql01.corp.example:1433"
    assert parse_connection_string_untrusted(text).local_name == NAME
    assert parse_connection_string_untrusted(PLAIN).local_name is None


def test_a_connector_has_none() -> None:
    with pytest.raises(ConnectionStringError, match="together with Target") as caught:
        parse_connection_string_untrusted(f"{PLAIN};Target=db:1;LocalName=db:1")
    assert caught.value.part == "LocalName"
    with pytest.raises(ValueError, match="for applications"):
        string(target=NAME, local_name=NAME)


def test_a_running_program_uses_another_one() -> None:
    update = update_string(string(local_name=NAME), string())
    assert update.taken_up == ("local name",)
    assert update.needs_restart == ()
    assert update.string.local_name is None


def test_the_default_is_the_targets_name() -> None:
    assert local_name_of_target(HostPort("DB.corp.example.", 5432)) == HostPort("db.corp.example", 5432)
    for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0"):
        assert local_name_of_target(HostPort(host, 5432)) is None


def test_a_local_name_that_is_stated_is_chosen() -> None:
    other = HostPort("other", 1)
    assert choose_local_name(None, NAME) == NAME
    assert choose_local_name("none", NAME) is None
    assert choose_local_name(other, NAME) == other


@given(st.text(max_size=100))
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    try:
        found = parse_local_name_untrusted(text)
    except ValueError:
        return
    assert parse_local_name_untrusted(str(found)) == found
