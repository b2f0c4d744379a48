"""The routing table: finds the handler for a method and a path. No I/O.

Rules:

1. Paths are compared as they were sent, percent-encoded, segment by segment. An encoded slash (``%2F``) belongs to
   its segment. An empty segment is a segment: ``/a`` and ``/a/`` are different.
2. ``{name}`` in a pattern matches exactly one segment that is not empty. Its value stays percent-encoded until the
   handler decodes it (`Request.param`).
3. The most specific matching pattern is used. Patterns are compared from left to right; a literal segment is more
   specific than a parameter. If the pattern has no route for the method, the answer is 405, even if a less specific
   pattern has one.
4. A route for GET also serves HEAD; the server leaves out the body. OPTIONS is answered with the methods of the
   pattern, unless there is a route for it.
5. A method that is unknown in HTTP and not used by any route is answered with 501. Any other method that is not
   allowed is answered with 405.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import attrs

from .._value import Value
from .failure import Failure
from .target import Form, Target

__all__ = ["Allowed", "Match", "Route", "Router"]

#: The type of handlers. Covariant: a route whose handler returns a `Response` is also a route whose handler returns a
#: `Reply`.
H_co = TypeVar("H_co", covariant=True)

#: Methods that a server recognizes: RFC 9110 section 9, PATCH (RFC 5789), QUERY. CONNECT is left out, because this
#: server is not a proxy.
_RECOGNIZED = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_METHOD = re.compile(r"[A-Z][A-Z\-]*")
_PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
# The characters that RFC 3986 allows in a segment.
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-F]{2})*")


@attrs.frozen
class Route(Generic[H_co]):
    """One row of the table.

    Raises:
        ValueError: the method or the pattern is malformed.
    """

    #: The method in upper case.
    method: str
    #: ``/v1/things/{name}``.
    pattern: str
    handler: H_co
    #: The largest body that is accepted (bytes); None means `Limits.max_body_bytes`.
    max_body_bytes: int | None = attrs.field(default=None, kw_only=True)
    #: Whether the handler and its streamed response are cancelled when the client ends its sending. For long polls
    #: and event streams. Such a route does not answer a client that half-closes its connection, or that meanwhile
    #: sends `Limits.read_bytes` or more of further requests.
    until_client_leaves: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise ValueError(f"{self.method!r} is not a method")
        if not self.pattern.startswith("/"):
            raise ValueError(f"the pattern {self.pattern!r} does not begin with a slash")
        names = [match[1] for segment in self.segments if (match := _PARAMETER.fullmatch(segment))]
        if len(set(names)) != len(names):
            raise ValueError(f"the pattern {self.pattern!r} has a parameter twice")
        for segment in self.segments:
            if not (_PARAMETER.fullmatch(segment) or _LITERAL.fullmatch(segment)):
                raise ValueError(f"the pattern {self.pattern!r} has a malformed segment")

    @property
    def segments(self) -> list[str]:
        """The parts between the slashes."""
        return self.pattern[1:].split("/")


@attrs.frozen
class Match(Generic[H_co]):
    """The route that serves a request, and the values of its parameters, percent-encoded."""

    route: Route[H_co]
    params: Mapping[str, str]


@attrs.frozen
class Allowed(Value):
    """The answer to OPTIONS if no route serves it."""

    #: The methods in alphabetical order.
    methods: tuple[str, ...]


@attrs.define
class _Node(Generic[H_co]):
    """Patterns that begin with the same segments."""

    literals: dict[str, _Node[H_co]] = attrs.field(factory=dict)
    parameter: _Node[H_co] | None = None
    #: The routes whose pattern ends here, by method.
    routes: dict[str, Route[H_co]] = attrs.field(factory=dict)
    #: The names of each route's parameters and the indexes of their segments, by method.
    names: dict[str, list[tuple[str, int]]] = attrs.field(factory=dict)


class Router(Generic[H_co]):
    """Routes by path and method.

    Args:
        routes: the table, in any order.

    Raises:
        ValueError: two routes are for the same method and the same paths.
    """

    def __init__(self, routes: Iterable[Route[H_co]]) -> None:
        self.routes = tuple(routes)
        self._root: _Node[H_co] = _Node()
        for route in self.routes:
            self._add(route)
        self._methods = tuple(sorted({"OPTIONS"}.union(*(_methods(node.routes) for node in _nodes(self._root)))))

    def _add(self, route: Route[H_co]) -> None:
        node = self._root
        for segment in route.segments:
            if _PARAMETER.fullmatch(segment):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"two routes for {route.method} {route.pattern}")
        node.routes[route.method] = route
        places = enumerate(route.segments)
        node.names[route.method] = [(match[1], at) for at, name in places if (match := _PARAMETER.fullmatch(name))]

    def resolve(self, method: str, target: Target) -> Match[H_co] | Allowed | Failure:
        """Find the route that serves a request, or the answer if there is none."""
        if method not in _RECOGNIZED and method not in self._methods:
            return Failure(501, "this server does not know the method")
        if target.scheme not in {None, "http", "https"}:
            return Failure(404, "this server has http and https URLs only")
        if target.form is Form.ASTERISK:
            return Allowed(self._methods)
        segments = target.path[1:].split("/")
        node = _find(self._root, segments, 0)
        if node is None:
            return Failure(404, "there is nothing here")
        served = "GET" if method == "HEAD" and "HEAD" not in node.routes else method
        if (route := node.routes.get(served)) is not None:
            return Match(route, {name: segments[at] for name, at in node.names[served]})
        allowed = tuple(sorted(_methods(node.routes)))
        if method == "OPTIONS":
            return Allowed(allowed)
        return Failure(405, "this method is not allowed here", (("Allow", ", ".join(allowed)),))


def _find(node: _Node[H_co], segments: list[str], index: int) -> _Node[H_co] | None:
    # Each node is visited at most once, so the size of the table bounds the work.
    if index == len(segments):
        return node if node.routes else None
    segment = segments[index]
    if (literal := node.literals.get(segment)) is not None:
        found = _find(literal, segments, index + 1)
        if found is not None:
            return found
    if segment and node.parameter is not None:
        return _find(node.parameter, segments, index + 1)
    return None


def _methods(routes: Mapping[str, Route[H_co]]) -> set[str]:
    return {*routes, "OPTIONS", *({"HEAD"} if "GET" in routes else ())}


def _nodes(node: _Node[H_co]) -> Iterable[_Node[H_co]]:
    if node.routes:
        yield node
    for child in node.literals.values():
        yield from _nodes(child)
    if node.parameter is not None:
        yield from _nodes(node.parameter)
