"""Trees of HTML: whatever text there is in them, it stays text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.management.web.html import h, render, render_document, tree_of

from .browser import Page

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' autofocus onfocus=alert(1) x='",
    "</title></textarea><svg/onload=alert(1)>",
    "a/b?c=d#e&amp;f%2Fg",
    "x" * 260,
    "\u202egnp.exe\u2066\u200f",
    "javascript:alert(1)",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    page = Page(render(h("p", h("a", text, href="/x", title=text, data_name=text))).encode())
    assert page.tags == [("p", {}), ("a", {"href": "/x", "title": text, "data-name": text})]
    assert "".join(page.texts) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=40))
def test_any_text_stays_text(text: str) -> None:
    page = Page(render(h("p", text, title=text)).encode())
    assert [tag for tag, _ in page.tags] == ["p"]
    assert (page.tags[0][1]["title"] or "") == tree_of(h("p", title=text))[1]["title"]  # type: ignore[call-overload,index]


def test_control_characters_are_replaced() -> None:
    assert render(h("p", "a\x00b\x9b\n", title="\x1b[2J")) == '<p title="\ufffd[2J">a\ufffdb\ufffd\n</p>'
    assert render_document(h("p", "\ud800")) == "<!doctype html>\n<p>\ufffd</p>\n".encode()


def test_noncharacters_of_all_planes_are_replaced() -> None:
    for plane in range(17):
        first = plane * 0x10000
        assert render(h("p", f"{chr(first + 0xFFFE)}{chr(first + 0xFFFF)}")) == "<p>\ufffd\ufffd</p>"
        assert render(h("p", chr(first + 0xFFFD))) == f"<p>{chr(first + 0xFFFD)}</p>"
    assert render(h("p", "\U00010000\U0001f600")) == "<p>\U00010000\U0001f600</p>"


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "//evil.example", "/\\evil.example", "https://evil.example", " /x", "data:x", "x"]
)
@pytest.mark.parametrize("name", ["href", "src", "action", "formaction"])
def test_links_lead_to_this_server(name: str, url: str) -> None:
    with pytest.raises(ValueError, match="does not lead to this server"):
        h("a", **{name: url})


@pytest.mark.parametrize("name", ["onclick", "style", "srcdoc", "x y", "X", '"'])
def test_attributes_that_a_page_does_not_have(name: str) -> None:
    with pytest.raises(ValueError, match="no attribute"):
        h("p", **{name: "x"})


@pytest.mark.parametrize("tag", ["style", "iframe", "base", "p onclick", "P", ""])
def test_elements_that_a_page_does_not_have(tag: str) -> None:
    with pytest.raises(ValueError, match="no element"):
        h(tag)
    with pytest.raises(ValueError, match="no children"):
        h("script", "alert(1)")


def test_children_and_attributes_are_rendered() -> None:
    element = h(
        "ul", None, [h("li", 1), ["two", [h("br")]]], class_="a", hidden=True, open=False, id=None, aria_label="x"
    )
    assert render(element) == '<ul class="a" hidden aria-label="x"><li>1</li>two<br></ul>'
    assert json.loads(json.dumps(tree_of(element))) == [
        "ul",
        {"class": "a", "hidden": "", "aria-label": "x"},
        [["li", {}, ["1"]], "two", ["br", {}, []]],
    ]
