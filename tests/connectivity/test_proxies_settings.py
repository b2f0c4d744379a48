"""Which proxy is used for which host, and that its password is never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connectivity import DIRECTLY, Proxy, ProxyDial, ProxySettings, resolve_dialer
from hybridrelay.connectivity.proxies.no_proxy import NoProxy
from hybridrelay.connectivity.proxies.settings import has_password
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import Secret

RELAY = ("relay.example.com", 443)
VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.mark.parametrize(
    ("text", "shown", "username", "password"),
    [
        ("http://proxy.corp:3128", "http://proxy.corp:3128", None, None),
        ("http://proxy.corp:3128/", "http://proxy.corp:3128", None, None),
        ("proxy.corp:3128", "http://proxy.corp:3128", None, None),
        ("proxy.corp", "http://proxy.corp:80", None, None),
        ("https://proxy.corp", "https://proxy.corp:443", None, None),
        ("HTTP://proxy.corp", "http://proxy.corp:80", None, None),
        ("socks5://10.0.0.1", "socks5://10.0.0.1:1080", None, None),
        ("socks5h://[2001:db8::1]:1081", "socks5h://[2001:db8::1]:1081", None, None),
        ("http://me@proxy:1", "http://proxy:1", "me", None),
        ("http://me:@proxy:1", "http://proxy:1", "me", ""),
        ("http://me:p%40ss%3A%2F@proxy:1", "http://proxy:1", "me", "p@ss:/"),
        ("http://CORP%5Cme:x@proxy:1", "http://proxy:1", "CORP\\me", "x"),
        ("http://m%C3%BCller:x@proxy:1", "http://proxy:1", "müller", "x"),
    ],
)
def test_the_url_of_a_proxy_is_shown_without_its_password(
    text: str, shown: str, username: str | None, password: str | None
) -> None:
    proxy = Proxy.parse_untrusted(text)
    assert str(proxy) == shown
    assert proxy.username == username
    assert (proxy.password and proxy.password.reveal()) == (password and Secret(password).reveal())
    assert proxy.is_socks is text.startswith("socks")


BAD_URLS = [
    "",
    "ftp://hunter2:hunter2@proxy",
    "socks4://proxy",
    "http://",
    "http://proxy:0",
    "http://proxy:65536",
    "http://proxy:hunter2",
    "http://hunter2:hunter2@:80",
    "http://a@b@proxy",
    "http://proxy/hunter2",
    "http://pro xy",
    "http://prö.xy",
    "http://[::1",
    "http://[hunter2]:80",
    "http://a%3Ahunter2:x@proxy",
    "http://a%0Ahunter2:x@proxy",
    "http://hunter2:" + "x" * 256 + "@proxy",
]


@pytest.mark.parametrize("text", BAD_URLS)
def test_what_is_not_a_url_is_reported_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Proxy.parse_untrusted(text)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError) as configuration:
        ProxySettings.explicit(text)
    assert "hunter2" not in str(configuration.value)
    if text:
        with pytest.raises(ConfigurationError, match="ALL_PROXY") as environment:
            ProxySettings.from_environment({"ALL_PROXY": text})
        assert "hunter2" not in f"{environment.value} {environment.value.__cause__}"


@pytest.mark.parametrize("url", ["http://me:hunter2@x@proxy:1", "http://me:hunter2/x@proxy:1", "http://m@e@proxy"])
def test_credentials_that_are_not_encoded_are_said_to_need_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY .*%-encoded: @ is %40") as caught:
        ProxySettings.from_environment({"HTTPS_PROXY": url})
    assert "hunter2" not in str(caught.value)


def test_credentials_that_decode_to_no_text() -> None:
    with pytest.raises(ValueError, match="not UTF-8 once it is %-decoded") as caught:
        Proxy.parse_untrusted("http://me:hunter2%ff@proxy:1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ['"http://proxy:1"', " http://proxy:1\r\n", "\ufeffhttp://proxy:1"])
def test_quotes_and_blanks_around_a_url(text: str) -> None:
    settings = ProxySettings.from_environment({"HTTPS_PROXY": text, "NO_PROXY": "'direct.example'"})
    assert str(settings.proxy_for("relay", 1)) == "http://proxy:1"
    assert settings.proxy_for("direct.example", 1) is None


@given(st.text())
def test_any_text_is_a_proxy_or_an_error(text: str) -> None:
    try:
        proxy = Proxy.parse_untrusted(text)
    except ValueError:
        return
    assert Proxy.parse_untrusted(str(proxy)) == Proxy(proxy.scheme, proxy.host, proxy.port)


def test_the_password_shows_nowhere() -> None:
    settings = ProxySettings.from_environment({"HTTPS_PROXY": "http://hunter1:hunter2@proxy:1"})
    proxy = settings.proxy
    assert proxy is not None
    for thing in (settings, proxy, ProxyDial(settings), [proxy], {"a": settings}):
        assert "hunter" not in f"{thing!r} {thing}"


@pytest.mark.parametrize(
    ("environment", "used"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": " "}, None),
        ({"HTTP_PROXY": "http://a", "http_proxy": "http://a"}, None),
        ({"HTTPS_PROXY": "http://a"}, "a"),
        ({"https_proxy": "http://a"}, "a"),
        ({"https_proxy": "http://a", "HTTPS_PROXY": "http://b"}, "a"),
        ({"ALL_PROXY": "socks5://a"}, "a"),
        ({"all_proxy": "socks5://a", "HTTPS_PROXY": "http://b"}, "b"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "http://a"}, "a"),
        ({"HTTPS_PROXY": "http://a", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://a", "no_proxy": "other", "NO_PROXY": "*"}, "a"),
    ],
)
def test_which_proxy_of_the_environment_is_used(environment: dict[str, str], used: str | None) -> None:
    proxy = ProxySettings.from_environment(environment).proxy_for(*RELAY)
    assert (proxy and proxy.host) == used


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
)
def test_this_machine_is_reached_directly(host: str) -> None:
    assert ProxySettings.from_environment({"ALL_PROXY": "http://a"}).proxy_for(host, 1) is None
    assert ProxySettings.explicit("http://a").proxy_for(host, 1) is not None, "it was asked for explicitly"


# Entry, host, port, whether it is reached directly.
NO_PROXY = [
    ("*", "anything.at.all", 1, True),
    ("*", "10.0.0.1", 1, True),
    ("", "relay", 1, False),
    ("example.com", "example.com", 1, True),
    ("example.com", "EXAMPLE.com.", 1, True),
    ("Example.COM", "relay.example.com", 1, True),
    ("example.com", "notexample.com", 1, False),
    ("example.com", "example.com.evil.org", 1, False),
    (".example.com", "relay.example.com", 1, True),
    (".example.com", "example.com", 1, True),
    ("*.example.com", "relay.example.com", 1, True),
    ("*.example.com", "other.com", 1, False),
    ("a.com, b.com", "b.com", 1, True),
    ("a.com b.com", "b.com", 1, True),
    (",, ,", "b.com", 1, False),
    ("b.com:443", "b.com", 443, True),
    ("b.com:443", "b.com", 9350, False),
    ("b.com:x", "b.com", 443, False),
    ("b.com:0443", "b.com", 443, False),
    ("b.com:" + "9" * 5000, "b.com", 443, False),
    ("010.0.0.1", "10.0.0.1", 1, False),
    ("10.0.0.1", "::ffff:10.0.0.1", 1, True),
    ("::ffff:10.0.0.1", "10.0.0.1", 1, True),
    ("fe80::/10", "fe80::1%eth0", 1, True),
    ("b.com:", "b.com", 443, False),
    ("*:443", "b.com", 443, True),
    ("*:443", "b.com", 80, False),
    ("10.0.0.1", "10.0.0.1", 1, True),
    ("10.0.0.1", "10.0.0.10", 1, False),
    ("10.0.0.1:443", "10.0.0.1", 443, True),
    ("10.0.0.1:443", "10.0.0.1", 80, False),
    ("10.0.0.0/8", "10.200.0.1", 1, True),
    ("10.1.2.3/8", "10.200.0.1", 1, True),
    ("10.0.0.0/8", "11.0.0.1", 1, False),
    ("10.0.0.0/8", "ten.example.com", 1, False),
    ("10.0.0.0/8", "2001:db8::1", 1, False),
    ("2001:db8::/32", "2001:db8::1", 1, True),
    ("2001:db8::1", "2001:db8::1", 1, True),
    ("[2001:db8::1]", "2001:db8::1", 1, True),
    ("[2001:db8::1]:443", "2001:db8::1", 443, True),
    ("[2001:db8::1]:443", "2001:db8::1", 80, False),
    ("2001:db8::2", "2001:db8::1", 1, False),
    ("localhost", "localhost", 1, True),
    ("0.0.0.1", "1", 1, False),
    ("[", "b.com", 1, False),
    (":443", "b.com", 443, False),
]


@pytest.mark.parametrize(("text", "host", "port", "direct"), NO_PROXY)
def test_what_is_dialed_directly(text: str, host: str, port: int, *, direct: bool) -> None:
    assert NoProxy.parse(text).covers(host, port) is direct


@given(st.text(alphabet="ab.:*/[]019, \n"), st.sampled_from(["a.b", "1.0.0.1", "::1", "a"]))
def test_no_list_breaks_anything(text: str, host: str) -> None:
    assert NoProxy.parse(text).covers(host, 443) in {True, False}


@pytest.mark.parametrize(
    ("url", "password"), [("http://me@proxy", "apart"), ("http://me:inside@proxy", "inside"), ("http://proxy", None)]
)
def test_the_password_may_come_alone(url: str, password: str | None) -> None:
    proxy = ProxySettings.from_environment({"ALL_PROXY": url, "HYBRIDRELAY_PROXY_PASSWORD": "apart"}).proxy
    assert proxy is not None
    assert (proxy.password and proxy.password.reveal()) == password


def test_explicit_settings_are_used_as_they_are() -> None:
    settings = ProxySettings.explicit("http://me@proxy:3128", password=Secret("x"))
    assert settings.proxy is not None
    assert settings.proxy.password == Secret("x")
    assert settings.proxy_for(*RELAY) is settings.proxy
    assert ProxySettings.explicit("none").proxy is None
    with pytest.raises(ConfigurationError, match="no user name"):
        ProxySettings.explicit("http://proxy:3128", password=Secret("x"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://a:b@c:1", True), ("a:b@c", True), ("http://a@c:1", False), ("http://c:1", False), ("c:1", False)],
)
def test_a_password_in_a_url_is_seen(url: str, *, expected: bool) -> None:
    assert has_password(url) is expected


def test_no_dialer_means_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert resolve_dialer(None) is DIRECTLY
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy")
    dial = resolve_dialer(None).tcp
    assert isinstance(dial, ProxyDial)
    assert repr(dial) == "<ProxyDial socks5://proxy:1080>"
    assert resolve_dialer(DIRECTLY) is DIRECTLY, "an explicit one still wins"
    monkeypatch.setenv("ALL_PROXY", "hunter2://proxy")
    with pytest.raises(ConfigurationError, match="ALL_PROXY"):
        resolve_dialer(None)


@pytest.mark.parametrize("password", ["x" * 256, "a\nb", "\udcff"])
def test_a_password_that_no_proxy_takes(password: str) -> None:
    with pytest.raises(ConfigurationError, match="HYBRIDRELAY_PROXY_PASSWORD is too long, or not printable"):
        ProxySettings.from_environment({"ALL_PROXY": "http://me@proxy", "HYBRIDRELAY_PROXY_PASSWORD": password})
    with pytest.raises(ConfigurationError, match="is too long, or not printable") as caught:
        ProxySettings.explicit("http://me@proxy", password=Secret(password))
    assert password not in str(caught.value)


def test_a_line_end_is_not_part_of_a_password() -> None:
    environment = {"ALL_PROXY": "http://me@proxy", "HYBRIDRELAY_PROXY_PASSWORD": " pass word \r\n"}
    proxy = ProxySettings.from_environment(environment).proxy
    assert proxy is not None
    assert proxy.password == Secret(" pass word ")
