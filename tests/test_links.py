"""Links between the pages of the documentation lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("hybridrelay/**/*.md")])

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    found: Counter[str] = Counter()
    names = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def links(text: str) -> list[str]:
    """The links of a page that lead to another page, or to another place of the same one."""
    prose = _CODE.sub("`code`", _FENCED.sub("", text))
    return [link for link in _LINK.findall(prose) if not re.match(r"\w+:", link)]


def test_there_are_pages_and_links() -> None:
    assert len(PAGES) > 15
    assert sum(len(links(page.read_text())) for page in PAGES) > 300
    assert anchors("# A `b` (c), d\n## A b c d\n```\n# no\n```\n") == {"a-b-c-d", "a-b-c-d-1"}
    assert links("[a](b.md#c) `[d](e)` [f](https://example.com) [g](#h)") == ["b.md#c", "#h"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_to_a_heading_of_it(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []
