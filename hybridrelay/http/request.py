"""What a handler receives, and what it may return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import attrs

from .body import Body
from .failure import Failure, RequestError
from .head import Headers
from .response import Response, StreamedResponse, SwitchProtocols
from .stopping import Stop
from .target import Authority, decode_segment

__all__ = ["Handler", "Reply", "Request"]

T = TypeVar("T")


@attrs.frozen(eq=False)
class Request:
    """One request. Everything in it, except `peer` and `stop`, was chosen by the client."""

    method: str
    #: The path as it was sent, percent-encoded.
    path: str
    #: The query, percent-encoded; None if the target has no question mark.
    query: str | None = attrs.field(repr=False)
    #: Whether the client speaks HTTP/1.1 or a later minor version.
    is_http11: bool
    headers: Headers = attrs.field(repr=False)
    #: The host that the request is for; None only in HTTP/1.0, where it is optional.
    authority: Authority | None
    #: The parameters of the route's pattern by name, percent-encoded. See `param`.
    params: Mapping[str, str]
    body: Body = attrs.field(repr=False)
    #: What the caller of `serve_connection` knows about the peer, such as its identity.
    peer: object = attrs.field(repr=False)
    #: The server's shutdown signal. Responses that never end by themselves should end when it is set.
    stop: Stop = attrs.field(repr=False)

    def param(self, name: str, convert: Callable[[str], T] = decode_segment) -> T:  # type: ignore[assignment]
        """Convert and return a parameter of the path.

        Args:
            name: the parameter's name in the route's pattern.
            convert: converts the percent-encoded segment. Raises ValueError if no resource can have that name.

        Raises:
            RequestError: 404, if `convert` raised ValueError.
        """
        try:
            return convert(self.params[name])
        except ValueError as exc:
            raise RequestError(Failure(404, "there is nothing here")) from exc


#: What a handler returns.
Reply = Response | StreamedResponse | SwitchProtocols | Failure
#: Serves the requests of one route. It may raise `RequestError` to refuse a request. Any other exception is a bug:
#: the client gets 500, the connection is closed, and `Service.on_crash` is called.
Handler = Callable[[Request], Awaitable[Reply]]
