"""Parts that several pages have: sections, tables, figures, buttons, and the API call behind what is shown."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .html import Child, Element, h
from .visit import Visit

__all__ = [
    "api_line",
    "badge",
    "button",
    "command",
    "empty",
    "field",
    "figure",
    "figures",
    "meter",
    "post_form",
    "section",
    "table",
]


def section(
    title: str, *content: Child, id_: str, note: Child = None, actions: Child = None, live: bool = True
) -> Element:
    """A part of a page with a heading.

    Args:
        title: the heading.
        content: below it.
        id_: unique in the page.
        note: a sentence below the heading.
        actions: buttons beside the heading.
        live: whether the page's script keeps it up to date.
    """
    return h(
        "section",
        h("div", h("h2", title, id=f"{id_}-title"), actions, class_="section-head"),
        None if note is None else h("p", note, class_="note"),
        content,
        id=id_,
        class_="card",
        aria_labelledby=f"{id_}-title",
        data_live=live,
    )


def figure(label: str, value: Child, *, href: str, note: Child = None) -> Element:
    """A number with what it means; a link to the API call that it comes from."""
    return h(
        "div",
        h("dt", label),
        h(
            "dd",
            h("a", value, href=href, title=f"GET {href}", class_="number"),
            h("span", note, class_="sub") if note else None,
        ),
        class_="figure",
    )


def figures(*found: Element, id_: str, live: bool = True) -> Element:
    """Several numbers side by side."""
    return h("dl", found, class_="figures", id=id_, data_live=live)


def meter(label: str, used: int, total: int, text: str) -> Element:
    """How much of something is in use, as a bar with its numbers."""
    return h(
        "div",
        h("span", label, class_="meter-label"),
        h("meter", text, min=0, max=max(total, 1), high=max(1, int(total * 0.9)), value=used, aria_label=label),
        h("span", text, class_="meter-text"),
        class_="meter",
    )


def badge(text: str, kind: str = "plain") -> Element:
    """A short word about a state. `kind` is ``good``, ``bad``, ``warn`` or ``plain``."""
    return h("span", text, class_=f"badge {kind}")


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Child]], *, numeric: Sequence[int] = ()
) -> Element:
    """A table. On narrow screens, each row is a block with the names of its columns.

    Args:
        caption: what it is, for those who do not see it.
        columns: their names; an empty one is for buttons.
        rows: the content.
        numeric: the indexes of columns with numbers.
    """
    kinds = ["number-cell" if index in numeric else None for index in range(len(columns))]
    head = [
        h("th", name or h("span", "Actions", class_="unseen"), scope="col", role="columnheader", class_=kind)
        for name, kind in zip(columns, kinds, strict=True)
    ]
    body = [
        h(
            "tr",
            [_cell(cell, name, kind) for cell, name, kind in zip(row, columns, kinds, strict=True)],
            role="row",
        )
        for row in rows
    ]
    return h(
        "table",
        h("caption", caption, class_="unseen"),
        h("thead", h("tr", head, role="row"), role="rowgroup"),
        h("tbody", body, role="rowgroup"),
        role="table",
    )


def _cell(content: Child, name: str, kind: str | None) -> Element:
    if not name:
        return h("td", content, role="cell", class_="actions-cell")
    # One element, because on narrow screens the name of the column stands beside it.
    inner = None if content in ("", None) else h("div", content)
    return h("td", inner, role="cell", data_label=name, class_=kind)


def empty(text: Child, *what_next: Child) -> Element:
    """Says that there is nothing, and what to do next."""
    return h("div", h("p", text), [h("p", one, class_="note") for one in what_next], class_="empty")


def field(
    label: str,
    name: str,
    value: str = "",
    *,
    hint: str = "",
    type_: str = "text",
    required: bool = False,
    **more: str | int | bool | None,
) -> Element:
    """A labelled input of a form."""
    hint_id = f"hint-{name}" if hint else None
    return h(
        "div",
        h("label", label, for_=f"field-{name}"),
        h(
            "input",
            id=f"field-{name}",
            name=name,
            type=type_,
            value=value,
            required=required,
            aria_describedby=hint_id,
            **more,
        ),
        h("p", hint, class_="hint", id=hint_id) if hint else None,
        class_="field",
    )


def button(text: str, *, kind: str = "plain", label: str | None = None) -> Element:
    """The button that sends a form. `label` is for those who do not see what is around it."""
    return h("button", text, type="submit", class_=f"button {kind}", aria_label=label)


def post_form(action: str, *content: Child, **hidden: str | int) -> Element:
    """A form that changes something."""
    inputs = [h("input", type="hidden", name=name, value=value) for name, value in hidden.items()]
    return h("form", inputs, content, method="post", action=action)


def command(text: str, label: str) -> Element:
    """A command line to copy. It is reached by keyboard, because it may be wider than the screen."""
    return h(
        "div", h("pre", h("code", text), tabindex=0, role="group", aria_label=label), class_="command", data_copy=True
    )


def api_line(visit: Visit, *paths: str) -> Element:
    """The API calls behind a part of a page, and how to make them with curl."""
    return h(
        "details",
        h("summary", "API"),
        [
            h("div", h("p", h("a", f"GET {path}", href=path)), command(_curl(visit, path), f"curl for {path}"))
            for path in paths
        ],
        None if visit.is_local else h("p", "token.header has one line: Authorization: Bearer TOKEN", class_="hint"),
        class_="api",
    )


def _curl(visit: Visit, path: str) -> str:
    if visit.is_local:
        return f'curl --unix-socket "$STATE/management.sock" {shlex.quote("http://localhost" + path)}'
    url = f"{visit.scheme}://{visit.request.authority}{path}"
    return f"curl -H @token.header {shlex.quote(url)}"
