"""HTML as a tree: elements with attributes and text. Everything is escaped when it is written. Pure.

Strings from outside, such as the description of a hybrid connection, can only become text or the value of an
attribute. Attributes that run scripts or set styles cannot be used, and links can lead only to this server.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from ..._value import Value

__all__ = ["Child", "Element", "Tree", "h", "render", "render_document", "tree_of"]

#: The content of an element. None is omitted, and the items of a list are inserted in its place.
Child: TypeAlias = "Element | str | int | Iterable[Child] | None"
#: An element as JSON: its tag, attributes and children.
Tree: TypeAlias = "str | list[str | dict[str, str] | list[Tree]]"

_TAG = re.compile(r"[a-z][a-z0-9]*")
_ATTRIBUTE = re.compile(r"(?!on|style$|srcdoc$)[a-z][a-z-]*")
#: Attributes whose value is a URL. It has to begin with a single slash, ? or #, or be empty, so that it leads to this
#: server.
_URLS = frozenset({"action", "formaction", "href", "src"})
_OWN_URL = re.compile(r"/(?![/\\]).*|[?#].*|", re.DOTALL)
#: The elements that HTML calls void: they have neither content nor an end tag.
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
#: The characters that HTML does not allow: controls other than white space, surrogates, and noncharacters. They are
#: replaced with U+FFFD.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    # The last two characters of each plane of Unicode.
    + "".join(chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)


@attrs.frozen
class Element(Value):
    """An element, made with `h`.

    Raises:
        ValueError: a page may not have this tag or one of the attributes, the element may not have children, or a URL
            leads to another server.
    """

    tag: str
    attributes: tuple[tuple[str, str], ...]
    children: tuple[Element | str, ...]

    def __attrs_post_init__(self) -> None:
        _check_tag(self.tag)
        if self.children and (self.tag in _VOID or self.tag == "script"):
            raise ValueError(f"the element {self.tag} has no children here")
        for name, value in self.attributes:
            _check_attribute(name)
            if name in _URLS and not _OWN_URL.fullmatch(value):
                raise ValueError(f"the attribute {name} does not lead to this server")


# The names come from the code of the pages, so there are few of them, and each occurs often.
@functools.cache
def _check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag) or tag in {"style", "base", "object", "embed", "iframe"}:
        raise ValueError(f"a page has no element {tag}")


@functools.cache
def _check_attribute(name: str) -> None:
    if not _ATTRIBUTE.fullmatch(name):
        raise ValueError(f"a page has no attribute {name}")


@functools.cache
def _attribute_of(argument: str) -> str:
    return argument.rstrip("_").replace("_", "-")


def h(tag: str, /, *children: Child, **attributes: str | int | bool | None) -> Element:
    """Make an element.

    Args:
        tag: the name of the element.
        children: the content, in order.
        attributes: the attributes. In a name, an underscore stands for a hyphen, and one at the end is dropped
            (``class_``). With the value True, an attribute has no value; with False or None, it is omitted.

    Raises:
        ValueError: see `Element`.
    """
    pairs = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        pairs.append((_attribute_of(name), "" if value is True else str(value)))
    return Element(tag, tuple(pairs), tuple(_flatten(children)))


def _flatten(children: Iterable[Child]) -> Iterable[Element | str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            yield child
        elif isinstance(child, (str, int)):
            yield _CONTROL.sub("\ufffd", str(child))
        else:
            yield from _flatten(child)


def render(element: Element) -> str:
    """Return the element as HTML."""
    pieces: list[str] = []
    _write(element, pieces)
    return "".join(pieces)


def render_document(root: Element) -> bytes:
    """Return a complete HTML document in UTF-8."""
    return f"<!doctype html>\n{render(root)}\n".encode()


def _write(node: Element | str, pieces: list[str]) -> None:
    if isinstance(node, str):
        pieces.append(html.escape(node))
        return
    pieces.append(f"<{node.tag}")
    for name, value in node.attributes:
        pieces.append(f' {name}="{html.escape(_CONTROL.sub(chr(0xFFFD), value))}"' if value else f" {name}")
    pieces.append(">")
    if node.tag in _VOID:
        return
    for child in node.children:
        _write(child, pieces)
    pieces.append(f"</{node.tag}>")


def tree_of(node: Element | str) -> Tree:
    """Return the element as JSON, for the page's script, which creates the elements one by one."""
    if isinstance(node, str):
        return node
    return [node.tag, dict(node.attributes), [tree_of(child) for child in node.children]]
