"""Parts that several pages have: sections, tables, numbers, buttons, and the API calls behind them."""

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
    "identity",
    "linked",
    "meter",
    "post_form",
    "section",
    "table",
]


def section(
    title: str, *content: Child, id_: str, note: Child = None, actions: Child = None, live: bool = True
) -> Element:
    """Make a part of a page, with a heading.

    Args:
        title: the heading.
        content: the content below the heading.
        id_: an id that is unique in the page.
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
    """Make a number with its label, which links to the API call that returns it."""
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


def linked(number: str, href: str) -> Element:
    """Make a number in a table, which links to the API call that returns it."""
    return h("a", number, href=href)


def figures(*found: Element, id_: str, live: bool = True) -> Element:
    """Make a row of numbers."""
    return h("dl", found, class_="figures", id=id_, data_live=live)


def meter(label: str, used: int, total: int, text: str) -> Element:
    """Make a bar that shows how much of something is in use, with the numbers."""
    return h(
        "div",
        h("span", label, class_="meter-label"),
        h("meter", text, min=0, max=max(total, 1), high=max(1, int(total * 0.9)), value=used, aria_label=label),
        h("span", text, class_="meter-text"),
        class_="meter",
    )


def badge(text: str, kind: str = "plain") -> Element:
    """Make a label with the name of a state. `kind` is ``good``, ``bad``, ``warn`` or ``plain``."""
    return h("span", text, class_=f"badge {kind}")


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Child]], *, numeric: Sequence[int] = ()
) -> Element:
    """Make a table. On narrow screens, each row becomes a block in which the columns have their names.

    Args:
        caption: a description of the table for screen readers.
        columns: the names of the columns; an empty name is for buttons.
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
    # Narrow screens show this element beside the name of the column.
    inner = None if content in ("", None) else h("div", content)
    return h("td", inner, role="cell", data_label=name, class_=kind)


def identity(text: str, *others: tuple[str, str]) -> Element:
    """Make the beginning of a long id, which is shown completely when it is opened.

    Args:
        text: the id.
        others: further ids of the same thing: the name and the text of each.
    """
    return h(
        "details",
        h("summary", h("code", text[:12])),
        h("code", text),
        [[h("p", name, class_="hint"), h("code", other)] for name, other in others],
        class_="id",
    )


def empty(text: Child, *what_next: Child) -> Element:
    """Make the part that says that there is nothing to show, and what to do next."""
    return h("div", h("p", text), [h("p", one, class_="note") for one in what_next], class_="empty")


def field(
    label: str,
    name: str,
    value: str = "",
    *,
    hint: str = "",
    error: str = "",
    type_: str = "text",
    required: bool = False,
    **more: str | int | bool | None,
) -> Element:
    """Make an input of a form, with its label. `error` says what is wrong with its value."""
    hint_id, error_id = f"hint-{name}" if hint else None, f"error-{name}" if error else None
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
            aria_describedby=" ".join(filter(None, (error_id, hint_id))) or None,
            aria_invalid="true" if error else None,
            **more,
        ),
        h("p", error, class_="field-error", id=error_id) if error else None,
        h("p", hint, class_="hint", id=hint_id) if hint else None,
        class_="field",
    )


def button(text: str, *, kind: str = "plain", label: str | None = None) -> Element:
    """Make the button that submits a form. `label` is for screen readers."""
    return h("button", text, type="submit", class_=f"button {kind}", aria_label=label)


def post_form(action: str, *content: Child, **hidden: str | int) -> Element:
    """Make a form that changes something."""
    inputs = [h("input", type="hidden", name=name, value=value) for name, value in hidden.items()]
    return h("form", inputs, content, method="post", action=action)


def command(text: str, label: str) -> Element:
    """Make a command line to copy. It can get the focus, so that keys can scroll it if it is wider than the
    screen."""
    return h(
        "div", h("pre", h("code", text), tabindex=0, role="group", aria_label=label), class_="command", data_copy=True
    )


def api_line(visit: Visit, *paths: str) -> Element:
    """List the API calls behind a part of a page, with the commands that make them with curl."""
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
        return f"curl --unix-socket {visit.state_argument}/management.sock {shlex.quote('http://localhost' + path)}"
    url = f"{visit.scheme}://{visit.request.authority}{path}"
    return f"curl -H @token.header {shlex.quote(url)}"
