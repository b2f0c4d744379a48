"""Editions: the part of the page "Scale" that shows them, and the page for changing one."""

from __future__ import annotations

from ...http import RequestError, Response
from ...relay.limits import LISTENERS_PER_CONNECTION
from ..quotas import EditionList, EditionValue
from .forms import NOTHING_ENTERED, Entered, refused, version_untrusted
from .html import Child, Element, h
from .layout import View, redirect
from .limits import (
    LIMIT_FIELDS,
    connections_field,
    limit_cells,
    limit_columns,
    limit_fields,
    parse_edition,
)
from .messages import done
from .page import Page
from .parts import api_line, badge, button, linked, post_form, section, table
from .shown import count, name_of, segment
from .visit import Visit

__all__ = ["EDITION_PAGES", "edition_choice", "editions_section"]

_API = "/v1/editions"
_EMPTY = (
    f"An empty field means no limit, except for listeners, of which a hybrid connection may have "
    f"{LISTENERS_PER_CONNECTION} by default. "
    "If a new limit is lower than what is in use, nothing ends because of that, with one exception: sessions end if "
    "you choose so below, and the GB of the month are used up."
)


def edition_choice(editions: EditionList, chosen: str, none: str) -> Element:
    """Make an input with which one of the editions is chosen.

    Args:
        editions: all editions.
        chosen: the name of the current edition; empty if there is none.
        none: the text of the option for no edition.
    """
    options = [h("option", none, value="", selected=not chosen)]
    options += [h("option", one.name, value=one.name, selected=one.name == chosen) for one in editions.value]
    return h(
        "div",
        h("label", "Edition", for_="field-edition"),
        h("select", options, id="field-edition", name="edition"),
        class_="field",
    )


def editions_section(visit: Visit, editions: EditionList) -> list[Child]:
    """Make the parts of the page "Scale" about editions."""
    in_use = next((one.name for one in editions.value if one.in_use), "")
    rows: list[list[Child]] = [
        [
            [h("b", name_of(one.name)), " ", badge("In use", "good") if one.in_use else None],
            *(
                linked(text, f"{_API}/{segment(one.name)}")
                for text in (
                    "no limit" if one.connections is None else count(one.connections),
                    *limit_cells(one.limits),
                )
            ),
            h(
                "a",
                "Change",
                href=f"/scale/editions/{segment(one.name)}",
                class_="button quiet",
                aria_label=f"Change {one.name}",
            )
            if visit.is_admin
            else None,
        ]
        for one in editions.value
    ]
    columns = ("Edition", "Hybrid connections", *limit_columns(), "")
    use = post_form("/scale/edition", h("div", edition_choice(editions, in_use, "None"), button("Use"), class_="row"))
    return [
        section(
            "Edition of this relay",
            h("p", "This relay uses ", h("b", in_use or "no edition"), "."),
            h(
                "p",
                "The edition of a relay limits how many hybrid connections it has, and how many bytes it moves for "
                "all of them together in a month.",
                class_="note",
            ),
            use if visit.is_admin else None,
            api_line(visit, "/v1/relay/edition"),
            id_="edition",
            live=False,
        ),
        section(
            "Editions",
            table("Editions", columns, rows, numeric=range(1, 7)),
            api_line(visit, _API),
            id_="editions",
            note="Named sets of limits. The relay can use one of them, and so can each hybrid connection.",
        ),
    ]


def _form(found: EditionValue, version: str, entered: Entered = NOTHING_ENTERED) -> Element:
    return post_form(
        f"/scale/editions/{segment(found.name)}",
        h("p", _EMPTY),
        connections_field(found.connections, entered),
        limit_fields(found.limits, unset="Default: refuse new sessions", entered=entered),
        button("Save", kind="primary"),
        version=version,
    )


async def _show(visit: Visit) -> View:
    name = visit.param("edition")
    found, version = await visit.get_versioned("getEdition", EditionValue, edition=name)
    form = _form(found, str(version or 0))
    return View(
        title=f"Edition {name}",
        place="/scale",
        parents=(("/scale", "Scale"),),
        is_live=False,
        content=(
            h("div", form if visit.is_admin else None, api_line(visit, f"{_API}/{segment(name)}"), class_="card"),
        ),
    )


async def _change(visit: Visit) -> View | Response:
    form, name = visit.form(), visit.param("edition")
    version = form.get("version", "")
    try:
        await visit.perform("putEdition", body=parse_edition(form), version=version_untrusted(form), edition=name)
    except RequestError as exc:
        refusal = refused(exc, form, LIMIT_FIELDS)
        found, newest = await visit.get_versioned("getEdition", EditionValue, edition=name)
        version = str(newest or 0) if refusal.is_outdated else version
        return refusal.view(
            f"Edition {name}",
            _form(found, version, refusal.entered),
            place="/scale",
            parents=(("/scale", "Scale"), (f"/scale/editions/{segment(name)}", name)),
        )
    return redirect(done("/scale", "edition-changed"))


async def _use(visit: Visit) -> Response:
    form = visit.form()
    await visit.perform("putEditionOfRelay", body={"edition": form.get("edition") or None})
    return redirect(done("/scale", "edition-used"))


EDITION_PAGES: tuple[Page, ...] = (
    Page(id="showEdition", method="GET", path="/scale/editions/{edition}", show=_show),
    Page(id="sendEdition", method="POST", path="/scale/editions/{edition}", show=_change),
    Page(id="sendEditionOfRelay", method="POST", path="/scale/edition", show=_use),
)
