"""A form changes what it was shown for, and nothing that has taken its place since."""

from __future__ import annotations

import re

import pytest

from hybridrelay.management.web.paths import path_of
from hybridrelay.security import Rule

from ..managed_relay import Relay
from .browser import Browser, page_of


@pytest.fixture
async def admin(relay: Relay, browser: Browser) -> Browser:
    """An administrator's browser."""
    await browser.log_in(relay.token()[1])
    return browser


def create_again(relay: Relay) -> None:
    """Another administrator deletes a hybrid connection, and creates one with the same name, rules and state."""
    known = relay.store.get("orders")
    relay.store.delete("orders")
    rules = [Rule.generate(rule.name, rule.rights) for rule in known.rules]
    relay.store.create("orders", known.hosts, rules, known.description, disabled=known.disabled)


@pytest.mark.parametrize("is_deleted", [False, True], ids=["created-again", "deleted"])
@pytest.mark.parametrize(
    ("page_path", "path"),
    [
        ("/delete", "/delete"),
        ("/rules/all/delete", "/rules/all/delete"),
        ("/rules/all/regenerate?slot=primary", "/rules/all/regenerate"),
        ("/rules/all/revoke?slot=primary", "/rules/all/revoke"),
        ("/disable", "/disable"),
        ("", "/enable"),
        ("", "/change"),
        ("", "/limits"),
    ],
)
async def test_a_form_is_for_the_hybrid_connection_of_which_it_was_shown(
    relay: Relay, admin: Browser, page_path: str, path: str, is_deleted: bool
) -> None:
    """If another one has its name by now, the form changes nothing."""
    if path == "/enable":
        relay.store.change("orders", disabled=True)
    at = path_of("orders")
    page = page_of(await admin.get(at + page_path))
    assert at + path in page.actions
    create_again(relay)
    if is_deleted:
        relay.store.delete("orders")
    before = relay.store.snapshot()
    answer = await admin.post(at + path, **page.fields)
    assert answer.status in ((404, 412) if is_deleted else (409, 412))
    if not is_deleted:
        assert re.search("changed in the meantime|Somebody else has changed this", page_of(answer).text)
    assert relay.store.snapshot() == before


@pytest.mark.parametrize("path", ["/delete", "/rules/all/delete", "/disable", "/enable", "/change", "/limits"])
async def test_a_form_without_a_version_changes_nothing(relay: Relay, admin: Browser, path: str) -> None:
    before = relay.store.snapshot()
    for fields in ({}, {"version": ""}, {"version": "x"}, {"version": "-1"}):
        assert (await admin.post(path_of("orders") + path, **fields)).status == 400
    assert relay.store.snapshot() == before
