"""Finds the client's address, and whether it uses TLS, if a trusted reverse proxy has forwarded a request."""

from __future__ import annotations

import attrs

from ..events.relay import ForwardedAddressMalformed
from ..events.stream import EventStream
from ..http import Handler, Reply, Request, Route, client_address, forwarded_for, forwarded_scheme
from .peers import Peer

__all__ = ["for_client_address"]


def for_client_address(route: Route[Handler], events: EventStream) -> Route[Handler]:
    """Return the same route, with a handler that gets the client's address as the peer's (`Peer.trusted_proxies`).

    Args:
        route: its handler is called with requests whose peer is a `Peer`.
        events: the stream for an event that says that a trusted proxy has sent something other than addresses.
    """

    async def handle(request: Request) -> Reply:
        return await route.handler(_from_client_address(request, events))

    return attrs.evolve(route, handler=handle)


def _from_client_address(request: Request, events: EventStream) -> Request:
    assert isinstance(request.peer, Peer)
    peer = request.peer
    if not peer.trusted_proxies.covers(peer.address):
        return request
    scheme = forwarded_scheme(request.headers)
    if scheme is not None:
        peer = attrs.evolve(peer, is_encrypted=scheme == "https")
    try:
        address = client_address(peer.address, forwarded_for(request.headers), peer.trusted_proxies.covers)
    except ValueError as exc:
        events.publish(ForwardedAddressMalformed(peer=peer.address, port="management", detail=str(exc)))
        address = peer.address
    return (
        request
        if peer == request.peer and address == peer.address
        else attrs.evolve(request, peer=attrs.evolve(peer, address=address))
    )
