"""The parts that all pages have in common: the head, the navigation, and the headers of the response."""

from __future__ import annotations

import attrs
import msgspec

from ..._value import Value
from ..._version import __version__
from ...http import Fields, Response
from ...security import ManagementRole
from ..callers import Caller
from .assets import url_of
from .html import Child, Element, Tree, h, render_document, tree_of
from .messages import message_of
from .paths import Parents
from .visit import Visit

__all__ = ["SECURITY_HEADERS", "View", "page_response", "plain_page", "redirect"]

#: Nothing is loaded from other servers, no script or style is inline, and scripts cannot turn text into HTML.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY_HEADERS: Fields = (
    ("Content-Security-Policy", _CSP),
    ("X-Content-Type-Options", "nosniff"),
    # Not "no-referrer": with that, browsers send "Origin: null" with forms.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_HTML = ("Content-Type", "text/html; charset=utf-8")

_PAGES = (
    ("/", "Dashboard"),
    ("/connections", "Connections"),
    ("/monitor", "Monitor"),
    ("/scale", "Scale"),
    ("/events", "Events"),
    ("/audit", "Audit"),
)
#: For administrators of the whole relay.
_ADMIN_PAGES = (("/tokens", "Tokens"),)


@attrs.frozen(kw_only=True)
class View(Value):
    """A page, without the parts that all pages have in common."""

    title: str
    #: The content below the heading.
    content: tuple[Child, ...]
    #: The path of the entry in the navigation to which the page belongs.
    place: str
    #: The pages above this one, as paths and names, which are shown above the heading.
    parents: Parents = ()
    #: What is shown beside the heading.
    actions: Child = None
    #: Whether the title is a name from outside, such as that of a hybrid connection.
    is_named: bool = False
    #: Whether the page's script follows events, and requests the parts of the page that change.
    is_live: bool = True
    #: Further scripts and style sheets, by their names in ``static``.
    files: tuple[str, ...] = ()
    status: int = 200
    headers: Fields = ()


def page_response(visit: Visit, view: View) -> Response:
    """Return the response with a page; for the page's script, only with those of its parts that change."""
    if view.is_live and "application/json" in (visit.request.headers.get("accept") or ""):
        found: dict[str, Tree] = {}
        _collect((view.actions, view.content), found)
        data = msgspec.json.encode(found)
        return Response(view.status, data, (("Content-Type", "application/json"), *SECURITY_HEADERS, *view.headers))
    title = h("bdi", view.title) if view.is_named else view.title
    main = h(
        "main",
        h(
            "nav",
            [h("a", h("bdi", name), href=path) for path, name in view.parents],
            aria_label="Breadcrumb",
            class_="parents",
        )
        if view.parents
        else None,
        h("div", h("h1", title), view.actions, class_="page-head"),
        _message(visit),
        view.content,
        id="main",
        tabindex=-1,
    )
    following = f"/v1/events?since={visit.managed.feed.last}" if view.is_live else None
    document = _document(view.title, _header(visit.caller, view.place), main, view.files, following)
    return Response(view.status, render_document(document), (_HTML, *SECURITY_HEADERS, *view.headers))


def plain_page(title: str, *content: Child, status: int = 200, headers: Fields = ()) -> Response:
    """Return the response with a page for users who have not logged in."""
    header = h("header", h("div", _brand(), class_="bar"))
    main = h("main", h("h1", title), content, id="main", tabindex=-1, class_="narrow")
    document = _document(title, header, main, (), None)
    return Response(status, render_document(document), (_HTML, *SECURITY_HEADERS, *headers))


def redirect(path: str, headers: Fields = ()) -> Response:
    """Return a redirect to another page."""
    return Response(303, headers=(("Location", path), *SECURITY_HEADERS, *headers))


def _collect(child: Child, found: dict[str, Tree]) -> None:
    """Collect the parts that have the attribute ``data-live``."""
    if child is None or isinstance(child, (str, int)):
        return
    if not isinstance(child, Element):
        for one in child:
            _collect(one, found)
        return
    attributes = dict(child.attributes)
    if "data-live" in attributes:
        found[attributes["id"]] = tree_of(child)
    else:
        for one in child.children:
            _collect(one, found)


def _document(title: str, header: Element, main: Element, files: tuple[str, ...], following: str | None) -> Element:
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"{title} · hybridrelay"),
        h("link", rel="icon", href=url_of("icon.svg"), type="image/svg+xml"),
        h("link", rel="stylesheet", href=url_of("app.css")),
        [_file(name) for name in (*files, "app.js")],
    )
    body = h(
        "body",
        h("a", "Skip to content", href="#main", class_="skip"),
        header,
        # Shown by the page's script while the page is not up to date.
        h("section", id="banner", hidden=True, class_="banner", aria_label="Relay") if following else None,
        main,
        h(
            "footer",
            f"hybridrelay {__version__} · ",
            h("a", "API description", href="/openapi.json"),
            h("span", " · Times are in UTC", id="zone"),
        ),
        h("div", id="announcements", class_="unseen", role="status"),
        data_events=following,
    )
    return h("html", head, body, lang="en")


def _file(name: str) -> Element:
    if name.endswith(".css"):
        return h("link", rel="stylesheet", href=url_of(name))
    # The script that is not a module defines names for the others. Both kinds run after parsing, in document order.
    is_module = name != "uplot.js"
    return h("script", src=url_of(name), type="module" if is_module else None, defer=not is_module)


def _brand() -> Element:
    return h(
        "a", h("img", src=url_of("icon.svg"), alt="", width=22, height=22), "hybridrelay", href="/", class_="brand"
    )


def _header(caller: Caller, place: str) -> Element:
    is_admin = caller.may(ManagementRole.ADMIN) and caller.sees(None)
    links = [
        h("li", h("a", name, href=path, aria_current="page" if path == place else None))
        for path, name in (*_PAGES, *(_ADMIN_PAGES if is_admin else ()))
    ]
    scope = caller.scope
    about = "" if scope.is_everything else f", {scope.only or scope.prefix + '…'}"
    return h(
        "header",
        h(
            "div",
            _brand(),
            h(
                "div",
                h(
                    "span",
                    h("bdi", f"{caller.kind} {caller.id}"),
                    f" ({caller.role.name.lower()}{about})",
                    class_="who",
                ),
                h("form", h("button", "Log out", class_="button quiet"), method="post", action="/logout")
                if caller.kind in {"token", "sas"}
                else None,
                class_="account",
            ),
            class_="bar",
        ),
        h("nav", h("ul", links), aria_label="Pages", class_="pages"),
    )


def _message(visit: Visit) -> Element | None:
    text = message_of(visit.asked("done"))
    return None if text is None else h("p", text, class_="message", role="status")
