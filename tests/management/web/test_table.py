"""The table of pages, the headers that all of them have, and the files that they need."""

from __future__ import annotations

import gzip
import hashlib
import re

import pytest

from hybridrelay.management.web.assets import ASSETS, url_of
from hybridrelay.management.web.page import PublicPage
from hybridrelay.management.web.table import PAGES

from ..conftest import path_of
from ..managed_relay import Relay
from .browser import Browser, page_of

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


def test_an_id_and_a_path_are_there_once() -> None:
    assert len({page.id for page in PAGES}) == len({(page.method, page.path) for page in PAGES}) == len(PAGES)
    assert {page.method for page in PAGES} <= {"GET", "POST"}, "forms have no others"


async def test_only_some_pages_are_for_everybody(browser: Browser) -> None:
    public = {page.id for page in PAGES if isinstance(page, PublicPage)}
    assert public == {"showLogIn", "logIn", "logOut", "getFile"}
    for page in PAGES:
        if page.id not in public:
            answer = await browser.request(page.method, path_of(page.path), Sec_Fetch_Site="same-origin")
            assert answer.status == (303 if page.method == "GET" else 401), page.id


async def test_every_page_has_the_headers(relay: Relay, browser: Browser) -> None:
    await browser.log_in(relay.token()[1])
    for page in PAGES:
        if page.id == "getFile":
            continue
        answer = await browser.request(page.method, path_of(page.path), Sec_Fetch_Site="same-origin")
        assert answer.status < 500, page.id
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        if answer.headers.get("content-type", "").startswith("text/html"):
            shown = page_of(answer)
            assert not [tag for tag, attributes in shown.tags if tag == "style" or "style" in attributes]
            assert all(one["src"] for one in shown.all("script")), "no inline script"
            assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("name", sorted(ASSETS))
async def test_a_file_is_served_under_the_hash_of_its_content(browser: Browser, name: str) -> None:
    url = url_of(name)
    plain = await browser.get(url)
    assert plain.status == 200
    assert hashlib.sha256(plain.body).hexdigest()[:16] in url
    assert plain.headers["content-type"].partition(";")[0] in {
        "text/css", "text/javascript", "image/svg+xml", "text/plain",
    }  # fmt: skip
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["vary"] == "Accept-Encoding"
    small = await browser.get(url, Accept_Encoding="br, GZIP;q=0.5")
    assert small.headers["content-encoding"] == "gzip"
    assert gzip.decompress(small.body) == plain.body
    assert len({plain.headers["etag"], small.headers["etag"]}) == 2
    assert re.fullmatch(r'"[0-9a-f]{32}"', plain.headers["etag"])
    for etag, encoding in ((plain.headers["etag"], "identity"), (small.headers["etag"], "gzip")):
        again = await browser.get(url, If_None_Match=f'"x", {etag}', Accept_Encoding=encoding)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    refused = await browser.get(url, Accept_Encoding="gzip;q=0")
    assert "content-encoding" not in refused.headers


def test_the_files_of_others_are_as_they_were_published() -> None:
    """The files are those of uPlot 1.6.32 as published: ``dist`` and ``LICENSE`` of its package."""
    published = {
        "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
        "uplot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    }
    assert {name: hashlib.sha256(ASSETS[name].data).hexdigest() for name in published} == published
    assert b"v1.6.32" in ASSETS["uplot.js"].data
    assert b"MIT License" in ASSETS["uplot.LICENSE.txt"].data


@pytest.mark.parametrize("path", ["/assets/app.css", "/assets/..%2Fapp.css", "/assets/x", "/assets/%00"])
async def test_files_that_do_not_exist(browser: Browser, path: str) -> None:
    assert (await browser.get(path)).status == 404


async def test_an_address_can_ask_for_files_only_so_often(browser: Browser) -> None:
    statuses = [(await browser.get(url_of("app.css"))).status for _ in range(130)]
    assert statuses[:100] == [200] * 100
    assert 429 in statuses


async def test_the_first_view_is_small(relay: Relay, browser: Browser) -> None:
    """Everything that a browser loads to show the dashboard with a hundred hybrid connections."""
    for number in range(100):
        relay.store.create(f"department/{number}/" + "x" * 40, ["relay.example.com"], [])
    await browser.log_in(relay.token()[1])
    answer = await browser.get("/")
    assert answer.status == 200
    page, total = page_of(answer), len(answer.body)
    files = {*(one["href"] for one in page.all("link")), *(one["src"] for one in page.all("script"))}
    files |= {one["src"] for one in page.all("img")}
    assert len(files) >= 3
    for file in files:
        assert file is not None
        loaded = await browser.get(file, Accept_Encoding="gzip")
        assert loaded.status == 200
        total += len(loaded.body)
    assert total < 100_000
