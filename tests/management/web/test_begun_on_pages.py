"""Key rolls, claims and updates that begin on pages: a form, and command lines for the administrator's machine."""

from __future__ import annotations

import re
import shlex
from urllib.parse import urlencode

import pytest

from hybridrelay.cli.parser import build_parser
from hybridrelay.events import ManagementCalled
from hybridrelay.management.web.paths import path_of
from hybridrelay.security import KeySlot

from ...http.serving import Answer
from ..managed_relay import NOW, Relay
from .browser import Browser, page_of


@pytest.fixture
async def admin(relay: Relay, browser: Browser) -> Browser:
    """An administrator's browser."""
    await browser.log_in(relay.token()[1])
    return browser


def command_in(answer: Answer) -> list[str]:
    """The words of the command line on a page, which can be used as it is; empty if there is none."""
    pattern = r"hybridrelay (claims create|updates push|keys roll) "
    found = [text for text in page_of(answer).texts if re.match(pattern, text)]
    words = shlex.split(found[0].replace("\\\n", "")) if found else []
    if words:
        build_parser().parse_args(words[1:])
    return words


async def test_a_roll_is_begun_on_a_page(relay: Relay, admin: Browser) -> None:
    """The new key goes into the slot of the key that was used less recently; it is not shown, and what is entered
    wrongly is shown again."""
    used = relay.store.get("orders").key_id("all", KeySlot.SECONDARY)
    assert used is not None
    relay.live.uses[used] = NOW
    at = f"{path_of('orders')}/rules/all/roll"
    assert at in page_of(await admin.get(path_of("orders"))).links
    page = page_of(await admin.get(at))
    assert "Old key secondary" in " ".join(page.text.split())
    words = command_in(await admin.get(at))
    assert words[:8] == ["hybridrelay", "keys", "roll", "orders", "--rule", "all", "--update", "orders.authority"]
    assert "--management" in words or "--state" in words
    before, fields = relay.store.rule("orders", "all"), page.fields
    assert (fields["slot"], fields["days"]) == ("primary", "7")
    for days in ("0", "31", "soon", "nan", "", "1_0", "\u0667", "+7"):
        refused = await admin.post(at, **{**fields, "days": days})
        assert refused.status == 400, days
        assert "Days: enter a number from 0.01 to 30" in page_of(refused).text
    assert relay.store.rule("orders", "all") == before
    answer = await admin.post(at, **{**fields, "days": "0.5", "wait": "true"})
    assert (answer.status, answer.headers["location"]) == (303, f"{path_of('orders')}?done=key-rolled")
    after = relay.store.rule("orders", "all")
    assert after.primary != before.primary
    assert after.secondary == before.secondary
    roll = relay.store.get("orders").roll("all")
    assert roll is not None
    assert (roll.slot, roll.waits, roll.ends_at) == (KeySlot.PRIMARY, True, NOW + 43_200)
    text = (await admin.get(answer.headers["location"])).body.decode()
    assert "Programs are being given the new key" in text
    assert after.primary is not None
    assert after.primary.reveal() not in text
    again = await admin.post(at, **fields)
    assert again.status == 400
    assert "is already being rolled" in page_of(again).text, "the same form twice rolls the key once"
    assert relay.store.rule("orders", "all") == after
    called = [(event.operation_id, event.status) for event in relay.events if isinstance(event, ManagementCalled)]
    assert called[-2:] == [("rollKeys", 200), ("rollKeys", 400)]


async def test_rolling_a_key_of_a_rule_without_keys(relay: Relay, admin: Browser) -> None:
    for slot in KeySlot:
        relay.store.revoke_key("orders", "all", slot)
    at = f"{path_of('orders')}/rules/all/roll"
    assert at not in page_of(await admin.get(path_of("orders"))).links
    answer = await admin.get(at)
    assert answer.status == 400
    assert "has no key" in page_of(answer).text


async def test_the_command_that_creates_a_claim(relay: Relay, admin: Browser) -> None:
    at = f"{path_of('orders')}/create-claim"
    assert at in page_of(await admin.get(path_of("orders"))).links
    assert command_in(await admin.get(at)) == []
    asked = urlencode({"role": "connector", "label": "it's", "note": "for Ann; rm -rf", "expires": "7d"})
    words = command_in(await admin.get(f"{at}?{asked}"))
    assert words[:4] == ["hybridrelay", "claims", "create", "orders"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert (given["--role"], given["--label"], given["--note"]) == ("connector", "it's", "for Ann; rm -rf")
    assert (given["--expires"], given["--authority-file"]) == ("7d", "orders.authority")
    assert "--management" in given or "--state" in given
    for wrong in ({"label": "-x"}, {"label": "a", "role": "relay"}, {"label": "a", "expires": "1y"}, {"note": "a"}):
        assert command_in(await admin.get(f"{at}?{urlencode(wrong)}")) == [], wrong
    assert not relay.store.claims("orders")


async def test_the_command_that_pushes_an_update(relay: Relay, admin: Browser) -> None:
    at = f"{path_of('orders')}/push-update"
    assert at in page_of(await admin.get(path_of("orders"))).links
    pin = f"sha256:{'A' * 43}="
    asked = urlencode({"target": "db2.internal:5432", "relays": "a.example.com, b.example.com", "pins": pin})
    words = command_in(await admin.get(f"{at}?{asked}"))
    assert words[:8] == [
        "hybridrelay", "updates", "push", "orders", "--target", "db2.internal:5432", "--endpoint", "a.example.com",
    ]  # fmt: skip
    assert words[8:14] == ["--endpoint", "b.example.com", "--relay-pin", pin, "--authority-file", "orders.authority"]
    for wrong in ({"target": "db"}, {"relays": "a b:x"}, {"pins": "sha256:1"}, {"target": "-o:1"}):
        assert command_in(await admin.get(f"{at}?{urlencode(wrong)}")) == [], wrong
