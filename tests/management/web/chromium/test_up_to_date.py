"""What an open page says when it cannot be updated any more: the relay is away, the login has ended, and others."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .conftest import Dashboard, Viewer, axe_script, axe_violations, viewer_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the relay runs on Linux")

#: What the browser logs about the requests that fail on purpose.
_EXPECTED = "ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE|40[14]"


@pytest.fixture
def viewer(alone: Dashboard, chromium: Browser) -> Iterator[Viewer]:
    """Somebody who has opened the page of all hybrid connections."""
    with viewer_of(alone, chromium) as viewer:
        viewer.page.set_default_timeout(60_000)
        viewer.log_in()
        viewer.go("/connections")
        yield viewer
        viewer.forget(_EXPECTED)


def banner(viewer: Viewer, text: str) -> Locator:
    """Wait until the banner says something, which is also said to those who do not see the screen."""
    viewer.page.locator("#announcements", has_text=text).wait_for(state="attached")
    found = viewer.page.locator("#banner", has_text=text)
    found.wait_for()
    assert viewer.page.locator("body.stale").count() == 1
    return found


def test_the_relay_is_away_and_has_restarted(alone: Dashboard, viewer: Viewer) -> None:
    assert not viewer.page.locator("#banner").is_visible()
    alone.relay.terminate()
    assert re.search(r"since \d\d:\d\d:\d\d", banner(viewer, "The relay has not answered since").inner_text())
    alone.restart()
    # Logins are only in the memory of a relay.
    banner(viewer, "Your login has ended").get_by_role("link", name="Log in again").click()
    viewer.page.get_by_label("Management token").fill(alone.tokens["admin"])
    viewer.page.get_by_role("button", name="Log in").click()
    viewer.page.get_by_role("heading", name="Hybrid connections", level=1).wait_for()
    assert viewer.page.url == f"{alone.url}/connections"


def test_the_relay_answers_again(viewer: Viewer) -> None:
    viewer.page.route("**/connections", lambda route: route.abort("connectionrefused"))
    banner(viewer, "The relay has not answered since")
    assert axe_violations(viewer, axe_script(), "a page that is not up to date") == []
    viewer.page.unroute_all()
    viewer.page.get_by_role("button", name="Try now").click()
    viewer.page.locator("#announcements", has_text="up to date again").wait_for(state="attached")
    assert not viewer.page.locator("#banner").is_visible()
    assert viewer.page.locator("body.stale").count() == 0


def test_the_pauses_between_attempts_become_longer(viewer: Viewer) -> None:
    page = viewer.page
    page.clock.install()
    viewer.go("/connections")
    page.route("**/connections", lambda route: route.abort("connectionrefused"))
    attempts: list[str] = []
    page.on("requestfailed", lambda request: attempts.append(request.url))
    for seconds in (5, 1, 2, 4, 8, 16, 30, 30):
        before = len(attempts)
        page.clock.run_for(1000 * seconds - 500)
        assert len(attempts) == before, f"an attempt within {seconds} s"
        with page.expect_event("requestfailed"):
            page.clock.run_for(500)
        page.wait_for_function("failures => Number(document.body.dataset.failures) === failures", arg=before + 1)


def test_what_the_page_shows_is_deleted(alone: Dashboard, viewer: Viewer) -> None:
    alone.deployment.create("orders", ("127.0.0.1", 1))
    viewer.go("/connections/orders")
    done = alone.deployment.run("connections", "delete", "orders", "--state", alone.deployment.state)
    assert done.returncode == 0, done.stderr
    banner(viewer, "no longer exists").get_by_role("button", name="Reload the page").click()
    viewer.page.get_by_role("heading", name="There is nothing here").wait_for()


def test_logging_out_in_another_tab(alone: Dashboard, viewer: Viewer) -> None:
    other = viewer.page.context.new_page()
    other.goto(f"{alone.url}/connections")
    other.get_by_role("button", name="Log out").click()
    other.get_by_label("Management token").wait_for()
    other.close()
    link = banner(viewer, "Your login has ended").get_by_role("link", name="Log in again")
    assert link.get_attribute("href") == "/login?next=%2Fconnections"


def test_a_token_that_is_revoked(alone: Dashboard, viewer: Viewer) -> None:
    done = alone.deployment.run("tokens", "revoke", "admin", "--state", alone.deployment.state)
    assert done.returncode == 0, done.stderr
    banner(viewer, "Your login has ended")
