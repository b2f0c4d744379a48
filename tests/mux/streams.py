"""Streams of a pair of sessions."""

from __future__ import annotations

from hybridrelay.mux import MuxStream, Session


async def open_stream(client: Session, server: Session) -> tuple[MuxStream, MuxStream]:
    """A stream that the server has accepted: the client's end, and the server's."""
    ours = client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    await ours.wait_opened()
    return ours, theirs
