"""What an operator may add to HTTP requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.http_options import HttpOptions, check_header, check_path_prefix


@pytest.mark.parametrize("prefix", ["/a", "/edge/relay", "/a.b/c_d~e-f", "/x" * 100])
def test_a_slash_at_the_end_of_a_path_prefix_is_removed(prefix: str) -> None:
    assert check_path_prefix(prefix) == check_path_prefix(f"{prefix}/") == prefix
    assert HttpOptions(prefix).path_prefix == prefix


@pytest.mark.parametrize(
    "prefix",
    ["", "/", "a", "//a", "/a//b", "/a//", "/..", "/a/../b", "/.", "/a b", "/a?b", "/a#b", "/a%2Fb", "/{name}", "/ä",
     "/a\r\nX: y", "/x" * 101],
)  # fmt: skip
def test_what_is_not_a_path_prefix(prefix: str) -> None:
    with pytest.raises(ValueError, match="expected a path"):
        check_path_prefix(prefix)


@pytest.mark.parametrize("name", ["CF-Access-Client-Id", "X-Token", "Authorization", "Cookie", "User-Agent"])
def test_a_header_field_may_have_any_printable_value(name: str) -> None:
    assert check_header(name, "a b\tc=;~") == (name, "a b\tc=;~")


@pytest.mark.parametrize(
    "name",
    ["Host", "Connection", "UPGRADE", "Sec-WebSocket-Key", "sec-websocket-protocol", "Content-Length",
     "transfer-encoding", "TE", "Trailer", "Keep-Alive", "Expect", "Proxy-Authorization"],
)  # fmt: skip
def test_fields_of_the_connection_itself_cannot_be_set(name: str) -> None:
    with pytest.raises(ValueError, match="belongs to the connection"):
        check_header(name, "x")


@pytest.mark.parametrize("name", ["", "a b", "a:", "ä", "a\r\n", "a" * 101, "(x)"])
def test_names_that_are_not_possible(name: str) -> None:
    with pytest.raises(ValueError, match="name of a header field"):
        check_header(name, "x")


SECRET = "s3cret"


@pytest.mark.parametrize(
    "value", ["", " ", f" {SECRET}", f"{SECRET} ", f"{SECRET}\r\nHost: x", f"{SECRET}\n", f"{SECRET}\0", f"{SECRET}ä",
              SECRET * 2000, f"{SECRET}\x7f"],
)  # fmt: skip
def test_values_that_are_not_possible_are_not_repeated(value: str) -> None:
    for check in (lambda: check_header("X", value), lambda: HttpOptions(headers=(("X", value),))):
        with pytest.raises(ValueError, match="header field X") as caught:
            check()
        assert SECRET not in str(caught.value)


def test_there_are_limits_of_all_together() -> None:
    for headers in (
        tuple((f"X-{number}", "x") for number in range(33)),
        tuple((f"X-{number}", "x" * 900) for number in range(9)),
        (("X-Token", "a"), ("x-token", "b")),
    ):
        with pytest.raises(ValueError, match="header field"):
            HttpOptions(headers=headers)


def test_values_are_not_shown() -> None:
    assert SECRET not in repr(HttpOptions("/a", (("X", SECRET),)))


@given(st.text(), st.text())
def test_what_is_accepted_is_one_line_of_ascii(name: str, value: str) -> None:
    try:
        check_header(name, value)
    except ValueError:
        return
    line = f"{name}: {value}"
    assert line.isascii()
    assert len(line.splitlines()) == 1
