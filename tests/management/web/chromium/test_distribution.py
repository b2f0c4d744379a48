"""Claims, key rolls and updates on the page of a hybrid connection, in a browser."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ....deployments import Program, Published
from .conftest import Dashboard, axe_script, axe_violations, viewer_of

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
