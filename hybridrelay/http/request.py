"""What a handler gets, and what it may return."""

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
    """One request. Everything in it is the peer's word."""

    method: str
    #: Percent-encoded, as it was sent.
    path: str
    #: Percent-encoded; None where the target has no question mark.
    query: str | None
    #: Whether the client speaks HTTP/1.1, not HTTP/1.0.
    is_http11: bool
    headers: Headers = attrs.field(repr=False)
    #: The host that the client believes to speak to; None in an HTTP/1.0 request that does not say.
    authority: Authority | None
    #: By name: the segments that the parameters of the route's pattern stand for, percent-encoded. See `param`.
    params: Mapping[str, str]
    body: Body = attrs.field(repr=False)
    #: What the caller of `serve_connection` knows of the peer, such as who it is.
    peer: object = attrs.field(repr=False)
    #: Set when the server is about to end.
    stop: Stop = attrs.field(repr=False)

    def param(self, name: str, convert: Callable[[str], T] = decode_segment) -> T:  # type: ignore[assignment]
        """A parameter of the path, converted.

        Args:
            name: as in the route's pattern.
            convert: gets the percent-encoded segment, and raises ValueError where no resource can have that name.

        Raises:
            RequestError: 404, because of that ValueError.
        """
        try:
            return convert(self.params[name])
        except ValueError as exc:
            raise RequestError(Failure(404, "there is nothing here")) from exc


#: What a handler returns.
Reply = Response | StreamedResponse | SwitchProtocols | Failure
#: Serves requests of one route. It may raise `RequestError` to refuse one. Any other exception is a bug: the client
#: gets 500, the connection is closed, and `Service.on_crash` is called.
Handler = Callable[[Request], Awaitable[Reply]]
