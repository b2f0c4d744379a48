"""Which address counts as the client's behind reverse proxies."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.http.forwarded import client_address, forwarded_for, forwarded_scheme
from hybridrelay.http.head import Headers

#: A reverse proxy, and another one before it.
PROXY, OUTER = "10.0.0.1", "10.0.0.2"
CLIENT = "192.0.2.7"


def trusted(address: str) -> bool:
    return address in (PROXY, OUTER)


def found(*fields: tuple[str, str], remote: str = PROXY) -> str:
    return client_address(remote, forwarded_for(Headers(fields)), trusted)


def xff(*values: str, remote: str = PROXY) -> str:
    return found(*(("x-forwarded-for", value) for value in values), remote=remote)


def forwarded(*values: str, remote: str = PROXY) -> str:
    return found(*(("forwarded", value) for value in values), remote=remote)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (CLIENT, CLIENT),
        (f" {CLIENT}\t", CLIENT),
        (f"{CLIENT}:4711", CLIENT),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:192.0.2.7", CLIENT),
        (f"1.1.1.1, nonsense,, {CLIENT}", CLIENT),
        (f"{CLIENT}, {OUTER}", CLIENT),
        (f"1.1.1.1, {CLIENT}, {OUTER}, {PROXY}", CLIENT),
        (f"{OUTER}, {PROXY}", OUTER),
    ],
)
def test_the_last_address_that_no_proxy_has_is_taken_from_x_forwarded_for(text: str, address: str) -> None:
    assert xff(text) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (f"for={CLIENT}", CLIENT),
        (f"For={CLIENT};proto=https;by={PROXY}", CLIENT),
        (f"proto=https; for={CLIENT}", CLIENT),
        (f'for="{CLIENT}:4711"', CLIENT),
        ('for="[2001:db8::7]:4711";host="a,b"', "2001:db8::7"),
        (f"for=1.1.1.1, for={CLIENT}", CLIENT),
        (f"for={CLIENT}, for={OUTER}", CLIENT),
        (f'for="1.1.1.1, for={CLIENT}', CLIENT),
        (f'for="a";host="x, for={CLIENT}', CLIENT),
        (f'for=";, for="{CLIENT}"', CLIENT),
        (f'x"y"z", for="{CLIENT}"', CLIENT),
    ],
)
def test_the_address_in_forwarded_is_found(text: str, address: str) -> None:
    assert forwarded(text) == address


def test_several_fields_are_one_list() -> None:
    assert xff("1.1.1.1", CLIENT, OUTER) == CLIENT
    assert forwarded("for=1.1.1.1", f"for={CLIENT}", f"for={OUTER}") == CLIENT
    assert forwarded('for="', f"for={CLIENT}") == CLIENT


def test_what_others_send_is_ignored() -> None:
    for sent in (xff, forwarded):
        assert sent("1.1.1.1", remote="198.51.100.1") == "198.51.100.1"
        assert sent("for=1.1.1.1", remote="198.51.100.1") == "198.51.100.1"
        assert sent("nonsense", remote="198.51.100.1") == "198.51.100.1"


def test_without_a_header_it_is_the_proxy() -> None:
    assert found() == PROXY


def test_x_forwarded_for_is_preferred() -> None:
    assert found(("forwarded", "for=1.1.1.1"), ("x-forwarded-for", CLIENT)) == CLIENT


@pytest.mark.parametrize(
    "text",
    ["", ",", "unknown", "localhost", "192.0.2.256", "192.0.2.7:", "192.0.2.7:123456", "[192.0.2.7]", "fe80::1%eth0",
     "[::1", "::1]", "192.0.2.7 1.1.1.1", "²", "1.1.1.1;", f"{CLIENT}, nonsense", f"{CLIENT}, nonsense, {OUTER}"],
)  # fmt: skip
def test_what_a_trusted_proxy_must_not_send(text: str) -> None:
    with pytest.raises(ValueError, match="other than an IP address"):
        xff(text)


@pytest.mark.parametrize(
    "text",
    ["", "for", "for=", "for=unknown", "for=_hidden", f'for="{CLIENT}', f"for={CLIENT};for=1.1.1.1", "by=1.1.1.1",
     f'for="\\{CLIENT}"', f"for={CLIENT},", f"for={CLIENT}, by=x"],
)  # fmt: skip
def test_what_a_trusted_proxy_must_not_send_in_forwarded(text: str) -> None:
    with pytest.raises(ValueError, match="other than an IP address"):
        forwarded(text)


_ANYTHING = st.text(st.characters(min_codepoint=9, max_codepoint=255))


@given(_ANYTHING, st.sampled_from(["x-forwarded-for", "forwarded"]), st.booleans())
def test_whatever_a_client_sends_what_the_proxy_appends_counts(sent: str, name: str, another_field: bool) -> None:
    own = CLIENT if name == "x-forwarded-for" else f"for={CLIENT}"
    values = [sent, own] if another_field else [f"{sent}, {own}"]
    assert found(*((name, value) for value in values)) == CLIENT


@given(_ANYTHING, st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_anything_is_an_address_or_refused(text: str, name: str) -> None:
    try:
        address = found((name, text))
    except ValueError:
        return
    assert ipaddress.ip_address(address)


def test_a_long_list_costs_little_and_its_end_counts() -> None:
    assert xff(",".join([OUTER] * 2000)) == OUTER
    assert xff("x," * 8000 + CLIENT) == CLIENT
    assert forwarded('for="' * 3000 + f", for={CLIENT}") == CLIENT
    assert forwarded("for=1.1.1.1," * 1500 + f"for={CLIENT}") == CLIENT


@pytest.mark.parametrize(
    "text",
    [
        "for=" + " " * 7500 + "\\",
        '",' * 3800,
        "," * 7600,
        '"' * 7600,
        ";for=" * 1500,
        "for=" + '"' * 7000,
        "=" * 7600,
    ],
    ids=lambda text: text[:6],
)
def test_what_a_stranger_writes_is_examined_in_part(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody can send such a field, so it must not keep the relay busy."""
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> Callable[[FrameType, str, Any], Any]:
        nonlocal steps
        steps += 1
        return count

    sys.settrace(count)
    try:
        for name in ("forwarded", "x-forwarded-for"):
            assert len(forwarded_for(Headers([(name, text)]))) <= 32
    finally:
        sys.settrace(None)
    assert steps < 30_000


def test_a_long_field_is_cut_at_its_beginning() -> None:
    assert xff("1.1.1.1," * 1000 + CLIENT) == CLIENT
    assert forwarded("for=1.1.1.1," * 1000 + f"for={CLIENT}") == CLIENT
    assert xff("x" * 9000 + f",{CLIENT}, {OUTER}") == CLIENT


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], None),
        ([("x-forwarded-proto", "https")], "https"),
        ([("x-forwarded-proto", "HTTP")], "http"),
        ([("x-forwarded-proto", "https, http")], "http"),
        ([("x-forwarded-proto", "http"), ("x-forwarded-proto", " https ")], "https"),
        ([("x-forwarded-proto", "wss")], None),
        ([("x-forwarded-proto", "")], None),
        ([("forwarded", "for=192.0.2.1;proto=https")], "https"),
        ([("forwarded", 'for=192.0.2.1;proto=http, for="[2001:db8::1]";Proto="https"')], "https"),
        ([("forwarded", "proto=https, for=192.0.2.1")], None),
        ([("forwarded", "proto=https;proto=http")], None),
        ([("forwarded", 'proto="https')], None),
        ([("x-forwarded-proto", "http"), ("forwarded", "proto=https")], "http"),
    ],
)
def test_the_scheme_that_a_proxy_states_is_found(fields: list[tuple[str, str]], expected: str | None) -> None:
    assert forwarded_scheme(Headers(fields)) == expected
