"""What is decided from the headers that browsers send by themselves."""

from __future__ import annotations

import pytest

from hybridrelay.management.browsers import (
    comes_from_elsewhere,
    forgotten_cookies,
    is_of_own_page,
    login_cookie,
    login_cookies,
)

from .web.browser import a_request

LINK = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
FRAME = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}


@pytest.mark.parametrize(
    ("method", "headers", "elsewhere", "own"),
    [
        ("GET", {}, False, False),
        ("POST", {}, False, False),
        ("POST", {"Sec_Fetch_Site": "same-origin"}, False, True),
        ("POST", {"Sec_Fetch_Site": "same-origin", "Origin": "https://evil.example"}, False, True),
        ("POST", {"Sec_Fetch_Site": "none"}, False, False),
        ("POST", {"Sec_Fetch_Site": "same-site"}, True, False),
        ("POST", {"Sec_Fetch_Site": "cross-site"}, True, False),
        ("POST", {"Sec_Fetch_Site": "cross-site", **LINK}, True, False),
        ("POST", {"Sec_Fetch_Site": "cross-site", "Origin": "http://x"}, True, False),
        ("GET", {"Sec_Fetch_Site": "cross-site"}, True, False),
        ("GET", {"Sec_Fetch_Site": "cross-site", **LINK}, False, False),
        ("GET", {"Sec_Fetch_Site": "cross-site", **FRAME}, True, False),
        ("POST", {"Origin": "http://x"}, False, True),
        ("POST", {"Origin": "https://x"}, True, False),
        ("POST", {"Origin": "http://x:81"}, True, False),
        ("POST", {"Origin": "http://y"}, True, False),
        ("POST", {"Origin": "null"}, True, False),
        ("POST", {"Origin": "http://x:port"}, True, False),
        ("POST", {"Origin": "http://[x"}, True, False),
        ("POST", {"Origin": "http://x", "origin": "http://evil.example"}, True, False),  # the field twice
    ],
)
def test_where_a_request_comes_from(method: str, headers: dict[str, str], elsewhere: bool, own: bool) -> None:
    request = a_request(method, host="x:80", **headers)
    assert comes_from_elsewhere(request) is elsewhere
    assert is_of_own_page(request) is own


@pytest.mark.parametrize(
    ("host", "origin"), [("x", "https://x"), ("x:9180", "http://x:9180"), ("[::1]:1", "http://[::1]:1")]
)
def test_the_origin_of_a_relay_behind_a_proxy(host: str, origin: str) -> None:
    assert is_of_own_page(a_request("POST", host=host, Origin=origin))


def test_the_cookie_over_tls_and_without() -> None:
    _, plain = login_cookie(a_request(), "v", is_encrypted=False, seconds=60.5)
    assert plain == "hybridrelay=v; Path=/; Max-Age=60; HttpOnly; SameSite=Strict"
    secure = "__Host-hybridrelay=v; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure"
    assert login_cookie(a_request(), "v", is_encrypted=True, seconds=60)[1] == secure
    behind_proxy = a_request(Origin="https://x")
    assert login_cookie(behind_proxy, "v", is_encrypted=False, seconds=60)[1] == secure
    assert [value.partition("=")[0] for _, value in forgotten_cookies(a_request(host="x:9180"))] == [
        "__Host-hybridrelay-9180",
        "hybridrelay-9180",
    ]


def test_cookies_of_other_ports_are_left_alone() -> None:
    cookie = (
        "hybridrelay=a; hybridrelay-9180=b;__Host-hybridrelay-9180=c; hybridrelay-9181=d; x; =y; hybridrelay-9180="
    )
    assert list(login_cookies(a_request(host="x:9180", Cookie=cookie))) == ["c", "b"]
    assert list(login_cookies(a_request(host="x", Cookie=cookie))) == ["a"]
