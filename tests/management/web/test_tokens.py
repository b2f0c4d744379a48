"""The pages about management tokens, which are for administrators of the whole relay."""

from __future__ import annotations

import re

import pytest

from hybridrelay.events import ManagementCalled
from hybridrelay.security import ManagementRole

from ..managed_relay import Relay
from .browser import Browser, browser_of, page_of


async def test_a_token_is_created_and_shown_once(relay: Relay, browser: Browser) -> None:
    await browser.log_in(relay.token("me")[1])
    page = page_of(await browser.get("/tokens"))
    assert "/tokens" in page.actions
    assert "This login" in page.text
    assert "/v1/tokens" in page.links
    answer = await browser.post("/tokens", name="ci", role="operator", scope="team/", expiresInDays="0.5")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    found = re.search("hrm_[A-Za-z0-9_-]+", page_of(answer).text)
    assert found is not None
    (token,) = (one for one in relay.store.tokens() if one.name == "ci")
    assert (token.role, token.scope) == (ManagementRole.OPERATOR, "team/")
    assert token.expires_at - token.created_at == 43_200
    page = page_of(await browser.get("/tokens"))
    assert found[0] not in page.text
    assert "team/" in page.text
    other = browser_of(relay)
    assert (await other.log_in(f"Bearer {found[0]}")).status == 303
    assert (await other.get("/connections")).status == 200
    called = [event for event in relay.events if isinstance(event, ManagementCalled)]
    assert [(event.operation_id, event.status) for event in called if event.operation_id != "logIn"] == [
        ("createToken", 201)
    ]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"name": ""}, 400),
        ({"name": "a b"}, 400),
        ({"role": "owner"}, 400),
        ({"scope": "a b"}, 400),
        ({"expiresInDays": ""}, 400),
        ({"expiresInDays": "1000"}, 400),
        ({"expiresInDays": "nan"}, 400),
        ({"name": "me"}, 409),
    ],
)
async def test_a_wrong_form_is_shown_again_and_creates_no_token(
    relay: Relay, browser: Browser, fields: dict[str, str], status: int
) -> None:
    await browser.log_in(relay.token("me")[1])
    form = {"name": "ci", "role": "viewer", "scope": "", "expiresInDays": "30", **fields}
    answer = await browser.post("/tokens", **form)
    assert answer.status == status
    page = page_of(answer)
    assert {one["name"]: one["value"] or "" for one in page.all("input")}.items() >= (
        {name: value for name, value in form.items() if name != "role"}.items()
    )
    if status == 400:
        label = {"name": "Name", "role": "", "scope": "Scope", "expiresInDays": "Valid for (days)"}[
            next(iter(fields))
        ]
        assert f"{label}: enter " in page.text or not label
    assert [one.name for one in relay.store.tokens()] == ["me"]


async def test_a_token_is_revoked_after_a_confirmation(relay: Relay, browser: Browser) -> None:
    own, _ = relay.token("me")
    await browser.log_in(relay.token("other")[1])
    await browser.log_in(relay.token("mine")[1])
    at = f"/tokens/{own.id}/revoke"
    assert at in page_of(await browser.get("/tokens")).links
    page = page_of(await browser.get(at))
    assert at in page.actions
    assert "you will be logged out" not in page.text
    assert len(relay.store.tokens()) == 3
    answer = await browser.post(at)
    assert (answer.status, answer.headers["location"]) == (303, "/tokens?done=token-revoked")
    assert sorted(one.name for one in relay.store.tokens()) == ["mine", "other"]
    assert "The token was revoked" in page_of(await browser.get("/tokens?done=token-revoked")).text
    assert (await browser.get(at)).status == 404
    (mine,) = (one for one in relay.store.tokens() if one.name == "mine")
    assert "you will be logged out" in page_of(await browser.get(f"/tokens/{mine.id}/revoke")).text


@pytest.mark.parametrize(
    ("role", "scope"),
    [(ManagementRole.VIEWER, ""), (ManagementRole.OPERATOR, ""), (ManagementRole.ADMIN, "team/")],
)
async def test_others_see_no_tokens(relay: Relay, browser: Browser, role: ManagementRole, scope: str) -> None:
    token, header = relay.token("me", role, scope)
    await browser.log_in(header)
    assert "/tokens" not in page_of(await browser.get("/")).links
    for path in ("/tokens", f"/tokens/{token.id}/revoke"):
        assert (await browser.get(path)).status == 403
    assert (await browser.post("/tokens", name="ci", role="admin", scope="", expiresInDays="30")).status == 403
    assert (await browser.post(f"/tokens/{token.id}/revoke")).status == 403
    assert [one.name for one in relay.store.tokens()] == ["me"]
