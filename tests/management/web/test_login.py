"""Logging in: what it takes, what it gives, and how it ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from hybridrelay.events import ManagementCalled, ManagementCallRefused
from hybridrelay.management.callers import Caller
from hybridrelay.management.logins import TokenCredential, digest_of
from hybridrelay.management.peers import Peer
from hybridrelay.management.rates import Buckets
from hybridrelay.security import KeySlot, ManagementRole, Right

from ..conftest import CONNECTIONS
from ..managed_relay import Relay
from .browser import Browser, browser_of, page_of

COOKIE = "hybridrelay"


async def test_without_a_login_pages_lead_to_the_page_for_logging_in(browser: Browser) -> None:
    answer = await browser.get("/")
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    answer = await browser.get("/?name=a%26b")
    assert (answer.status, answer.headers["location"]) == (303, "/login?next=%2F%3Fname%3Da%2526b")
    answer = await browser.get(answer.headers["location"])
    (next_,) = (one for one in page_of(answer).all("input") if one["name"] == "next")
    assert next_["value"] == "/?name=a%26b"
    assert (await browser.get(CONNECTIONS)).status == 401, "the API answers as it does to everybody"


@pytest.mark.parametrize(
    ("address", "state"), [("127.0.0.1", "'/srv/my relay'"), ("::1", "'/srv/my relay'"), ("192.0.2.1", "DIR")]
)
async def test_the_command_for_a_token_names_the_state_directory(relay: Relay, address: str, state: str) -> None:
    """Strangers are not told where the relay's files are."""
    browser = Browser(relay.connect(Peer(address)))
    for answer in (await browser.get("/login"), await browser.log_in("wrong")):
        assert f"--out dashboard.token --state {state} " in page_of(answer).text + " "


@pytest.mark.parametrize(
    "next_",
    ["//evil.example", "/\\evil.example", "https://evil.example", "/a\\b", "/a\nb", "/logout", "x", "/" * 2001],
)
async def test_one_is_not_sent_elsewhere_after_logging_in(relay: Relay, browser: Browser, next_: str) -> None:
    _, header = relay.token()
    answer = await browser.log_in(header, next_)
    assert (answer.status, answer.headers["location"]) == (303, "/")


async def test_a_token_lets_one_in(relay: Relay, browser: Browser) -> None:
    token, header = relay.token(role=ManagementRole.VIEWER)
    answer = await browser.log_in(header, "/events")
    assert (answer.status, answer.headers["location"]) == (303, "/events")
    assert answer.headers["set-cookie"].partition("; ")[2] == f"Path=/; Max-Age={8 * 3600}; HttpOnly; SameSite=Strict"
    assert header.removeprefix("Bearer ") not in browser.cookies[COOKIE]
    assert (await browser.get("/")).status == 200
    assert (await browser.get(CONNECTIONS)).status == 200, "the same caller, with the same role, at the API"
    answer = await browser.request("DELETE", f"{CONNECTIONS}/orders", Sec_Fetch_Site="same-origin")
    assert answer.status == 403
    called = [event for event in relay.events if isinstance(event, ManagementCalled)]
    assert [(event.operation_id, event.caller, event.role, event.status) for event in called] == [
        ("logIn", f"token ci {token.id}", "viewer", 303),
        ("deleteHybridConnection", f"token ci {token.id}", "viewer", 403),
    ]
    assert relay.failures() == []


async def test_a_signature_lets_one_in_to_its_hybrid_connection(relay: Relay, browser: Browser) -> None:
    answer = await browser.log_in(relay.signature(seconds=600))
    assert answer.status == 303
    assert "Max-Age=600" in answer.headers["set-cookie"]
    assert (await browser.get(f"{CONNECTIONS}/orders")).status == 200
    assert (await browser.get(f"{CONNECTIONS}/other")).status == 403
    generation = relay.store.get("orders").generations["all", KeySlot.PRIMARY]
    relay.store.regenerate_key("orders", "all", KeySlot.PRIMARY, generation=generation)
    assert (await browser.get("/")).status == 303, "the key has ended, and the login with it"


async def test_a_login_by_a_signature_ends_when_its_rule_loses_the_right_manage(
    relay: Relay, browser: Browser
) -> None:
    await browser.log_in(relay.signature())
    assert (await browser.get(f"{CONNECTIONS}/orders")).status == 200
    relay.store.put_rule("orders", "all", [Right.LISTEN, Right.SEND])
    assert (await browser.get("/")).status == 303
    assert (await browser.get(f"{CONNECTIONS}/orders")).status == 401


async def test_the_signature_in_the_documentation_lets_one_in(relay: Relay, browser: Browser) -> None:
    page = (Path(__file__).parents[3] / "docs" / "management.md").read_text(encoding="utf-8")
    code = page.partition("```python\nimport base64")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(f"import base64{code}", found)
    key = relay.store.rule("orders", "all").primary
    assert key is not None
    relay.now = time.time()
    text = found["signature"]("relay.example.com", "orders", "all", key.reveal())
    assert (await browser.log_in(text)).status == 303
    assert (await browser.get(f"{CONNECTIONS}/orders")).status == 200


async def test_over_tls_the_cookie_is_bound_to_the_host(relay: Relay) -> None:
    browser = Browser(relay.connect(Peer("192.0.2.1", is_encrypted=True)))
    answer = await browser.log_in(relay.token()[1])
    assert answer.headers["set-cookie"].startswith("__Host-hybridrelay=")
    assert answer.headers["set-cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")
    assert (await browser.get("/")).status == 200


async def test_what_does_not_let_one_in(relay: Relay, browser: Browser) -> None:
    _, header = relay.token()
    for text in (header[:-1] + ("a" if header[-1] != "a" else "b"), "", "x", "x" * 9000, relay.signature("in")):
        answer = await browser.log_in(text)
        assert answer.status in {401, 403}
        assert page_of(answer).text
        assert browser.cookies == {}
        assert text not in answer.body.decode() or text in {"", "x"}
    assert (await browser.log_in("wrong")).status == 429, "as with all failed attempts"
    assert (await browser.log_in(header)).status == 303
    refused = [event for event in relay.events if isinstance(event, ManagementCallRefused)]
    assert {event.operation_id for event in refused} == {"logIn"}
    assert len(relay.failures()) == 5


async def test_a_login_beyond_the_limit_is_recorded_with_its_caller(
    relay: Relay, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets = Buckets(rate=1e-9, burst=3)
    monkeypatch.setattr(relay.gate, "_calls", buckets)
    token, header = relay.token()
    for _ in range(3):
        buckets.charge(("token", f"ci {token.id}"), trio.current_time())
    answer = await browser.log_in(header)
    assert answer.status == 429
    assert "too many requests" in page_of(answer).text
    assert not browser.cookies
    event = relay.events[-1]
    assert isinstance(event, ManagementCalled)
    assert (event.operation_id, event.status, event.caller) == ("logIn", 429, f"token ci {token.id}")


async def test_a_page_of_another_site_cannot_log_one_in(relay: Relay, browser: Browser) -> None:
    token = relay.token()[1].removeprefix("Bearer ")
    for site, origin in (
        ("cross-site", ""),
        ("same-site", ""),
        ("none", ""),
        (None, "http://evil.example"),
        (None, ""),
    ):
        assert (await browser.post("/login", site=site, origin=origin, token=token)).status == 403
    assert browser.cookies == {}
    assert (await browser.post("/login", site=None, origin="http://x", token=token)).status == 303


async def test_a_page_of_another_site_cannot_use_a_login(relay: Relay, browser: Browser) -> None:
    await browser.log_in(relay.token()[1])
    for site, origin in (
        ("cross-site", ""),
        ("same-site", ""),
        ("none", ""),
        (None, "http://evil.example"),
        (None, ""),
    ):
        assert (await browser.post("/logout", site=site, origin=origin)).status == 403
        headers = ({"Sec_Fetch_Site": site} if site else {}) | ({"Origin": origin} if origin else {})
        answer = await browser.request("DELETE", f"{CONNECTIONS}/orders", **headers)
        assert answer.status == 403, (site, origin)
    assert "orders" in relay.store.snapshot()
    assert (await browser.get("/", Sec_Fetch_Site="cross-site")).status == 403
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert (await browser.get("/", **link)).status == 200
    assert (await browser.request("DELETE", f"{CONNECTIONS}/orders", Sec_Fetch_Site="same-origin")).status == 204


async def test_a_page_of_another_site_cannot_use_the_unix_socket(relay: Relay) -> None:
    """A browser can reach it through ``ssh -L``."""
    browser = Browser(relay.connect(Peer(caller=Caller("local", "owner", ManagementRole.ADMIN))))
    assert (await browser.get("/")).status == 200
    answer = await browser.request("DELETE", f"{CONNECTIONS}/orders", Sec_Fetch_Site="cross-site")
    assert answer.status == 403
    answer = await browser.request("DELETE", f"{CONNECTIONS}/orders", Origin="http://evil.example")
    assert answer.status == 403
    assert (await browser.request("DELETE", f"{CONNECTIONS}/orders")).status == 204, "curl says nothing about it"


async def test_a_login_begins_with_a_new_cookie(relay: Relay, browser: Browser) -> None:
    browser.cookies[COOKIE] = "chosen-by-an-attacker"
    _, header = relay.token()
    await browser.log_in(header)
    first = browser.cookies[COOKIE]
    assert first != "chosen-by-an-attacker"
    await browser.log_in(header)
    assert browser.cookies[COOKIE] != first
    stale = browser_of(relay)
    for value in ("chosen-by-an-attacker", first):
        stale.cookies[COOKIE] = value
        assert (await stale.get("/")).status == 303
    assert relay.failures() == [], "an old cookie is not a failed attempt"


async def test_a_login_that_has_ended_cannot_be_used(relay: Relay, browser: Browser) -> None:
    await browser.log_in(relay.token()[1])
    copy = browser_of(relay)
    copy.cookies.update(browser.cookies)
    answer = await browser.post("/logout")
    assert (answer.status, answer.headers["location"]) == (303, "/login?done=logged-out")
    assert browser.cookies == {}
    assert "You have logged out" in page_of(await browser.get("/login?done=logged-out")).text
    assert (await copy.get("/")).status == 303, "even if the cookie is still there"
    assert (await browser.post("/logout")).status == 303
    assert "logOut" in [event.operation_id for event in relay.events if isinstance(event, ManagementCalled)]


@pytest.mark.parametrize("seconds", [8 * 3600, 600])
async def test_a_login_expires(relay: Relay, browser: Browser, seconds: int) -> None:
    header = relay.signature(seconds=600) if seconds == 600 else relay.token()[1]
    await browser.log_in(header)
    relay.now += seconds - 1
    assert (await browser.get("/")).status == 200
    relay.now += 1
    assert (await browser.get("/")).status == 303


async def test_a_login_ends_with_its_token(relay: Relay, browser: Browser) -> None:
    token, header = relay.token()
    await browser.log_in(header)
    assert (await browser.get("/")).status == 200
    relay.store.delete_token(token.id)
    assert (await browser.get("/")).status == 303
    assert (await browser.get(CONNECTIONS)).status == 401


async def test_a_code_lets_one_in_once(relay: Relay, browser: Browser) -> None:
    token, _ = relay.token(role=ManagementRole.OPERATOR)
    relay.gate.logins.add_code(digest_of("the-code"), TokenCredential(token.id), relay.now)
    page = page_of(await browser.get("/login?code=the-code"))
    assert ("input", {"type": "hidden", "name": "code", "value": "the-code"}) in page.tags
    assert browser.cookies == {}, "looking at the page uses nothing up"
    assert (await browser.post("/login", code="the-code")).status == 303
    assert (await browser.get("/")).status == 200
    assert (await browser_of(relay).post("/login", code="the-code")).status == 401
    relay.gate.logins.add_code(digest_of("late"), TokenCredential(token.id), relay.now)
    relay.now += 300
    assert (await browser_of(relay).post("/login", code="late")).status == 401


async def test_a_code_of_a_token_that_has_expired_lets_nobody_in(relay: Relay) -> None:
    token, _ = relay.token()
    relay.now = token.expires_at - 1
    relay.gate.logins.add_code(digest_of("the-code"), TokenCredential(token.id), relay.now)
    relay.now += 1
    assert (await browser_of(relay).post("/login", code="the-code")).status == 401
