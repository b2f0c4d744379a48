"""The page "Scale": editions, this relay's capacity, and the drain."""

from __future__ import annotations

from ...http import Response
from ...security import ManagementRole
from ..live_values import Places, RelayValue
from ..quotas import EditionList
from ..usage import RelayUsage
from .confirming import confirmation
from .editions import editions_section
from .html import Child, Element, h
from .layout import View, redirect
from .messages import done
from .page import Page
from .parts import api_line, badge, button, meter, post_form, section
from .shown import count, moment, plural
from .usage import relay_usage_section
from .visit import Visit

__all__ = ["SCALE_PAGES", "capacity_section"]

_RELAY = "/v1/relay"
#: How many hybrid connections are listed with their usage.
_LISTED = 50


async def _show(visit: Visit) -> View:
    relay = await visit.get("getRelay", RelayValue) if visit.caller.sees(None) else None
    if relay is None:
        return View(
            title="Scale",
            place="/scale",
            is_live=False,
            content=(
                h(
                    "section",
                    h(
                        "p",
                        "This page is about the relay as a whole. You may see only some of its hybrid connections.",
                    ),
                    h("p", h("a", "Show your hybrid connections", href="/connections")),
                    class_="card",
                ),
            ),
        )
    return View(
        title="Scale",
        place="/scale",
        content=(
            relay_usage_section(visit, await visit.get("getUsage", RelayUsage, query={"limit": _LISTED})),
            editions_section(visit, await visit.get("listEditions", EditionList)),
            capacity_section(visit, relay),
            _drain(visit, relay),
        ),
    )


def capacity_section(visit: Visit, relay: RelayValue) -> Element:
    """Make the part that shows how many of the relay's places are taken."""

    def bar(label: str, places: Places | None) -> Element | None:
        if places is None:  # this caller may not see it
            return None
        return meter(label, places.used, places.total, f"{count(places.used)} of {count(places.total)}")

    return section(
        "Capacity",
        bar("Pairs of data channels", relay.pairs),
        bar("Control channels", relay.control_channels),
        bar("Connections that have not authenticated", relay.unauthenticated),
        api_line(visit, _RELAY),
        id_="capacity",
        note="For more places, raise LimitNOFILE= in the relay's unit, or add another relay.",
    )


def _drain(visit: Visit, relay: RelayValue) -> Element:
    is_draining = relay.draining_since is not None
    explained: Child
    if is_draining:
        explained = [
            badge("Draining", "warn"),
            " since ",
            moment(relay.draining_since),
            ". ",
            plural(relay.session_count, "session"),
            " left.",
        ]
    else:
        explained = [badge("Serving", "good"), " The relay accepts registrations and joins."]
    actions = None
    if visit.is_operator and is_draining:
        actions = post_form("/scale/accept", button("Accept again", kind="primary"))
    elif visit.is_operator:
        actions = h("a", "Drain", href="/scale/drain", class_="button")
    return section(
        "Drain",
        h("p", explained),
        h(
            "p",
            "A relay that is draining accepts no new registrations and joins. Its sessions continue, and move to "
            "other relays if their clients have any. Drain a relay before you stop it.",
            class_="note",
        ),
        api_line(visit, _RELAY),
        id_="drain",
        actions=actions,
    )


async def _confirm(visit: Visit) -> View:
    visit.require_everything()
    relay = await visit.get("getRelay", RelayValue)
    return confirmation(
        "Drain this relay?",
        post_form("/scale/drain", button("Drain this relay", kind="danger")),
        h(
            "p",
            "No program can register or join at this relay until you undo the drain. ",
            h("b", f"{plural(relay.listener_count, 'listener')} and {plural(relay.session_count, 'session')}"),
            " are at this relay now. Sessions continue, and those whose clients have another relay move there.",
        ),
        parents=(("/scale", "Scale"),),
    )


async def _do_drain(visit: Visit) -> Response:
    await visit.perform("drainRelay")
    return redirect(done("/scale", "draining"))


async def _accept(visit: Visit) -> Response:
    await visit.perform("undoDrainRelay")
    return redirect(done("/scale", "accepting"))


SCALE_PAGES: tuple[Page, ...] = (
    Page(id="showScale", method="GET", path="/scale", show=_show),
    Page(id="confirmDrain", method="GET", role=ManagementRole.OPERATOR, path="/scale/drain", show=_confirm),
    Page(id="sendDrain", method="POST", path="/scale/drain", show=_do_drain),
    Page(id="sendAccept", method="POST", path="/scale/accept", show=_accept),
)
