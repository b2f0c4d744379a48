"""The table of routes."""

from __future__ import annotations

import pytest

from hybridrelay.http import Failure, Route, Router
from hybridrelay.http.router import Allowed, Match
from hybridrelay.http.target import parse_target_untrusted

TABLE = Router(
    [
        Route("GET", "/", "root"),
        Route("GET", "/v1/things", "list"),
        Route("GET", "/v1/things/{name}", "get"),
        Route("PUT", "/v1/things/{thing}", "put"),
        Route("DELETE", "/v1/things/{name}", "delete"),
        Route("POST", "/v1/things/{name}/rules/{rule}/listKeys", "keys"),
        Route("GET", "/v1/things/special", "special"),
        Route("GET", "/v1/{kind}/special/{rest}", "deep"),
        Route("OPTIONS", "/own", "own options"),
        Route("HEAD", "/own", "own head"),
        Route("GET", "/own", "own"),
        Route("PURGE", "/cache", "purge"),
        Route("GET", "/with/", "slash"),
    ]
)


def resolve(method: str, target: str) -> Match[str] | Allowed | Failure:
    return TABLE.resolve(method, parse_target_untrusted(method, target))


@pytest.mark.parametrize(
    ("method", "target", "handler", "params"),
    [
        ("GET", "/", "root", {}),
        ("GET", "/?a=b", "root", {}),
        ("GET", "http://x", "root", {}),
        ("HEAD", "/", "root", {}),
        ("GET", "/v1/things", "list", {}),
        ("GET", "/v1/things/a", "get", {"name": "a"}),
        ("GET", "/v1/things/a%2Fb", "get", {"name": "a%2Fb"}),
        ("PUT", "/v1/things/a", "put", {"thing": "a"}),
        ("GET", "/v1/things/special", "special", {}),
        ("GET", "/v1/things/speci%61l", "get", {"name": "speci%61l"}),
        ("GET", "/v1/things/special/x", "deep", {"kind": "things", "rest": "x"}),
        ("POST", "/v1/things/a/rules/b/listKeys", "keys", {"name": "a", "rule": "b"}),
        ("OPTIONS", "/own", "own options", {}),
        ("HEAD", "/own", "own head", {}),
        ("PURGE", "/cache", "purge", {}),
        ("GET", "/with/", "slash", {}),
    ],
)
def test_a_request_gets_the_handler_of_its_route_with_the_parameters(
    method: str, target: str, handler: str, params: dict[str, str]
) -> None:
    match = resolve(method, target)

    assert isinstance(match, Match)
    assert (match.route.handler, match.params) == (handler, params)


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("GET", "/v1", 404, None),
        ("GET", "/v1/things/", 404, None),
        ("GET", "/V1/things", 404, None),
        ("GET", "/%761/things", 404, None),
        ("GET", "/v1//things", 404, None),
        ("GET", "//", 404, None),
        ("GET", "ftp://x/", 404, None),
        ("OPTIONS", "ftp://x", 404, None),
        ("GET", "/with", 404, None),
        ("GET", "/v1/things/a/b", 404, None),
        ("GET", "/v1/things/a/rules//listKeys", 404, None),
        ("OPTIONS", "/nowhere", 404, None),
        ("POST", "/v1/things/a", 405, "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("DELETE", "/v1/things/special", 405, "GET, HEAD, OPTIONS"),
        ("TRACE", "/", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/cache", 405, "OPTIONS, PURGE"),
        ("get", "/", 501, None),
        ("BREW", "/", 501, None),
        ("BREW", "/nowhere", 501, None),
        ("CONNECT", "x:443", 501, None),
    ],
)
def test_a_request_without_a_route_is_refused_with_the_methods_that_exist(
    method: str, target: str, status: int, allow: str | None
) -> None:
    failure = resolve(method, target)

    assert isinstance(failure, Failure)
    assert failure.status == status
    assert dict(failure.headers).get("Allow") == allow


@pytest.mark.parametrize(
    ("target", "methods"),
    [
        ("/v1/things/a", ("DELETE", "GET", "HEAD", "OPTIONS", "PUT")),
        ("/cache", ("OPTIONS", "PURGE")),
        ("*", ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PURGE", "PUT")),
    ],
)
def test_options_are_answered_with_the_methods_that_exist(target: str, methods: tuple[str, ...]) -> None:
    assert resolve("OPTIONS", target) == Allowed(methods)


@pytest.mark.parametrize(
    "routes",
    [
        [Route("GET", "/a", ""), Route("GET", "/a", "")],
        [Route("GET", "/{a}", ""), Route("GET", "/{b}", "")],
    ],
)
def test_no_two_routes_for_the_same(routes: list[Route[str]]) -> None:
    with pytest.raises(ValueError, match="two routes"):
        Router(routes)


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("get", "/"),
        ("", "/"),
        ("GET", "a"),
        ("GET", ""),
        ("GET", "/{A}"),
        ("GET", "/{a}b"),
        ("GET", "/{a}/{a}"),
        ("GET", "/a b"),
        ("GET", "/a%2f"),
        ("GET", "/a?b"),
    ],
)
def test_a_malformed_route_is_refused(method: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"method|pattern"):
        Route(method, pattern, "")


def test_deep_paths_cost_no_more_than_the_table() -> None:
    table = Router([Route("GET", "/{a}/{b}/{c}/x", ""), Route("GET", "/a/a/a/{d}/y", "")])

    target = parse_target_untrusted("GET", "/a" * 4000)
    assert table.resolve("GET", target) == Failure(404, "there is nothing here")
