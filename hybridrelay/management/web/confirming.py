"""Pages that ask whether to do something that ends connections or cannot be undone."""

from __future__ import annotations

from .html import Child, Element, h
from .layout import View
from .paths import Parents

__all__ = ["confirmation"]


def confirmation(title: str, form: Element, *content: Child, parents: Parents) -> View:
    """Make such a page.

    Args:
        title: the question.
        form: does it, with a button.
        content: what will happen.
        parents: see `View.parents`. The link to cancel leads to the last one.
    """
    (place, _), (cancel, _) = parents[0], parents[-1]
    choice = h("div", form, h("a", "Cancel", href=cancel, class_="button"), class_="row")
    card = h("section", *content, choice, class_="card")
    return View(title=title, place=place, parents=parents, is_live=False, content=(card,))
