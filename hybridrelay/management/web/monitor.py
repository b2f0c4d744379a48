"""The page "Monitor": charts of the history, each with a table."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

import trio

from ..values import ConnectionPage
from .charts import CHART_FILES, CHARTS, RANGES, chart_section, charts_div, drawn, start_note
from .html import Element, h
from .layout import View
from .page import Page
from .parts import button, empty
from .paths import path_of
from .visit import Visit

__all__ = ["MONITOR_PAGES"]

#: How many names of hybrid connections the field can suggest.
_LISTED = 200


async def _show(visit: Visit) -> View:
    chosen = visit.asked("range") if visit.asked("range") in RANGES else "1h"
    scale = "relative" if visit.asked("scale") == "relative" else "absolute"
    name = visit.asked("connection", 260)
    shown = await drawn(visit, RANGES[chosen], name)
    names = await visit.get("listHybridConnections", ConnectionPage, query={"limit": _LISTED})
    charts = []
    for chart in CHARTS:
        charts.append(chart_section(visit, chart, shown, scale))
        await trio.lowlevel.checkpoint()
    return View(
        title="Monitor",
        place="/monitor",
        files=CHART_FILES,
        content=(
            _controls(chosen, scale, name, [one.name for one in names.value]),
            h("p", "These charts show ", h("a", h("bdi", name), href=path_of(name)), ".") if name else None,
            None if shown.intervals else _nothing(),
            start_note(shown),
            charts_div(charts, shown, scale),
        ),
    )


def _nothing() -> Element:
    return h(
        "div",
        empty(
            "Nothing happened in this period.",
            "Data appears about ten seconds after a connector has registered or a client has connected.",
        ),
        class_="card",
    )


def _link(label: str, *, is_current: bool, **query: str) -> Element:
    wanted = {key: value for key, value in query.items() if value}
    current = "true" if is_current else None
    return h("a", label, href=f"/monitor?{urllib.parse.urlencode(wanted)}", class_="button", aria_current=current)


def _controls(chosen: str, scale: str, name: str, names: Sequence[str]) -> Element:
    # A text field and not a list, because there may be more hybrid connections than fit into a list.
    wanted = h(
        "input", type="search", id="connection", name="connection", value=name, list="names", maxlength=260,
        placeholder="All hybrid connections",
    )  # fmt: skip
    return h(
        "div",
        h(
            "div",
            [
                _link(one.label, is_current=key == chosen, range=key, scale=scale, connection=name)
                for key, one in RANGES.items()
            ],
            class_="tabs",
            role="group",
            aria_label="Time",
        ),
        h(
            "div",
            [
                _link(label, is_current=key == scale, range=chosen, scale=key, connection=name)
                for key, label in (("absolute", "Absolute"), ("relative", "Relative"))
            ],
            class_="tabs",
            role="group",
            aria_label="Scale",
        ),
        h(
            "form",
            h("input", type="hidden", name="range", value=chosen),
            h("input", type="hidden", name="scale", value=scale),
            h("label", "Hybrid connection", for_="connection", class_="unseen"),
            wanted,
            h("datalist", [h("option", value=one) for one in names], id="names"),
            button("Show"),
            class_="inline-form",
        ),
        class_="card controls",
    )


MONITOR_PAGES: tuple[Page, ...] = (Page(id="showMonitor", method="GET", path="/monitor", show=_show),)
