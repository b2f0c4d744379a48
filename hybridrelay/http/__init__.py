"""A small HTTP/1.1 server on h11 and Trio.

`Router` is a table of `Route`s; a `Service` is a router with `Limits` and hooks; `serve_connection` serves it on one
connection, and `serve` on listeners. ``docs/http.md`` shows how to add a route.

Modules without I/O: `target`, `router`, `head`, `forwarded`, `chunked`, `encoding`, `persistence`, `response`,
`failure`, `limits`. Modules with I/O: `wire`, `body`, `exchange`, `connection`, `server`.
"""

from __future__ import annotations

from .body import Body, ClientGone
from .connection import Upgraded, refuse_connection, serve_connection
from .failure import Failure, RenderFailure, RequestError, plain_text, problem_json
from .forwarded import client_address, forwarded_for, forwarded_scheme
from .head import Headers
from .limits import Limits
from .request import Handler, Reply, Request
from .response import Fields, Response, Send, StreamedResponse, SwitchProtocols, text_response
from .router import Route, Router
from .server import Hold, Prepare, serve
from .service import Access, Service
from .stopping import Stop
from .target import Authority, decode_segment

__all__ = [
    "Access",
    "Authority",
    "Body",
    "ClientGone",
    "Failure",
    "Fields",
    "Handler",
    "Headers",
    "Hold",
    "Limits",
    "Prepare",
    "RenderFailure",
    "Reply",
    "Request",
    "RequestError",
    "Response",
    "Route",
    "Router",
    "Send",
    "Service",
    "Stop",
    "StreamedResponse",
    "SwitchProtocols",
    "Upgraded",
    "client_address",
    "decode_segment",
    "forwarded_for",
    "forwarded_scheme",
    "plain_text",
    "problem_json",
    "refuse_connection",
    "serve",
    "serve_connection",
    "text_response",
]
