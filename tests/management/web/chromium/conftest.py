"""A relay with a hybrid connection that is in use, and Debian's Chromium to look at its dashboard."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import os
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ....deployments import Deployment, Program, Published
from ....http_servers import http_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

PAYLOAD = bytes(200_000)


def _needed(found: bool, what: str) -> None:
    if found:
        return
    if os.environ.get("CI", "").lower() in {"true", "1"}:
        pytest.fail(f"{what} is not installed, and CI has to install it (.ci/run)")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser."""
    program = shutil.which("chromium")
    _needed(program is not None, "chromium")
    for package in ("playwright", "axe_playwright_python"):
        _needed(importlib.util.find_spec(package) is not None, package)
    from playwright.sync_api import sync_playwright

    # Its sandbox does not work for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    # It makes a Unix socket in its temporary directory, and does not start if the path is too long for that.
    with tempfile.TemporaryDirectory(prefix="hybridrelay-", dir="/tmp") as directory, sync_playwright() as playwright:
        environment: dict[str, str | float | bool] = {**os.environ, "TMPDIR": directory}
        browser = playwright.chromium.launch(executable_path=program, args=arguments, env=environment)
        yield browser
        browser.close()


class _Resource(http.server.BaseHTTPRequestHandler):
    """What the hybrid connection leads to."""

    def do_GET(self) -> None:
        self.send_response(200)
        _, begin, url = self.path.partition("/page-with-a-form-for/")
        body = f'<form method="post" action="http://{url}"><button>Win</button></form>'.encode() if begin else PAYLOAD
        self.send_header("Content-Type", "text/html" if begin else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def resource() -> Iterator[int]:
    """Serve it at a free port."""
    with http_server(_Resource) as port:
        yield port


def use(port: int) -> None:
    """Move bytes through a local port of `hybridrelay forward`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        assert answer.read() == PAYLOAD


@attrs.define
class Dashboard:
    """The dashboard of a relay."""

    deployment: Deployment
    relay: Program
    url: str
    #: The texts of management tokens, by role.
    tokens: dict[str, str]

    def restart(self) -> None:
        """Stop the relay if it is running, and start it again at the same address."""
        self.relay.terminate()
        self.relay = self.deployment.start_relay("--management", self.url.removeprefix("http://"))


@attrs.define
class Site(Dashboard):
    """A dashboard with the hybrid connection ``orders``, which has a connector and a client."""

    orders: Published
    #: The port of the resource.
    target: int
    #: The local port of the client.
    port: int


@contextmanager
def dashboard_in(directory: Path) -> Iterator[Dashboard]:
    """Run a relay with a dashboard, and create tokens."""
    with Deployment(directory) as deployment:
        relay = deployment.start_relay("--management", "127.0.0.1:0")
        tokens = {}
        for role in ("viewer", "admin"):
            out = directory / f"{role}.token"
            done = deployment.run("tokens", "create", role, "--role", role, "--out", out, "--state", deployment.state)
            assert done.returncode == 0, done.stderr
            tokens[role] = out.read_text().strip()
        port = relay.wait_for_line(r"management\.listening.*127\.0\.0\.1:(\d+)", where="err")[1]
        yield Dashboard(deployment, relay, f"http://127.0.0.1:{port}", tokens)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Site]:
    """It runs. Needs Chromium, so that without that nothing is started."""
    with resource() as target, dashboard_in(tmp_path_factory.mktemp("dashboard")) as found:
        orders = found.deployment.create("orders", ("127.0.0.1", target))
        found.deployment.start_connector(orders)
        forward = found.deployment.start_forward(orders)
        use(forward.port)
        yield Site(found.deployment, found.relay, found.url, found.tokens, orders, target, forward.port)


@pytest.fixture
def alone(tmp_path: Path, chromium: Browser) -> Iterator[Dashboard]:
    """The dashboard of a relay that the test may stop: it has no hybrid connections."""
    with dashboard_in(tmp_path) as found:
        yield found


@attrs.define
class Viewer:
    """Somebody who looks at a dashboard with Chromium."""

    dashboard: Dashboard
    page: Page
    #: What the browser has complained about: errors in scripts, and violations of the Content-Security-Policy.
    complaints: list[str] = attrs.field(factory=list)

    def go(self, path: str) -> None:
        """Show a page."""
        self.page.goto(f"{self.dashboard.url}{path}")

    def log_in(self, role: str = "admin") -> None:
        """Log in, as one does."""
        self.go("/")
        self.page.get_by_label("Management token").fill(self.dashboard.tokens[role])
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_role("heading", name="Dashboard", level=1).wait_for()

    def text(self) -> str:
        """What the page says."""
        text: str = self.page.locator("main").inner_text()
        return text

    def forget(self, pattern: str) -> None:
        """Expect nothing but complaints that match, such as those about responses with an error status."""
        assert [one for one in self.complaints if not re.search(pattern, one)] == []
        self.complaints.clear()


def _complaint_of(message: ConsoleMessage) -> str:
    """What the browser has written to its console, and the URL that it is about, which is not part of the text."""
    return f"{message.type}: {message.text} [{message.location['url']}]"


@contextmanager
def viewer_of(dashboard: Dashboard, chromium: Browser, **options: Any) -> Iterator[Viewer]:
    """Look with a browser that has no cookies yet. The browser must have nothing to complain about.

    Args:
        dashboard: what they look at.
        chromium: the browser.
        options: of Playwright's `Browser.new_context`.
    """
    with contextlib.closing(
        chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    ) as context:
        context.set_default_timeout(20_000)
        viewer = Viewer(dashboard, context.new_page())
        viewer.page.on("console", lambda message: viewer.complaints.append(_complaint_of(message)))
        viewer.page.on("pageerror", lambda error: viewer.complaints.append(str(error)))
        yield viewer
        assert viewer.complaints == []


@pytest.fixture
def viewer(site: Site, chromium: Browser) -> Iterator[Viewer]:
    """An administrator who has logged in."""
    with viewer_of(site, chromium) as viewer:
        viewer.log_in()
        yield viewer


def axe_script() -> str:
    """The axe-core engine, from the package that has it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def axe_violations(viewer: Viewer, script: str, path: str) -> list[str]:
    """The violations that axe-core finds. It is injected past the Content-Security-Policy, which stays in force."""
    devtools = viewer.page.context.new_cdp_session(viewer.page)
    devtools.send("Runtime.evaluate", {"expression": script})
    run = "axe.run().then(found => JSON.stringify([found.passes.length, found.violations]))"
    parameters = {"expression": run, "awaitPromise": True, "returnByValue": True}
    passes, violations = json.loads(devtools.send("Runtime.evaluate", parameters)["result"]["value"])
    assert passes > 10, "axe has looked at the page"
    return [f"{path}: {one['id']}: {one['help']}: {one['nodes'][0]['html']}" for one in violations]
