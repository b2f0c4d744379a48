"""Claims, key rolls and updates on the page of a hybrid connection, in a browser."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ....deployments import Deployment, Program, Published
from .conftest import Dashboard, Viewer, axe_script, axe_violations, viewer_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the relay runs on Linux")


def run(dashboard: Dashboard, *arguments: object) -> None:
    done = dashboard.deployment.run(*map(str, arguments), "--state", dashboard.deployment.state)
    assert done.returncode == 0, done.stderr


def connector_without_a_file(dashboard: Dashboard, orders: Published) -> Program:
    """A connector that has its connection string from standard input, so that it can store no key."""
    deployment = dashboard.deployment
    command = deployment.command("connector", "--connection-string-file", "-")
    connector = Program(command, text_in=orders.connector.read_text())
    deployment.programs.append(connector)
    connector.wait_for_line("^ready")
    return connector


def test_what_is_on_its_way_to_programs(alone: Dashboard, chromium: Browser) -> None:
    """It appears without the page being loaded again; a claim is revoked; and everything is accessible on a phone."""
    orders = alone.deployment.create("orders", ("127.0.0.1", 9))
    connector_without_a_file(alone, orders)
    with viewer_of(alone, chromium, viewport={"width": 360, "height": 740}) as viewer:
        viewer.log_in()
        viewer.go("/connections/orders")
        part = viewer.page.locator
        part("#claims", has_text="There is no claim.").wait_for()
        run(
            alone, "claims", "create", "orders", "--role", "application", "--label", "billing",
            "--authority-file", orders.authority, "--note", "for Ann",
        )  # fmt: skip
        run(alone, "keys", "roll", "orders", "--rule", "connector")
        run(alone, "updates", "push", "orders", "--target", "127.0.0.1:10", "--authority-file", orders.authority)
        viewer.go("/connections/orders")
        assert part("#claims tbody tr").count() == 1
        part("#rolls", has_text="0 of 1 programs have it").wait_for()
        part("#rolls tbody tr", has_text="uses it, but has not stored it").wait_for()
        part("#updates", has_text="0 of 1").wait_for()
        part("#updates tbody tr", has_text="uses it, but has not stored it").wait_for()

        axe = axe_script()
        found = axe_violations(viewer, axe, "the page of the hybrid connection")
        html = viewer.page.locator("html")
        for path in ("/connections/orders", ""):
            if not path:
                viewer.page.get_by_role("link", name="Revoke claim").click()
                viewer.page.get_by_role("heading", name="Revoke this claim?", level=1).wait_for()
                found += axe_violations(viewer, axe, "the confirmation")
            scroll, width = html.evaluate("html => [html.scrollWidth, html.clientWidth]")
            assert scroll <= width, "wider than the screen"
        assert found == []
        assert "for Ann" in viewer.text()
        viewer.page.get_by_role("button", name="Revoke the claim").click()
        assert "The claim was revoked" in viewer.page.get_by_role("status").first.inner_text()
        part("#claims tbody tr", has_text="Revoked").wait_for()
        assert viewer.page.get_by_role("link", name="Revoke claim").count() == 0

    # A viewer sees the same, and no button. What others do appears without loading the page again.
    with viewer_of(alone, chromium) as viewer:
        viewer.log_in("viewer")
        viewer.go("/connections/orders")
        assert viewer.page.locator("#claims tbody tr").count() == 1
        run(
            alone, "claims", "create", "orders", "--role", "application", "--label", "reporting",
            "--authority-file", orders.authority,
        )  # fmt: skip
        viewer.page.locator("#claims tbody tr").nth(1).wait_for()
        assert viewer.page.get_by_role("link", name="Revoke claim").count() == 0


def shown_command(viewer: Viewer, deployment: Deployment, directory: Path) -> None:
    """Run the command line that the page shows, as an administrator would."""
    line = viewer.page.locator(".command code").first.inner_text()
    words = shlex.split(line.replace("\\\n", " "))
    done = subprocess.run(
        [*deployment.command(*words[1:])], cwd=directory, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_claims_updates_and_rolls_begin_on_pages(alone: Dashboard, chromium: Browser, tmp_path: Path) -> None:
    """The commands that the pages show do what they say; a key is rolled with a button, and is not shown."""
    orders = alone.deployment.create("orders", ("127.0.0.1", 9))
    connector = alone.deployment.start_connector(orders)
    assert orders.authority == tmp_path / "orders.authority"
    token = tmp_path / "admin.token"
    token.touch(mode=0o600)
    token.write_text(alone.tokens["admin"])
    axe, found = axe_script(), []
    with viewer_of(alone, chromium, viewport={"width": 360, "height": 740}) as viewer:
        viewer.log_in()
        page, part = viewer.page, viewer.page.locator

        viewer.go("/connections/orders")
        page.get_by_role("link", name="Create a claim").click()
        page.get_by_label("Label").fill("billing")
        page.get_by_label("Note").fill("for Ann")
        page.get_by_role("button", name="Show the command").click()
        page.get_by_role("heading", name="Create the claim").wait_for()
        found += axe_violations(viewer, axe, "the claim")
        shown_command(viewer, alone.deployment, tmp_path)
        viewer.go("/connections/orders")
        part("#claims tbody tr", has_text="for Ann").wait_for()

        page.get_by_role("link", name="Push an update").click()
        page.get_by_label("Target").fill("127.0.0.1:10")
        page.get_by_role("button", name="Show the command").click()
        page.get_by_role("heading", name="Push the update").wait_for()
        found += axe_violations(viewer, axe, "the update")
        shown_command(viewer, alone.deployment, tmp_path)
        viewer.go("/connections/orders")
        part("#updates", has_text="1 of 1").wait_for()

        page.get_by_role("link", name="Roll a key of connector").click()
        page.get_by_role("heading", name="Roll this key?", level=1).wait_for()
        found += axe_violations(viewer, axe, "the roll")
        page.get_by_role("button", name="Roll the key").click()
        assert "Programs are being given the new key" in page.get_by_role("status").first.inner_text()
        connector.wait_for_line("connection-string.reloaded|key.kept|Only this key is in use now", where="err")
        html = part("html")
        scroll, width = html.evaluate("html => [html.scrollWidth, html.clientWidth]")
        assert scroll <= width, "wider than the screen"
    assert found == []
