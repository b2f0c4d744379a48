"""A browser as far as a relay sees it: cookies, forms, and the headers about where a request comes from."""

from __future__ import annotations

import json
import urllib.parse
from html.parser import HTMLParser
from typing import Any

import attrs

from hybridrelay.http import Request

from ...http.serving import Answer
from ..conftest import Api
from ..managed_relay import Relay

FORM = "application/x-www-form-urlencoded"


@attrs.define
class Browser:
    """A browser that shows pages of a relay, over one connection."""

    api: Api
    cookies: dict[str, str] = attrs.field(factory=dict)

    async def request(self, method: str, path: str, body: bytes = b"", /, **headers: str) -> Answer:
        """One request, with the cookies that the browser has."""
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self.api.client.request(method, path, body, **headers)
        if "set-cookie" in answer.headers:
            pair, *attributes = answer.headers["set-cookie"].split("; ")
            name, _, value = pair.partition("=")
            self.cookies.pop(name, None)
            if "Max-Age=0" not in attributes:
                self.cookies[name] = value
        return answer

    async def get(self, path: str, /, **headers: str) -> Answer:
        """Follow a link, or enter an address."""
        return await self.request("GET", path, **headers)

    async def post(self, path: str, *, site: str | None = "same-origin", origin: str = "", **fields: str) -> Answer:
        """Send a form."""
        headers = {"Content_Type": FORM}
        if site is not None:
            headers["Sec_Fetch_Site"] = site
        if origin:
            headers["Origin"] = origin
        return await self.request("POST", path, urllib.parse.urlencode(fields).encode(), **headers)

    async def log_in(self, header: str, next_: str = "/") -> Answer:
        """Log in with what would be in the Authorization header."""
        return await self.post("/login", token=header.removeprefix("Bearer "), next=next_)


def browser_of(relay: Relay) -> Browser:
    """A browser with an address, which has not logged in."""
    return Browser(relay.connect())


class Page(HTMLParser):
    """What is in a page."""

    def __init__(self, text: bytes) -> None:
        super().__init__(convert_charrefs=True)
        #: Each start tag with its attributes.
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text.decode())
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All text."""
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements with this tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        """Where links lead."""
        return [attributes["href"] or "" for attributes in self.all("a")]

    @property
    def actions(self) -> list[str]:
        """Where forms are sent."""
        return [attributes["action"] or "" for attributes in self.all("form") if attributes.get("method") == "post"]

    @property
    def fields(self) -> dict[str, str]:
        """What the inputs of all forms send, by their names."""
        return {attributes["name"] or "": attributes["value"] or "" for attributes in self.all("input")}


def page_of(answer: Answer) -> Page:
    """The page in a response."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.body)


def parts_of(answer: Answer) -> dict[str, Any]:
    """The parts of a page that change, as its script gets them."""
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = json.loads(answer.body)
    return found


def a_request(method: str = "GET", host: str = "x", **headers: str) -> Request:
    """A request that was never sent."""
    from hybridrelay.http import Headers
    from hybridrelay.http.target import parse_authority_untrusted

    fields = [(name.replace("_", "-").lower(), value) for name, value in headers.items()]
    return Request(method, "/", None, True, Headers(fields), parse_authority_untrusted(host), {}, None, None, None)  # type: ignore[arg-type]
