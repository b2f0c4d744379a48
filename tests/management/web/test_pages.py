"""What pages show to whom, and what their forms do."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.administration import StoreRegistry
from hybridrelay.events import ListenerRegistered, ManagementCalled
from hybridrelay.management.audit_log import ManagementAuditLog
from hybridrelay.management.audited_registry import AuditedRegistry
from hybridrelay.management.peers import Peer
from hybridrelay.management.web.paths import path_of
from hybridrelay.relay.claims import Claim, ClaimState
from hybridrelay.relay.history import Row
from hybridrelay.relay.model import Description
from hybridrelay.relay.quotas import NO_LIMITS
from hybridrelay.relay.snapshot import (
    ProgramSnapshot,
    QuotaSnapshot,
    RecipientSnapshot,
    RollSnapshot,
    UpdateSnapshot,
)
from hybridrelay.relay.updates import StoredUpdate
from hybridrelay.relay.usage import TOTAL, PastUsage, Period, Usage
from hybridrelay.security import KeySlot, ManagementRole, Role

from ..live import listener, sender, session
from ..managed_relay import NOW, Relay
from .browser import Browser, Page, browser_of, page_of, parts_of

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>\u202e&amp;"
#: What a description can be.
PRINTABLE = HOSTILE.replace("\u202e", "")
PAGES = ("/", "/connections", path_of("orders"), "/events", "/audit", "/monitor", "/scale", "/create")


def calls(relay: Relay) -> list[tuple[str, int]]:
    """The operations that were called, with the status."""
    return [(event.operation_id, event.status) for event in relay.events if isinstance(event, ManagementCalled)][1:]


@pytest.fixture
async def admin(relay: Relay, browser: Browser) -> Browser:
    """An administrator's browser."""
    await browser.log_in(relay.token()[1])
    return browser


async def test_problems_come_first(relay: Relay, admin: Browser) -> None:
    relay.live.numbers = attrs.evolve(relay.live.numbers, draining_since=1000.0)
    page = page_of(await admin.get("/"))
    text = page.text
    assert text.index("hybridrelay drain --undo") < text.index("No connector listens for other")
    assert text.index("What to do: start the connector") < text.index("Capacity")
    assert path_of("other") in page.links
    assert "/v1/relay" in page.links, "numbers lead to the API"
    assert "curl -H @token.header http://x/v1/relay" in html.unescape(text)


async def test_numbers_in_tables_link_to_the_api(admin: Browser) -> None:
    orders = "/v1/hybridConnections/orders"
    for path, expected in (
        ("/", (f"{orders}/listeners", f"{orders}/senders", f"{orders}/sessions", orders)),
        ("/connections", (f"{orders}/listeners", f"{orders}/senders", f"{orders}/sessions", orders)),
        (path_of("orders"), (f"{orders}/listeners", f"{orders}/senders", f"{orders}/sessions")),
        ("/scale", (f"{orders}/usage", "/v1/editions/free")),
    ):
        page = page_of(await admin.get(path))
        for href in expected:
            assert page.links.count(href) > (href == orders), (path, href)  # the last one is also in the line "API"
            assert (await admin.get(href)).status == 200, href


async def test_what_is_connected_is_shown(admin: Browser) -> None:
    text = page_of(await admin.get(path_of("orders"))).text
    for shown in (
        "111111111111",
        "192.0.2.1",
        "test/1",
        "connector, primary",
        "websocket",
        "444444444444",
        "7 bytes",
    ):
        assert shown in text
    assert "No connector listens." in page_of(await admin.get(path_of("other"))).text
    assert "hybridrelay forward" in page_of(await admin.get(path_of("other"))).text


@pytest.mark.parametrize("role", ManagementRole)
async def test_a_role_sees_only_the_buttons_that_it_may_use(
    relay: Relay, browser: Browser, role: ManagementRole
) -> None:
    await browser.log_in(relay.token(role=role)[1])
    seen: set[str] = set()
    for path in PAGES:
        page = page_of(await browser.get(path))
        seen |= set(page.actions) | set(page.links)
    drop, key = f"{path_of('orders')}/listeners/{'1' * 32}/drop", f"{path_of('orders')}/rules/all/revoke?slot=primary"
    assert (drop in seen) is (role >= ManagementRole.OPERATOR)
    assert ("/scale/drain" in seen) is (role >= ManagementRole.OPERATOR)
    for path in (key, "/create", f"{path_of('orders')}/rules/all/keys", f"{path_of('orders')}/delete"):
        assert (path in seen) is (role >= ManagementRole.ADMIN), path


@pytest.mark.parametrize("role", ManagementRole)
async def test_pages_with_forms_are_for_those_who_may_send_them(
    relay: Relay, browser: Browser, role: ManagementRole
) -> None:
    await browser.log_in(relay.token(role=role)[1])
    at = path_of("orders")
    for path, needed in (
        ("/create", ManagementRole.ADMIN),
        (f"{at}/add-rule", ManagementRole.ADMIN),
        (f"{at}/delete", ManagementRole.ADMIN),
        (f"{at}/disable", ManagementRole.ADMIN),
        (f"{at}/rules/all/delete", ManagementRole.ADMIN),
        (f"{at}/rules/all/regenerate?slot=primary", ManagementRole.ADMIN),
        (f"{at}/rules/all/revoke?slot=primary", ManagementRole.ADMIN),
        (f"{at}/rules/all/roll", ManagementRole.ADMIN),
        (f"{at}/create-claim", ManagementRole.ADMIN),
        (f"{at}/push-update", ManagementRole.ADMIN),
        ("/scale/drain", ManagementRole.OPERATOR),
    ):
        answer = await browser.get(path)
        assert answer.status == (200 if role >= needed else 403), path
        assert ("needs the role" in page_of(answer).text) is (role < needed)
        if role < needed:
            assert [action for action in page_of(answer).actions if action != "/logout"] == []


async def test_pages_with_forms_are_within_the_scope(relay: Relay, browser: Browser) -> None:
    await browser.log_in(relay.token(scope="ord")[1])
    for name, status in (("orders", 200), ("other", 403), ("ord/nothing", 404)):
        for form in (
            "add-rule", "delete", "disable", "rules/all/delete", "rules/all/revoke?slot=primary", "rules/all/roll",
            "create-claim", "push-update",
        ):  # fmt: skip
            assert (await browser.get(f"{path_of(name)}/{form}")).status == status, (name, form)
    assert (await browser.get("/scale/drain")).status == 403
    await browser.post("/logout")
    await browser.log_in(relay.signature())
    for path in ("/create", *(f"{path_of('orders')}/{form}" for form in ("disable", "create-claim", "push-update"))):
        assert (await browser.get(path)).status == 403, path
    assert (await browser.get(f"{path_of('orders')}/add-rule")).status == 200


async def test_a_refused_form_is_shown_again_with_what_was_entered(relay: Relay, admin: Browser) -> None:
    at = path_of("orders")
    fields = page_of(await admin.get(at)).fields
    limits = {"version": fields["version"], "sessions": "0", "senders": "7", "bytesPerSecond": "0.01"}
    answer = await admin.post(f"{at}/limits", **limits, endAtLimit="true", edition="basic")
    page = page_of(answer)
    assert answer.status == 400
    assert "MB per second: enter at least 0.065536, or leave it empty." in page.text
    assert "Sessions: enter at least 1," in page.text
    assert page.fields.items() >= limits.items()
    inputs = {one["name"]: one for one in page.all("input")}
    assert {name for name, one in inputs.items() if "aria-invalid" in one} == {"sessions", "bytesPerSecond"}
    assert (inputs["bytesPerSecond"]["aria-describedby"] or "").split()[0] == "error-bytesPerSecond"
    assert inputs["bytesPerSecond"]["min"] == "0.065536"
    assert [one["value"] for one in page.all("option") if "selected" in one] == ["basic", "true"]
    assert f"{at}/limits" in page.actions
    assert at in page.links

    answer = await admin.post("/scale/editions/standard", version="0", connections="-1", sessions="x", listeners="3")
    assert answer.status == 400
    assert "Hybrid connections: enter at least 0," in page_of(answer).text
    assert page_of(answer).fields["listeners"] == "3"

    changed = {"version": fields["version"], "description": "text", "endpoints": "a:1"}
    page = page_of(await admin.post(f"{at}/change", **changed))
    assert page.fields.items() >= changed.items()
    assert "connection strings carry the ports" in page.text

    for sent, said in (
        ({"rule": "a b", "Send": "1"}, "Name: "),
        ({"rule": "more"}, "Choose at least one right"),
        ({"rule": "all", "Send": "1"}, "already a rule with this name"),
    ):
        page = page_of(await admin.post(f"{at}/add-rule", **sent))
        assert said in page.text
        shown = {one["name"]: one for one in page.all("input")}
        assert shown["rule"]["value"] == sent["rule"]
        assert ("checked" in shown["Send"]) is ("Send" in sent)


@pytest.mark.parametrize("form", ["limits", "change", "edition"])
async def test_a_form_is_outdated(relay: Relay, admin: Browser, form: str) -> None:
    """What was entered can still be saved, by those who know that somebody else has changed it."""
    at = "/scale/editions/basic" if form == "edition" else f"{path_of('orders')}/{form}"
    sent = {
        "limits": {"senders": "7"},
        "change": {"description": "mine", "endpoints": "a.example.com"},
        "edition": {"connections": "7"},
    }[form]
    before = page_of(await admin.get(at if form == "edition" else path_of("orders"))).fields
    relay.store.change("orders", description=Description("theirs"))
    relay.store.change_edition("basic", 3, NO_LIMITS)
    answer = await admin.post(at, version=before["version"], **sent)
    assert answer.status == 412
    page = page_of(answer)
    assert "Somebody else has changed this" in page.text
    assert page.fields.items() >= sent.items()
    assert (await admin.post(at, **page.fields)).status == 303


async def test_the_default_number_of_listeners(admin: Browser) -> None:
    """An empty field for listeners does not mean that there is no limit."""
    assert "listeners: 25 by default" in page_of(await admin.get(path_of("orders"))).text
    assert "25 (default)" in page_of(await admin.get("/scale")).text
    assert "25 by default" in page_of(await admin.get("/scale/editions/basic")).text


async def test_a_viewer_that_sends_every_form_all_the_same(relay: Relay, browser: Browser) -> None:
    await browser.log_in(relay.token(role=ManagementRole.VIEWER)[1])
    digest = hashlib.sha256(bytes(32)).hexdigest()
    relay.store.add_claim(Claim("7" * 32, "orders", digest, b"sealed", NOW, NOW + 60))
    before = relay.store.get("orders")
    at = path_of("orders")
    for path in (
        f"{at}/claims/{'7' * 32}/revoke",
        f"{at}/listeners/{'1' * 32}/drop",
        f"{at}/senders/{'3' * 16}/drop",
        f"{at}/sessions/{'4' * 32}/drop",
        f"{at}/rules/all/regenerate",
        f"{at}/rules/all/revoke",
        f"{at}/rules/all/roll",
        f"{at}/rules/all/keys",
        f"{at}/rules/all/delete",
        f"{at}/delete",
        f"{at}/disable",
        f"{at}/enable",
        "/scale/drain",
        "/scale/accept",
    ):
        answer = await browser.post(path, slot="primary", generation="1", version="1", days="7")
        assert answer.status == 403, path
        assert "needs the role" in page_of(answer).text
    assert relay.store.get("orders") == before
    assert len(relay.live.held_listeners + relay.live.held_senders + relay.live.held_sessions) == 3
    assert relay.store.claims("orders")[0].state(NOW) is ClaimState.OPEN
    assert [status for _, status in calls(relay)] == [403] * 14


async def test_a_caller_with_a_scope_sees_its_part(relay: Relay, browser: Browser) -> None:
    relay.live.held_listeners.append(listener("other", "9" * 32))
    relay.managed.events.publish(ListenerRegistered(connection="other", peer="192.0.2.9", instance="9" * 32))
    relay.managed.events.subscribe(relay.managed.feed)
    for name in ("orders", "other"):
        relay.managed.events.publish(ListenerRegistered(connection=name, peer="192.0.2.9", instance="9" * 32))
    await browser.log_in(relay.token(scope="ord")[1])
    for path in PAGES:
        answer = await browser.get(path)
        assert answer.status == 200, path
        text = page_of(answer).text
        assert "other" not in text.replace("others", "").replace("another", "").replace("other relays", ""), path
    assert "orders" in page_of(await browser.get("/events")).text
    assert (await browser.get(path_of("other"))).status == 403
    assert (await browser.post(f"{path_of('other')}/listeners/{'9' * 32}/drop")).status == 403
    assert len(relay.live.held_listeners) == 2


async def test_one_listener_is_drained_and_offered_sessions_again(relay: Relay, admin: Browser) -> None:
    at = path_of("orders")
    for action, says, undo in (
        ("drain", "is offered no new sessions", "undo-drain"),
        ("undo-drain", "is offered new sessions again", "drain"),
    ):
        path = f"{at}/listeners/{'1' * 32}/{action}"
        assert path in page_of(await admin.get(at)).actions
        answer = await admin.post(path)
        shown = page_of(await admin.get(answer.headers["location"]))
        assert (answer.status, says in shown.text) == (303, True)
        assert f"{at}/listeners/{'1' * 32}/{undo}" in shown.actions
        answer = await admin.post(path)
        assert "Nothing was changed" in page_of(await admin.get(answer.headers["location"])).text
    assert calls(relay) == [(one, 200) for one in ("drainListener", "undoDrainListener") for _ in range(2)]


async def test_listeners_senders_and_sessions_are_dropped(relay: Relay, admin: Browser) -> None:
    at = path_of("orders")
    for path, held, what in (
        (f"{at}/listeners/{'1' * 32}/drop", relay.live.held_listeners, "The listener was dropped"),
        (f"{at}/senders/{'3' * 16}/drop", relay.live.held_senders, "The sender was dropped"),
        (f"{at}/sessions/{'4' * 32}/drop", relay.live.held_sessions, "data channels were dropped"),
    ):
        assert path in page_of(await admin.get(at)).actions
        answer = await admin.post(path)
        assert (answer.status, held) == (303, [])
        assert what in page_of(await admin.get(answer.headers["location"])).text
        answer = await admin.post(path)
        assert "It had already ended" in page_of(await admin.get(answer.headers["location"])).text
    assert calls(relay) == [(one, 200) for one in ("dropListener", "dropSender", "dropSession") for _ in range(2)]


async def test_a_page_says_what_ends_before_it_regenerates_a_key(relay: Relay, admin: Browser) -> None:
    relay.live.held_listeners.append(attrs.evolve(listener(instance="5" * 32), rule="all", slot="primary"))
    relay.live.held_sessions.append(
        attrs.evolve(session(id="6" * 32), sender=attrs.evolve(session().sender, rule="all", slot="primary"))
    )
    at = f"{path_of('orders')}/rules/all"
    page = page_of(await admin.get(f"{at}/regenerate?slot=primary"))
    assert "What ends immediately: 1 listener, 0 senders, 1 session." in page.text
    before = relay.store.rule("orders", "all")
    fields = page.fields
    answer = await admin.post(f"{at}/regenerate", **fields)
    assert (answer.status, answer.headers["location"]) == (303, f"{path_of('orders')}?done=key-regenerated")
    after = relay.store.rule("orders", "all")
    assert after.primary != before.primary
    assert after.secondary == before.secondary
    assert "The key was replaced" in page_of(await admin.get(answer.headers["location"])).text
    again = await admin.post(f"{at}/regenerate", **fields)
    assert again.status == 409, "the same form twice changes the key once"
    text = page_of(again).text
    assert "The primary key of rule all of orders was changed before this request" in text
    assert "What to do: if you have sent the same change twice, the first one has probably succeeded" in text
    assert "repeat the change if" not in text
    assert relay.store.rule("orders", "all") == after


async def test_the_form_for_a_rule_is_for_those_who_may_add_one(relay: Relay, browser: Browser) -> None:
    for role, scope, name, status in (
        (ManagementRole.ADMIN, "", "orders", 200),
        (ManagementRole.ADMIN, "", "nothing", 404),
        (ManagementRole.ADMIN, "team/", "orders", 403),
        (ManagementRole.VIEWER, "", "orders", 403),
    ):
        await browser.log_in(relay.token(f"{role.name}-{len(scope)}-{status}", role, scope=scope)[1])
        assert (await browser.get(f"{path_of(name)}/add-rule")).status == status


async def test_adding_and_deleting_a_rule(relay: Relay, admin: Browser) -> None:
    at = path_of("orders")
    assert f"{at}/add-rule" in page_of(await admin.get(at)).links
    assert f"{at}/add-rule" in page_of(await admin.get(f"{at}/add-rule")).actions
    answer = await admin.post(f"{at}/add-rule", rule="billing", Send="1")
    assert answer.headers["location"] == f"{at}?done=rule-added"
    rule = relay.store.rule("orders", "billing")
    assert [str(right) for right in rule.rights] == ["Send"]
    again = await admin.post(f"{at}/add-rule", rule="billing", Listen="1", Manage="1")
    assert again.status == 409, "a rule that exists is not changed"
    for fields in ({"rule": "a b", "Send": "1"}, {"rule": "", "Send": "1"}, {"rule": "none"}):
        assert (await admin.post(f"{at}/add-rule", **fields)).status == 400
    assert relay.store.rule("orders", "billing") == rule
    page = page_of(await admin.get(f"{at}/rules/billing/delete"))
    assert "primary key: 0 listeners, 0 senders, 0 sessions" in page.text
    assert (await admin.post(f"{at}/rules/billing/delete", **page.fields)).status == 303
    assert relay.store.get("orders").rule("billing") is None
    assert "The rule was deleted" in page_of(await admin.get(f"{at}?done=rule-deleted")).text


async def test_a_key_that_a_page_has_revoked_cannot_be_revoked_again(relay: Relay, admin: Browser) -> None:
    at = f"{path_of('orders')}/rules/all"
    page = page_of(await admin.get(f"{at}/revoke?slot=secondary"))
    fields = page.fields
    assert (await admin.post(f"{at}/revoke", **fields)).status == 303
    assert relay.store.rule("orders", "all").key(KeySlot.SECONDARY) is None
    page = page_of(await admin.get(path_of("orders")))
    assert f"{at}/revoke?slot=secondary" not in page.links
    text = page_of(await admin.get(f"{at}/regenerate?slot=primary")).text
    assert "The secondary slot has no key" in text
    assert calls(relay) == [("revokeKeys", 204)]


@pytest.mark.parametrize("slot", ["", "third", "primary'"])
async def test_a_slot_that_does_not_exist(relay: Relay, admin: Browser, slot: str) -> None:
    at = f"{path_of('orders')}/rules/all"
    assert (await admin.get(f"{at}/revoke?slot={slot}")).status == 400
    answer = await admin.post(f"{at}/revoke", slot=slot, generation="1")
    assert answer.status == 400
    assert "does not match this operation" in page_of(answer).text


async def test_complete_ids_are_on_the_page(relay: Relay, admin: Browser) -> None:
    """Commands and the API need them."""
    text = page_of(await admin.get(path_of("orders"))).text
    for id_ in ("1" * 32, "3" * 16, "4" * 32, relay.live.held_senders[0].instance):
        assert re.search(rf"\b{id_}\b", text), id_


async def test_a_disabled_hybrid_connection_needs_no_connector(relay: Relay, admin: Browser) -> None:
    relay.live.held_listeners.clear()
    relay.store.change("orders", disabled=True)
    text = page_of(await admin.get(path_of("orders"))).text
    assert "because the hybrid connection is disabled" in text
    assert "Start the connector" not in text


@pytest.mark.parametrize("role", [ManagementRole.VIEWER, ManagementRole.ADMIN])
async def test_the_remedy_for_a_limit_is_a_form(relay: Relay, browser: Browser, role: ManagementRole) -> None:
    quotas = (
        QuotaSnapshot("orders", "bytes", 604_879, 600_000),
        QuotaSnapshot(None, "bytes", 1_500_000_000, 2_000_000_000),
    )
    relay.live.numbers = attrs.evolve(relay.live.numbers, quotas=quotas)
    await browser.log_in(relay.token(role=role)[1])
    page = page_of(await browser.get("/"))
    assert "605 kB of the 600 kB of orders for this month are used; further requests are refused" in page.text
    assert "1.5 GB of the 2.0 GB of the relay for this month are used" in page.text
    for link in (f"{path_of('orders')}#limits", "/scale#edition"):
        assert (link in page.links) is (role is ManagementRole.ADMIN)
    assert ("hybridrelay connections limits --help" in page.text) is (role is ManagementRole.VIEWER)


async def test_keys_are_shown_only_on_demand(relay: Relay, admin: Browser) -> None:
    rule = relay.store.rule("orders", "all")
    keys = [key.reveal() for key in (rule.primary, rule.secondary) if key is not None]
    for path in PAGES:
        body = (await admin.get(path)).body.decode()
        assert not any(key in html.unescape(body) for key in keys), path
    answer = await admin.post(f"{path_of('orders')}/rules/all/keys")
    assert answer.headers["cache-control"] == "no-store"
    assert all(key in page_of(answer).texts for key in keys)
    assert calls(relay) == [("listKeys", 200)]


async def test_a_hybrid_connection_is_deleted_after_a_question(relay: Relay, admin: Browser) -> None:
    page = page_of(await admin.get(f"{path_of('orders')}/delete"))
    assert "1 listener, 1 sender, 1 session" in page.text
    answer = await admin.post(f"{path_of('orders')}/delete", **page.fields)
    assert answer.headers["location"] == "/connections?done=connection-deleted"
    assert "orders" not in relay.store.snapshot()
    assert (await admin.get(path_of("orders"))).status == 404


async def test_settings_are_shown_and_changed(relay: Relay, admin: Browser) -> None:
    relay.store.create("described", ["a.example.com"], [], Description("old", {"owner": "Ann"}))
    at = path_of("described")
    page = page_of(await admin.get(at))
    fields = page.fields
    assert (fields["description"], fields["endpoints"]) == ("old", "a.example.com")
    changed = fields | {"description": "new", "endpoints": "a.example.com, b.example.com"}
    answer = await admin.post(f"{at}/change", **changed)
    assert answer.headers["location"] == f"{at}?done=connection-changed"
    found = relay.store.get("described")
    assert (found.description.text, dict(found.description.metadata)) == ("new", {"owner": "Ann"})
    assert found.hosts == ("a.example.com", "b.example.com")
    answer = await admin.post(f"{at}/change", **fields)
    assert answer.status == 412, "another administrator has changed it meanwhile"
    assert relay.store.get("described") == found
    for version in ("", "x", "-1"):
        assert (await admin.post(f"{at}/change", **(changed | {"version": version}))).status == 400
    page = page_of(await admin.get(at))
    fields = page.fields
    answer = await admin.post(f"{at}/change", **(fields | {"endpoints": "a:1"}))
    assert answer.status == 400
    assert "connection strings carry the ports" in page_of(answer).text


async def test_limits_of_a_hybrid_connection(relay: Relay, admin: Browser) -> None:
    at = path_of("orders")
    page = page_of(await admin.get(at))
    fields = page.fields
    form = fields | {
        "edition": "basic",
        "sessions": "50",
        "bytesPerMonth": "1.5",
        "bytesPerSecond": "2",
        "endAtLimit": "true",
    }
    answer = await admin.post(f"{at}/limits", **form)
    assert answer.headers["location"] == f"{at}?done=limits-changed"
    quota = relay.store.get("orders").quota
    assert (quota.edition, quota.limits.sessions, quota.limits.listeners) == ("basic", 50, None)
    assert (quota.limits.bytes_per_month, quota.limits.bytes_per_second) == (1_500_000_000, 2_000_000)
    assert quota.limits.end_at_limit is True
    page = page_of(await admin.get(at))
    shown = {one["name"]: one["value"] for one in page.all("input")}
    assert (shown["sessions"], shown["bytesPerMonth"], shown["listeners"]) == ("50", "1.5", None)
    assert (await admin.post(f"{at}/limits", **form)).status == 412, "the version of the form is out of date"
    for name, value in (
        ("sessions", "many"), ("sessions", "0"), ("bytesPerSecond", "0.001"), ("listeners", "1e999"),
        ("sessions", "5_0"), ("sessions", "\u0665\u0660"), ("sessions", "+50"),
    ):  # fmt: skip
        answer = await admin.post(f"{at}/limits", **{"version": shown["version"] or "", name: value})
        assert answer.status == 400, (name, value)
        assert re.search("enter (a number|at least|at most)", page_of(answer).text)
    assert relay.store.get("orders").quota == quota


async def test_editions_are_shown_and_changed(relay: Relay, admin: Browser) -> None:
    page = page_of(await admin.get("/scale"))
    assert "This relay uses no edition" in page.text
    assert "/scale/editions/standard" in page.links
    page = page_of(await admin.get("/scale/editions/standard"))
    fields = page.fields
    assert (fields["connections"], fields["bytesPerMonth"]) == ("50", "250")
    answer = await admin.post("/scale/editions/standard", **(fields | {"connections": "60", "bytesPerMonth": ""}))
    assert answer.headers["location"] == "/scale?done=edition-changed"
    edition = relay.store.editions().by_name["standard"]
    assert (edition.connections, edition.limits.bytes_per_month) == (60, None)
    assert (await admin.post("/scale/editions/standard", **fields)).status == 412
    assert (await admin.post("/scale/edition", edition="standard")).status == 303
    assert "This relay uses standard" in page_of(await admin.get("/scale")).text
    assert "of 60 (standard)" in page_of(await admin.get("/")).text
    assert (await admin.post("/scale/edition", edition="")).status == 303
    assert relay.store.editions().in_use == ""
    assert (await admin.get("/scale/editions/nothing")).status == 404
    assert [one for one, _ in calls(relay)] == ["putEdition", "putEdition", "putEditionOfRelay", "putEditionOfRelay"]


async def test_the_usage_of_this_month_and_earlier_ones_is_shown(relay: Relay, admin: Browser) -> None:
    relay.live.used = {"orders": Usage(1_500_000_000, 500_000_000, 3), TOTAL: Usage(4_000_000_000, 0, 9)}
    relay.live.past = [PastUsage(Period(2026, 10), Usage(10_000_000, 20_000_000, 70))]
    relay.store.use_edition("basic")
    text = page_of(await admin.get("/")).text
    assert "2 of 10 (basic)" in text
    assert "4.0 GB of 50.0 GB in November 2026" in text
    page = page_of(await admin.get("/scale"))
    for shown in ("Usage in November 2026", "2 of 10", "4.0 GB of 50.0 GB", "1.5 GB", "October 2026", "30.0 MB"):
        assert shown in page.text
    key = relay.store.get("orders").key_id("all", KeySlot.PRIMARY)
    assert key is not None
    relay.live.uses = {key: 0.0}
    page = page_of(await admin.get(path_of("orders")))
    for shown in ("Data in November 2026", "2.0 GB", "no limit", "1 of 25", "1970-01-01 00:00:00 UTC", "never"):
        assert shown in page.text
    assert "October 2026" in page.text


async def test_a_key_with_manage_changes_no_limits(relay: Relay, browser: Browser) -> None:
    await browser.log_in(relay.signature())
    page = page_of(await browser.get(path_of("orders")))
    assert f"{path_of('orders')}/change" in page.actions
    assert f"{path_of('orders')}/limits" not in page.actions
    assert f"{path_of('orders')}/disable" not in page.links


async def test_a_hybrid_connection_is_disabled_after_a_question_and_enabled_again(
    relay: Relay, admin: Browser
) -> None:
    at = path_of("orders")
    page = page_of(await admin.get(f"{at}/disable"))
    assert "1 listener, 1 sender, 1 session" in page.text
    answer = await admin.post(f"{at}/disable", **page.fields)
    assert answer.headers["location"] == f"{at}?done=connection-disabled"
    assert relay.store.get("orders").disabled
    page = page_of(await admin.get(at))
    assert "Disabled" in page.text
    assert (await admin.post(f"{at}/enable", **page.fields)).status == 303
    assert not relay.store.get("orders").disabled
    assert calls(relay) == [("patchHybridConnection", 200)] * 2


async def test_a_drain_begins_and_ends(relay: Relay, admin: Browser) -> None:
    assert "1 listener and 1 session" in page_of(await admin.get("/scale/drain")).text
    answer = await admin.post("/scale/drain")
    assert answer.headers["location"] == "/scale?done=draining"
    page = page_of(await admin.get("/scale?done=draining"))
    assert "1 session left" in page.text
    assert "/scale/accept" in page.actions
    assert (await admin.post("/scale/accept")).status == 303
    assert relay.live.numbers.draining_since is None
    assert calls(relay) == [("drainRelay", 200), ("undoDrainRelay", 200)]


async def test_hostile_names_and_texts_stay_text(relay: Relay, admin: Browser) -> None:
    name = "x" * 130 + "/" + "y" * 129
    relay.store.create(name, ["relay.example.com"], [], Description(PRINTABLE, {PRINTABLE[:60]: PRINTABLE}))
    relay.live.held_listeners.append(attrs.evolve(listener(name, "a" * 32), software=HOSTILE))
    relay.live.held_senders.append(attrs.evolve(sender(name, "b" * 16), software=HOSTILE))
    relay.managed.events.subscribe(relay.managed.feed)
    relay.managed.events.publish(ListenerRegistered(connection=name, peer=HOSTILE, instance=HOSTILE))
    for path in (*PAGES, path_of(name), f"/events?name={urllib.parse.quote(HOSTILE)}", f"{path_of(name)}/delete"):
        answer = await admin.get(path)
        assert answer.status in {200, 400, 404}, path
        page = page_of(answer)
        assert not [one for one in page.all("script") if not (one["src"] or "").startswith("/assets/")]
        assert not [one for one in page.all("img") if not (one["src"] or "").startswith("/assets/")]
        assert all(link.startswith(("/", "#")) for link in page.links)
    page = page_of(await admin.get(path_of(name)))
    assert {HOSTILE, PRINTABLE} <= set(page.texts)
    assert page_of(await admin.get("/connections")).links.count(path_of(name)) == 1


@pytest.mark.parametrize(
    "path", ["/connections/%00", "/connections/a%20b", "/connections/nothing", "/connections/" + "x" * 261]
)
async def test_a_hybrid_connection_that_does_not_exist(admin: Browser, path: str) -> None:
    answer = await admin.get(path)
    assert answer.status == 404
    page = page_of(answer)
    assert "There is nothing here" in page.text
    assert answer.headers["request-id"] in page.text


async def test_the_pages_of_the_list(relay: Relay, admin: Browser) -> None:
    for number in range(60):
        relay.store.create(f"many/{number:02}", ["relay.example.com"], [])
    page = page_of(await admin.get("/connections?prefix=many/"))
    (next_,) = (link for link in page.links if "cursor=" in link)
    rest = page_of(await admin.get(next_))
    names = [link for link in page.links + rest.links if link.startswith("/connections/many")]
    assert names == [path_of(f"many/{number:02}") for number in range(60)]
    assert (
        "There is no hybrid connection whose name begins with this"
        in page_of(await admin.get("/connections?prefix=zzz")).text
    )


async def test_the_script_gets_the_parts_that_change(relay: Relay, admin: Browser) -> None:
    for path in PAGES[:-1]:
        page = page_of(await admin.get(path))
        ids = {attributes["id"] for _, attributes in page.tags if "data-live" in attributes}
        parts = parts_of(await admin.get(path, Accept="application/json"))
        assert parts.keys() == ids, path
        assert ids or path == "/monitor"
    parts = parts_of(await admin.get(path_of("orders"), Accept="application/json"))
    assert "192.0.2.1" in json.dumps(parts["listeners"])
    ((_, body),) = [(tag, attributes) for tag, attributes in page_of(await admin.get("/")).tags if tag == "body"]
    assert body["data-events"] == f"/v1/events?since={relay.managed.feed.last}"


async def test_a_link_cannot_choose_the_message(admin: Browser) -> None:
    assert "hacked" not in (await admin.get("/?done=hacked")).body.decode()


async def test_a_form_that_is_malformed(relay: Relay, admin: Browser) -> None:
    at = f"{path_of('orders')}/rules/all/revoke"
    for body, content_type, status in (
        (b"{}", "application/json", 415),
        (b"\xff=", "application/x-www-form-urlencoded", 400),
    ):
        answer = await admin.request("POST", at, body, Content_Type=content_type, Sec_Fetch_Site="same-origin")
        assert answer.status == status
    assert calls(relay) == [("sendRevocation", 415), ("sendRevocation", 400)], "in the audit log, too"


async def test_events_are_shown(relay: Relay, admin: Browser) -> None:
    relay.managed.events.subscribe(relay.managed.feed)
    for number in range(150):
        relay.managed.events.publish(
            ListenerRegistered(connection="orders", peer=f"192.0.2.{number}", instance="9" * 32)
        )
    text = page_of(await admin.get("/events?name=listener.&connection=orders")).text
    assert text.index("192.0.2.149") < text.index("192.0.2.100")
    assert "192.0.2.49" not in text, "the latest 100"
    assert "No event matches" in page_of(await admin.get("/events?name=nothing")).text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no user ids")
async def test_the_audit_log_is_shown(relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what the files have, also from before the relay was started."""

    async def run_at_once(function: Callable[..., object], *arguments: object, **more: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr("hybridrelay.management.audit_log.run_in_thread", run_at_once)  # time passes meanwhile
    earlier = AuditedRegistry(StoreRegistry(relay.store), tmp_path, clock=lambda: relay.now - 60)
    for _ in range(100):
        earlier.rule_with_keys("other", "all")
    log = ManagementAuditLog(tmp_path, clock=lambda: relay.now, events=relay.managed.events)
    relay.managed.events.subscribe(log)
    relay.managed = attrs.evolve(relay.managed, audit=log)
    admin = browser_of(relay)
    await admin.log_in(relay.token()[1])
    await admin.post(f"{path_of('orders')}/rules/all/keys")
    assert "Nothing changed" not in page_of(await admin.get("/audit")).text
    await admin.post("/scale/accept")  # although the relay does not drain
    page = page_of(await admin.get("/audit"))
    for shown in (
        "listKeys",
        "token ci",
        "(admin)",
        "192.0.2.1",
        "Done",
        "Nothing changed",
        "logIn",
        f"local uid {os.getuid()}",
        "hybridrelay audit calls",
    ):
        assert shown in page.text
    assert path_of("orders") in page.links
    (older,) = (link for link in page.links if link.startswith("/audit?cursor="))
    page = page_of(await admin.get(older))
    assert path_of("orders") not in page.links
    assert path_of("other") in page.links
    page = page_of(await admin.get("/audit?caller=token&operation=listKeys&connection=orders"))
    assert f"local uid {os.getuid()}" not in page.text
    assert path_of("orders") in page.links
    assert "/v1/audit?limit=100&caller=token&operation=listKeys&connection=orders" in page.links
    assert "No call matches" in page_of(await admin.get("/audit?operation=nothing")).text
    assert (await admin.get("/audit?cursor=x")).status == 400


@pytest.mark.parametrize("query", ["", "?range=24h&scale=relative", "?range=14d", "?range=400d", "?range=x&scale=x"])
async def test_the_monitor_has_a_table_for_each_chart(admin: Browser, query: str) -> None:
    page = page_of(await admin.get(f"/monitor{query}"))
    charts = [one for one in page.all("div") if one.get("class") == "chart"]
    assert len(charts) == len(page.all("table")) == 6
    assert all(one["role"] == "img" and one["tabindex"] == "0" for one in charts)
    assert (await admin.get("/monitor?connection=nothing")).status == 404


async def test_after_a_restart_charts_show_minutes_and_what_is_unknown(relay: Relay, admin: Browser) -> None:
    started = int(relay.managed.started_at)
    relay.live.rows_of = {
        10: [(started, Row(bytes_to_senders=1000))],
        60: [(started - 1860, Row(bytes_to_senders=9000))],
    }
    relay.now += 60
    for path in ("/", "/monitor", "/monitor?connection=orders"):
        relay.live.queries.clear()
        text = page_of(await admin.get(path)).text
        assert "1.0 kB" in text, path
        assert "9.0 kB" in text, path
        assert "unknown" in text, path
        assert (
            "The relay was started 1970-01-12 13:46:40 UTC . Charts show the time before that in steps of a minute."
            in text
        ), path
        assert [query.resolution for query in relay.live.queries] == [10, 60]
        assert relay.live.queries[1].end == started // 60 * 60, "ten seconds and minutes do not overlap"
    assert "unknown" in page_of(await admin.get("/monitor?range=24h")).text
    assert "in steps of a minute" not in page_of(await admin.get("/monitor?range=24h")).text
    relay.now += 3600
    text = page_of(await admin.get("/monitor")).text
    assert "unknown" not in text
    assert "The relay was started" not in text


def commands_of(page: Page) -> list[str]:
    """The text of each command."""
    return [text for text in page.texts if re.match(r"hybridrelay (con|forw)", text)]


async def test_the_commands_that_create_a_hybrid_connection(admin: Browser) -> None:
    assert commands_of(page_of(await admin.get("/create"))) == []
    path = "/create?name=team/orders&target=[fd00::5]:5432&endpoint=relay.example.com"
    page = page_of(await admin.get(path))
    create, load, connect, forward = commands_of(page)
    assert create.startswith("hybridrelay connections create team/orders \\\n  --target '[fd00::5]:5432' --endpoint")
    assert "--relay-file team-orders.relay" in create
    assert load == "hybridrelay connections import team-orders.relay --state '/srv/my relay'"
    assert connect == "hybridrelay connector --connection-string-file team-orders.connector"
    assert "--connection-string-file team-orders.application --listen 127.0.0.1:15432" in forward
    # Without TLS, commands send a token only to their own machine.
    at_relay, *others = commands_of(page_of(await admin.get(path, Host="127.0.0.1")))
    assert others == [create, load, connect, forward]
    assert at_relay.endswith("\\\n  --management http://127.0.0.1 --token-file admin.token")
    assert "--relay-file" not in at_relay


async def test_the_commands_over_tls_use_the_management_api(relay: Relay) -> None:
    browser = Browser(relay.connect(Peer("192.0.2.1", is_encrypted=True)))
    await browser.log_in(relay.token()[1])
    page = page_of(await browser.get("/create?name=a&target=db:1&endpoint=b", Host="relay.example.com"))
    assert "--management https://relay.example.com --token-file admin.token" in commands_of(page)[0]


async def test_a_full_edition_is_said_before_the_commands(relay: Relay, admin: Browser) -> None:
    path = "/create?name=a&target=db:1&endpoint=b"
    assert "edition" not in page_of(await admin.get(path)).text
    relay.store.change_edition("basic", 2, NO_LIMITS)
    relay.store.use_edition("basic")
    page = page_of(await admin.get(path))
    assert page.text.index("its edition (basic) allows 2") < page.text.index("hybridrelay connections create")
    assert "/scale" in page.links


async def test_the_name_of_a_hybrid_connection_to_create(relay: Relay, admin: Browser, browser: Browser) -> None:
    query = "target=db:1&endpoint=relay"
    page = page_of(await admin.get(f"/create?name=orders&{query}"))
    assert commands_of(page) == []
    assert "already a hybrid connection with this name" in page.text
    await browser.log_in(relay.token("other", scope="ord")[1])
    page = page_of(await browser.get(f"/create?name=team&{query}"))
    assert commands_of(page) == []
    assert "whose names begin with ord" in page.text
    assert commands_of(page_of(await browser.get(f"/create?name=ord/a&{query}")))


@pytest.mark.parametrize(
    ("name", "target", "endpoint"),
    [
        ("a b", "db:1", "relay"),
        ("a;reboot", "db:1", "relay"),
        ("a", "db", "relay"),
        ("a", "db:0", "relay"),
        ("a", "db:65536", "relay"),
        ("a", "db x:1", "relay"),
        ("a", "--state:1", "relay"),
        ("a", "db:1", "relay:1"),
        ("a", "db:1", "--relay"),
        ("a", "db:1", "$(reboot)"),
    ],
)
async def test_what_cannot_be_created(admin: Browser, name: str, target: str, endpoint: str) -> None:
    query = urllib.parse.urlencode({"name": name, "target": target, "endpoint": endpoint})
    page = page_of(await admin.get(f"/create?{query}"))
    assert commands_of(page) == []
    assert [one for _, one in page.tags if one.get("class") == "message bad"]


@pytest.mark.parametrize("host", ["$(reboot)", "`x`", "a;b", "a'b", 'a"b', "a&&b"])
async def test_a_target_is_one_word_for_the_shell(admin: Browser, host: str) -> None:
    query = urllib.parse.urlencode({"name": "a", "target": f"{host}:1", "endpoint": "relay"})
    (create, *_) = commands_of(page_of(await admin.get(f"/create?{query}")))
    import shlex

    words = shlex.split(create.replace("\\\n", ""))
    assert words[words.index("--target") + 1] == f"{host}:1"


async def test_claims_key_rolls_and_updates(relay: Relay, admin: Browser) -> None:
    """It shows which programs do not have the new key or the update yet."""
    at = path_of("orders")
    text = page_of(await admin.get(at)).text
    for nothing in ("There is no claim.", "No key is being rolled.", "No update has been pushed."):
        assert nothing in text
    digest = hashlib.sha256(bytes(32)).hexdigest()
    for number, note in ((1, PRINTABLE), (2, "for Ann")):
        relay.store.add_claim(Claim(f"{number:032x}", "orders", digest, b"sealed", NOW, NOW + 60, note))
    relay.store.take_claim(f"{2:032x}", bytes(32), "192.0.2.7")
    relay.store.take_claim(f"{2:032x}", bytes(32), "192.0.2.8")
    generation = relay.store.get("orders").generations["all", KeySlot.SECONDARY]
    relay.store.roll_key("orders", "all", KeySlot.SECONDARY, None, seconds=600, waits=False, generation=generation)
    program = ProgramSnapshot(
        instance="5" * 32, address="192.0.2.5", role="client", state="memory", detail=PRINTABLE, is_connected=True
    )
    relay.live.rolls["orders", "all"] = RollSnapshot(3, 2, (program,))
    relay.store.put_update(StoredUpdate("orders", Role.CONNECTOR, "", 7, b"sealed", NOW, NOW + 900, "target"))
    behind = RecipientSnapshot(
        instance="6" * 32, address="192.0.2.6", role="connector", state="refused", detail="clock", departed_at=NOW
    )
    relay.live.pushed["orders"] = (
        UpdateSnapshot(role="connector", serial="", sequence=7, recipients=5, kept=4, missing=(behind,)),
    )
    page = page_of(await admin.get(at))
    for shown in (
        PRINTABLE, "Open", "Taken", "from 192.0.2.7", "Alarm", "from 192.0.2.8: somebody else has the code",
        "the new key is the secondary one", "2 of 3 programs have it", "192.0.2.5", "has not stored it",
        "connectors", "4 of 5", "192.0.2.6", "refuses it", "clock",
    ):  # fmt: skip
        assert shown in page.text, shown
    assert not [one for one in page.all("img") if "onerror" in one]
    crowded = "had no room to note more programs"
    assert crowded not in page.text
    relay.live.pushed["orders"] = (attrs.evolve(relay.live.pushed["orders"][0], is_crowded=True),)
    assert page_of(await admin.get(at)).text.count(crowded) == 1
    relay.live.rolls["orders", "all"] = RollSnapshot(3, 2, (program,), is_crowded=True)
    text = page_of(await admin.get(at)).text
    assert text.count(crowded) == 2
    assert "The old one is revoked at " in text
    for href in ("claims", "updates", "authorizationRules/all/roll"):
        assert (await admin.get(f"/v1/hybridConnections/orders/{href}")).status == 200
        assert f"/v1/hybridConnections/orders/{href}" in page.links

    revoke = f"{at}/claims/{1:032x}/revoke"
    assert [link for link in page.links if link.endswith("/revoke") and "/claims/" in link] == [revoke]
    confirmation = page_of(await admin.get(revoke))
    assert PRINTABLE in confirmation.text
    assert confirmation.actions.count(revoke) == 1
    answer = await admin.post(revoke)
    assert (answer.status, answer.headers["location"]) == (303, f"{at}?done=claim-revoked")
    assert "The claim was revoked." in page_of(await admin.get(f"{at}?done=claim-revoked")).text
    states = {claim.id: claim.state(NOW) for claim in relay.store.claims("orders")}
    assert states == {f"{1:032x}": ClaimState.REVOKED, f"{2:032x}": ClaimState.TAKEN}
    for claim in (1, 2, 3):
        assert (await admin.get(f"{at}/claims/{claim:032x}/revoke")).status == 404
