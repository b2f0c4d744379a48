"""The dashboard in a browser, as its users see it: with its scripts, without them, on a phone, and by keyboard."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from ....deployments import Program
from .conftest import Site, Viewer, axe_script, axe_violations, use, viewer_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Request, Route

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the relay runs on Linux")

PAGES = (
    "/",
    "/connections",
    "/connections/orders",
    "/connections/orders/rules/application/regenerate?slot=primary",
    "/connections/orders/delete",
    "/create?name=a&target=db:1&endpoint=relay.example.com",
    "/monitor",
    "/scale",
    "/scale/drain",
    "/events",
    "/audit",
    "/scale/editions/free",
    "/tokens",
    "/connections/nothing",
)


def test_logging_in_and_out(site: Site, chromium: Browser) -> None:
    with viewer_of(site, chromium) as viewer:
        viewer.go("/events")
        viewer.page.get_by_label("Management token").fill("hrm_wrong")
        viewer.page.get_by_role("button", name="Log in").click()
        assert "not a valid token" in viewer.page.get_by_role("alert").inner_text()
        viewer.page.get_by_label("Management token").fill(site.tokens["viewer"])
        viewer.page.get_by_role("button", name="Log in").click()
        viewer.page.get_by_role("heading", name="Events", level=1).wait_for()
        assert viewer.page.url == f"{site.url}/events"
        (cookie,) = viewer.page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        viewer.page.get_by_role("button", name="Log out").click()
        assert "You have logged out" in viewer.page.get_by_role("status").first.inner_text()
        viewer.go("/events")
        viewer.page.get_by_label("Management token").wait_for()
        # The browser logs each response with an error status.
        assert all("401" in complaint for complaint in viewer.complaints)
        viewer.complaints.clear()


def test_the_page_shows_what_happens_without_being_loaded_again(site: Site, viewer: Viewer) -> None:
    viewer.go("/connections/orders")
    assert viewer.page.locator("#listeners tbody tr").count() == 1
    connector = site.deployment.start_connector(site.orders)
    viewer.page.locator("#listeners tbody tr").nth(1).wait_for()
    assert connector.terminate() == 0
    viewer.page.locator("#listeners tbody tr").nth(1).wait_for(state="detached")


@pytest.mark.parametrize("way", ["management", "files"])
def test_creating_by_the_commands_that_are_shown(site: Site, viewer: Viewer, tmp_path: Path, way: str) -> None:
    page, name = viewer.page, f"team/made-by-{way}"
    viewer.go("/")
    page.get_by_role("link", name="Create", exact=True).click()
    page.get_by_label("Name").fill("team/made here")
    page.get_by_label("Target").fill(f"127.0.0.1:{site.target}")
    page.get_by_label("Relay").fill("127.0.0.1")
    page.get_by_role("button", name="Show the commands").click()
    page.locator(".message.bad").wait_for()  # the name has a space
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Show the commands").click()
    page.get_by_role("heading", name="In the private network").wait_for()
    at_relay, create, load, connect, forward = page.locator(".steps code").all_text_contents()

    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "hybridrelay"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hybridrelay "$@"\n')
    program.chmod(0o700)
    path = f"{program.parent}:{os.environ['PATH']}"
    (tmp_path / "admin.token").write_text(site.tokens["admin"])
    (tmp_path / "admin.token").chmod(0o600)
    forward = forward.replace(":15432", ":0")
    script = f"set -eu\ncd {shlex.quote(str(tmp_path))}\n"
    creating = (at_relay,) if way == "management" else (create, load)
    for command in creating:
        with Program(["sh", "-c", f"{script}{command}"], environment={"PATH": path}) as done:
            assert done.wait(60) == 0, done.err
    with (
        Program(["sh", "-c", f"{script}exec {connect}"], environment={"PATH": path}) as connector,
        Program(["sh", "-c", f"{script}exec {forward}"], environment={"PATH": path}) as client,
    ):
        connector.wait_for_line("^ready")
        port = int(client.wait_for_line(r"^ready.*127\.0\.0\.1:(\d+)")[1])
        use(port)
        page.get_by_role("link", name="Open its page").click()
        page.get_by_role("link", name=name).click()
        page.get_by_role("heading", name=name, level=1).wait_for()
        assert page.locator("#state").inner_text() == "Listening"
        assert page.locator("#sessions tbody tr").count() == 1

        # An interval of the chart lasts for ten seconds. The rest is for slow machines.
        viewer.go(f"/monitor?connection={quote(name, safe='')}")
        use(port)
        page.locator("#data-chart:not([data-highest='0'])[data-highest]").wait_for(timeout=40_000)
        page.locator("#data-table").locator("xpath=..").locator("summary").click()
        page.locator("#data-table").filter(has_text=re.compile(r"\d kB")).wait_for(timeout=40_000)


def test_a_chart_can_be_read_by_keyboard(viewer: Viewer) -> None:
    viewer.go("/monitor")
    chart = viewer.page.locator("#listeners-chart")
    # Nothing is known before the end of the relay's first interval, which lasts for ten seconds.
    viewer.page.locator("#listeners-chart:not([data-highest='0'])[data-highest]").wait_for(timeout=40_000)
    chart.focus()
    chart.press("End")
    viewer.page.locator("#announcements", has_text=re.compile(r"Listeners \d+")).wait_for()


@pytest.mark.parametrize("is_clock_wrong", [False, True])
def test_a_chart_of_the_time_before_the_relay_was_started(viewer: Viewer, *, is_clock_wrong: bool) -> None:
    """It shows minutes, and a gap where nothing is known. Its times are those of the relay."""
    now = int(time.time())
    if is_clock_wrong:
        viewer.page.clock.install(time=0)
    rows = {
        "10": {"time": now // 10 * 10 - 10, "listenersMax": 2},
        "60": {"time": (now - 1800) // 60 * 60, "listenersMax": 7},
    }

    def answer(route: Route) -> None:
        (resolution,) = parse_qs(urlsplit(route.request.url).query)["resolution"]
        found = {"resolution": int(resolution), "startedAt": now - 600, "value": [rows[resolution]]}
        route.fulfill(json=found, headers={"Date": formatdate(now, usegmt=True)})

    viewer.page.route("**/v1/history?*", answer)
    viewer.go("/monitor")
    chart = viewer.page.locator("#listeners-chart[data-highest='7']")
    chart.wait_for()
    said = viewer.page.locator("#announcements")
    for key, text in (
        ("End", "Listeners 2"),
        ("Home", "Listeners unknown"),
        ("End", ""),
        ("ArrowLeft", "Listeners 0"),
    ):
        chart.press(key)
        viewer.page.locator("#announcements", has_text=text).wait_for(state="attached")
    heard = set()
    chart.press("Home")
    for _ in range(60):
        chart.press("ArrowRight")
        heard.add(said.inner_text().partition(": ")[2])
    assert heard == {"Listeners unknown", "Listeners 7", "Listeners 0"}


def test_a_listener_is_dropped_with_its_button(site: Site, viewer: Viewer) -> None:
    connector = site.deployment.start_connector(site.orders)
    viewer.go("/connections/orders")
    rows = viewer.page.locator("#listeners tbody tr")
    rows.nth(1).wait_for()
    viewer.page.get_by_role("button", name="Drop listener").last.click()
    assert "The listener was dropped" in viewer.page.get_by_role("status").first.inner_text()
    rows.nth(1).wait_for(state="detached")
    connector.terminate()


def test_a_key_is_regenerated_after_a_question(viewer: Viewer) -> None:
    viewer.go("/connections/orders")
    row = viewer.page.locator("#rules tbody tr", has_text="application").filter(has_text="secondary")
    before = row.locator("code").inner_text()
    row.get_by_role("link", name="Regenerate").click()
    assert "What ends immediately: 0 listeners, 0 senders, 0 sessions." in viewer.text()
    viewer.page.get_by_role("button", name="Regenerate the secondary key").click()
    assert "The key was replaced" in viewer.page.get_by_role("status").first.inner_text()
    assert row.locator("code").inner_text() != before
    viewer.page.get_by_role("button", name="Show keys of application").click()
    assert len(viewer.page.locator(".command code").all_inner_texts()) == 2


def test_a_relay_is_drained_in_the_browser(viewer: Viewer) -> None:
    viewer.go("/scale")
    viewer.page.get_by_role("link", name="Drain").click()
    viewer.page.get_by_role("button", name="Drain this relay").click()
    viewer.page.locator("#drain .badge", has_text="Draining").wait_for()
    viewer.go("/")
    assert viewer.page.locator("#state").inner_text() == "Draining"
    viewer.go("/scale")
    viewer.page.get_by_role("button", name="Accept again").click()
    viewer.page.locator("#drain .badge", has_text="Serving").wait_for()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_page_of_another_site_cannot_drain_the_relay(site: Site, viewer: Viewer, host: str) -> None:
    """One of another host, with which the browser sends no cookie, and one of another port, with which it does."""
    url = f"{site.url.removeprefix('http://')}/scale/drain"
    viewer.page.goto(f"http://{host}:{site.target}/page-with-a-form-for/{url}")
    with viewer.page.expect_response(f"{site.url}/scale/drain") as answer:
        viewer.page.get_by_role("button", name="Win").click()
    assert answer.value.status == (401 if host == "localhost" else 403)
    viewer.go("/")
    assert viewer.page.locator("#state").inner_text() == "Serving"
    # The browser logs each response with an error status.
    assert all(re.search("40[13]", complaint) for complaint in viewer.complaints)
    viewer.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit_on_a_phone(site: Site, chromium: Browser, scheme: str) -> None:
    """One test visits all pages, because logging in and loading axe take time."""
    axe = axe_script()
    with viewer_of(site, chromium, color_scheme=scheme, viewport={"width": 360, "height": 740}) as viewer:
        viewer.go("/login")
        found = axe_violations(viewer, axe, "/login")
        viewer.log_in()
        for path in PAGES:
            viewer.go(path)
            if path.startswith("/monitor"):
                viewer.page.locator("#data-chart[data-highest]").wait_for()
            found += axe_violations(viewer, axe, path)
            scroll, width = viewer.page.locator("html").evaluate("html => [html.scrollWidth, html.clientWidth]")
            assert scroll <= width, f"{path} is wider than the screen"
            assert cut_off(viewer) == [], f"{path} has texts to choose from that are cut off"
        viewer.go("/connections/orders/add-rule")
        viewer.page.get_by_label("Name").fill("a b")
        viewer.page.get_by_role("button", name="Add").click()
        viewer.page.get_by_role("alert").wait_for()
        assert viewer.page.get_by_label("Name").input_value() == "a b"
        found += axe_violations(viewer, axe, "a form that was refused")
        assert found == []
        assert all(re.search("40[04]", complaint) for complaint in viewer.complaints)
        viewer.complaints.clear()


def cut_off(viewer: Viewer) -> list[str]:
    """The texts of options that are longer than their lists are wide."""
    found: list[str] = viewer.page.locator("select option").evaluate_all(
        """options => options.filter(option => {
            const list = option.closest("select"), copy = list.cloneNode(false);
            copy.append(option.cloneNode(true));
            copy.style.cssText = "position: absolute; width: max-content; max-width: none";
            list.after(copy);
            const isCutOff = copy.offsetWidth > list.offsetWidth;
            copy.remove();
            return isCutOff;
        }).map(option => option.textContent)"""
    )
    return found


def test_every_page_works_without_javascript(site: Site, chromium: Browser) -> None:
    connector = site.deployment.start_connector(site.orders)
    with viewer_of(site, chromium, java_script_enabled=False) as viewer:
        viewer.log_in()
        for path, text in (
            ("/", "Hybrid connections"),
            ("/connections/orders", "UTC"),
            ("/monitor", "Table"),
            ("/events", "listener.registered"),
            ("/audit", "logIn"),
        ):
            viewer.go(path)
            assert text in viewer.text()
        viewer.go("/connections/orders")
        viewer.page.get_by_role("button", name="Drop listener").last.click()
        assert "The listener was dropped" in viewer.text()
    connector.terminate()


def test_times_are_in_the_time_zone_of_the_viewer(site: Site, chromium: Browser) -> None:
    with viewer_of(site, chromium, timezone_id="Asia/Tokyo", locale="en-GB") as viewer:
        viewer.log_in()
        viewer.go("/connections/orders")
        time = viewer.page.locator("#about time").first
        hour = int((time.get_attribute("datetime") or "")[11:13])
        assert f"{(hour + 9) % 24:02}:" in time.inner_text()
        assert "Asia/Tokyo" in viewer.page.locator("#zone").inner_text()


def test_a_page_has_one_stream_of_events_while_it_is_visible(viewer: Viewer) -> None:
    at = f"{viewer.dashboard.url}/events"
    streams: list[str] = []

    def note(request: Request) -> None:
        # The page before this one may have begun its stream only now.
        if "/v1/events" in request.url and request.headers.get("referer") == at:
            streams.append(request.url)

    viewer.page.on("request", note)
    viewer.go("/events")
    viewer.page.wait_for_load_state("load")
    other = viewer.page.context.new_page()
    other.goto(at)
    assert len(streams) == 1
    other.close()

    with viewer.page.expect_event("requestfailed", lambda request: "/v1/events" in request.url):
        _hide(viewer, hidden=True)
    with viewer.page.expect_request(lambda request: "/v1/events" in request.url):
        _hide(viewer, hidden=False)


def test_a_stream_that_ends_at_once_is_not_opened_again_at_once(viewer: Viewer) -> None:
    """A proxy that does not pass on streams has this effect."""
    page, streams = viewer.page, list[str]()

    def end(route: Route) -> None:
        streams.append(route.request.url)
        route.fulfill(status=200, content_type="text/event-stream", body="")

    page.clock.install()
    page.route("**/v1/events*", end)
    viewer.go("/events")
    for _ in range(40):
        page.clock.run_for(1000)
        page.evaluate("fetch(location.href, { headers: { Accept: 'application/json' } }).then(found => found.text())")
    assert 1 <= len(streams) <= 3


@pytest.mark.parametrize("scripts", [True, False])
def test_a_double_click_on_the_button_that_regenerates_a_key(site: Site, chromium: Browser, *, scripts: bool) -> None:
    """The key is replaced once. With scripts, the page says so; without them, it says that it may have been."""
    from playwright.sync_api import Error as PlaywrightError

    with viewer_of(site, chromium, java_script_enabled=scripts) as viewer:
        viewer.log_in()
        page = viewer.page
        viewer.go("/connections/orders")
        fingerprints = page.locator("#rules code").all_inner_texts()
        viewer.go("/connections/orders/rules/application/regenerate?slot=secondary")
        sent: list[str] = []

        def respond(route: Route) -> None:
            """Pass on the relay's response, which arrives after the second click because of this detour."""
            sent.append(route.request.url)
            with contextlib.suppress(PlaywrightError):  # the second request has cancelled the first
                route.fulfill(response=route.fetch(max_redirects=0))

        page.route("**/rules/application/regenerate", respond)
        # A person holds the button for a moment. Chromium drops a second submission that comes at once by itself.
        page.get_by_role("button", name="Regenerate the secondary key").dblclick(no_wait_after=True, delay=40)
        if scripts:
            page.get_by_text("The key was replaced.").wait_for()
            assert len(sent) == 1
        else:
            page.get_by_text(re.compile("The key was replaced|first one has probably succeeded")).wait_for()
            viewer.forget("409")
        viewer.go("/connections/orders")
        now = page.locator("#rules code").all_inner_texts()
        assert sum(one != other for one, other in zip(fingerprints, now, strict=True)) == 1


def test_a_form_can_be_submitted_again_if_there_is_no_response(viewer: Viewer) -> None:
    page, sent = viewer.page, list[str]()

    def stay(route: Route) -> None:
        sent.append(route.request.url)
        route.fulfill(status=204)  # the browser goes on showing the page with the form

    page.clock.install()
    viewer.go("/connections/orders/rules/application/regenerate?slot=secondary")
    page.route("**/rules/application/regenerate", stay)
    button = page.get_by_role("button", name="Regenerate the secondary key")
    for _ in range(2):
        with page.expect_request("**/rules/application/regenerate"):
            button.click(no_wait_after=True)
        button.click(force=True, no_wait_after=True)
        assert button.get_attribute("aria-disabled") == "true"
        page.clock.run_for(11_000)
        assert button.get_attribute("aria-disabled") is None
    assert len(sent) == 2


def test_a_form_can_be_submitted_again_after_going_back(viewer: Viewer) -> None:
    viewer.go("/connections/orders")
    for _ in range(2):
        viewer.page.get_by_role("button", name="Show keys of application").click()
        viewer.page.get_by_role("heading", name="Keys of the rule application").wait_for()
        viewer.page.go_back()


def _hide(viewer: Viewer, *, hidden: bool) -> None:
    """What happens to a page when another tab is shown in its place."""
    viewer.page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_the_first_stop_of_the_keyboard_skips_the_navigation(viewer: Viewer) -> None:
    viewer.go("/")
    viewer.page.keyboard.press("Tab")
    assert viewer.page.locator(":focus").inner_text() == "Skip to content"
    viewer.page.keyboard.press("Enter")
    viewer.page.locator("main:focus").wait_for()
