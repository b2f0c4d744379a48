"""The page that says why a request was refused or has failed, and what to do about it."""

from __future__ import annotations

from ...http import Failure, Fields, Response
from .html import h
from .layout import View, page_response, plain_page
from .visit import Visit

__all__ = ["failure_page", "sentence"]

_TITLES = {
    401: "You have to log in",
    403: "This is not allowed",
    404: "There is nothing here",
    409: "This was changed in the meantime",
    412: "This was changed in the meantime",
    429: "Too many requests",
    503: "Not available at the moment",
}


def failure_page(failure: Failure, visit: Visit | None) -> Response:
    """Return the page for a failure. `visit` is None if the caller is unknown."""
    remedy, request_id = failure.members.get("remedy"), failure.members.get("requestId")
    errors = failure.members.get("errors")
    details = (
        [str(error.get("detail", "")) for error in errors if isinstance(error, dict)]
        if isinstance(errors, list)
        else []
    )
    title = _TITLES.get(failure.status, "This request failed")
    content = (
        h(
            "section",
            h("p", sentence(failure.detail)),
            h("ul", [h("li", detail) for detail in details]) if details else None,
            h("p", "What to do: ", str(remedy)) if remedy else None,
            h("p", h("a", "Log in", href="/login"))
            if failure.status == 401
            else h("p", h("a", "Back to the dashboard", href="/")),
            h("p", f"Request {request_id}", class_="hint") if request_id else None,
            class_="card failure",
        ),
    )
    headers: Fields = failure.headers
    if visit is None:
        return plain_page(title, *content, status=failure.status, headers=headers)
    view = View(title=title, content=content, place="", is_live=False, status=failure.status, headers=headers)
    return page_response(visit, view)


def sentence(text: str) -> str:
    """Return the detail of a failure as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
