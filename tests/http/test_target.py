"""Request targets and authorities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.http import RequestError
from hybridrelay.http.target import (
    Authority,
    Form,
    Target,
    decode_segment,
    parse_authority_untrusted,
    parse_target_untrusted,
)

GOOD = {
    ("GET", "/"): Target(Form.ORIGIN, "/"),
    ("GET", "/a/b?c=d?e"): Target(Form.ORIGIN, "/a/b", "c=d?e"),
    ("GET", "/?"): Target(Form.ORIGIN, "/", ""),
    ("GET", "//a"): Target(Form.ORIGIN, "//a"),
    ("GET", "/a%2Fb%2f"): Target(Form.ORIGIN, "/a%2Fb%2f"),
    ("GET", "/a%2F..%2Fb"): Target(Form.ORIGIN, "/a%2F..%2Fb"),
    ("GET", "/..."): Target(Form.ORIGIN, "/..."),
    ("GET", "/a?b=%"): Target(Form.ORIGIN, "/a", "b=%"),
    ("GET", "/http://x/"): Target(Form.ORIGIN, "/http://x/"),
    ("GET", "http://Example.COM"): Target(Form.ABSOLUTE, "/", None, Authority("example.com", None), "http"),
    ("GET", "HTTPS://x:443/a?b"): Target(Form.ABSOLUTE, "/a", "b", Authority("x", 443), "https"),
    ("GET", "http://x?b"): Target(Form.ABSOLUTE, "/", "b", Authority("x", None), "http"),
    ("GET", "http://[::1]:80/"): Target(Form.ABSOLUTE, "/", None, Authority("::1", 80), "http"),
    ("OPTIONS", "*"): Target(Form.ASTERISK),
    ("OPTIONS", "http://x"): Target(Form.ASTERISK, authority=Authority("x", None), scheme="http"),
    ("OPTIONS", "http://x/"): Target(Form.ABSOLUTE, "/", None, Authority("x", None), "http"),
    ("GET", "ftp://x/"): Target(Form.ABSOLUTE, "/", None, Authority("x", None), "ftp"),
    ("CONNECT", "x:443"): Target(Form.AUTHORITY, authority=Authority("x", 443)),
}


@pytest.mark.parametrize(("method", "target"), GOOD)
def test_a_valid_target_is_parsed(method: str, target: str) -> None:
    assert parse_target_untrusted(method, target) == GOOD[method, target]


BAD = [
    ("GET", "*"),
    ("GET", "x"),
    ("GET", "x:443"),
    ("GET", "/a#b"),
    ("GET", "/%"),
    ("GET", "/%4"),
    ("GET", "/%zz"),
    ("GET", "/.."),
    ("GET", "/a/../b"),
    ("GET", "/a/./b"),
    ("GET", "/a/%2e%2E/b"),
    ("GET", "/a/.%2e"),
    ("GET", "http:///a"),
    ("GET", "http://user@x/"),
    ("GET", "http://user:word@x/"),
    ("GET", "http://x:y/"),
    ("GET", "http://x:65536/"),
    ("GET", "http://[::1/"),
    ("GET", "http://[::1]x/"),
    ("GET", "http://[1.2.3.4]/"),
    ("CONNECT", "/"),
    ("CONNECT", "x"),
    ("CONNECT", ":443"),
    ("CONNECT", "http://x:443/"),
]


@pytest.mark.parametrize(("method", "target"), BAD)
def test_a_malformed_target_is_refused(method: str, target: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_target_untrusted(method, target)

    assert raised.value.failure.status == 400


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("", Authority("", None)),
        ("x", Authority("x", None)),
        ("X.Example.", Authority("x.example.", None)),
        ("x:", Authority("x", None)),
        ("x:0", Authority("x", 0)),
        ("a..b", Authority("a..b", None)),
        ("[2001:DB8::1]", Authority("2001:db8::1", None)),
        ("[::ffff:1.2.3.4]:8", Authority("::ffff:1.2.3.4", 8)),
    ],
)
def test_a_valid_authority_is_parsed(text: str, authority: Authority) -> None:
    assert parse_authority_untrusted(text) == authority


@pytest.mark.parametrize("text", ["x y", "x/", "\xff\xfe", "x:1:2", "::1", "[::1]:x", "x:999999", "x@y", "%61", "[]"])
def test_a_malformed_authority_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse_authority_untrusted(text)


def test_an_authority_is_shown_as_it_is_written() -> None:
    assert [str(Authority("::1", 80)), str(Authority("x", None))] == ["[::1]:80", "x"]


@pytest.mark.parametrize(
    ("segment", "text"), [("a%2Fb", "a/b"), ("%C3%A9", "é"), ("a+b", "a+b"), ("%252F", "%2F"), ("", "")]
)
def test_segments_are_decoded_once(segment: str, text: str) -> None:
    assert decode_segment(segment) == text


@pytest.mark.parametrize("segment", ["%ff", "%C3", "%00", "a%0Ab", "%7f", "%C2%85", "%ED%A0%80"])
def test_segments_that_are_not_text(segment: str) -> None:
    with pytest.raises(ValueError, match=r"control|utf-8"):
        decode_segment(segment)


@given(st.sampled_from(["GET", "OPTIONS", "CONNECT"]), st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_anything_is_a_target_or_a_refusal(method: str, target: str) -> None:
    try:
        parsed = parse_target_untrusted(method, target)
    except RequestError:
        return
    assert parsed.path.startswith("/") is (parsed.form in {Form.ORIGIN, Form.ABSOLUTE})


@given(st.text())
def test_any_text_is_an_authority_or_a_refusal(text: str) -> None:
    try:
        authority = parse_authority_untrusted(text)
    except RequestError:
        return
    assert parse_authority_untrusted(str(authority)) == authority
