"""The ids by which sessions and streams are followed through the logs of client and connector. Pure.

Both sides compute the same ids, so that nothing needs to be sent. The relay knows neither id. It has an id for each
rendezvous, which it sends to both sides; the events about sessions contain this id too.
"""

from __future__ import annotations

import hashlib

__all__ = ["session_activity_id", "stream_activity_id"]


def session_activity_id(session_id: bytes, serial: str) -> str:
    """Return the id of a session in events: 16 lower-case hexadecimal digits.

    Args:
        session_id: the id in the session's HELLO. Only its hash is shown.
        serial: the serial of the application's identity. It is part of the hash so that an application that reuses a
            session id confuses only the log lines about itself.
    """
    return hashlib.sha256(b"hybridrelay session\n" + session_id + serial.encode()).hexdigest()[:16]


def stream_activity_id(session: str, stream: int) -> str:
    """Return the id of a stream in events: the id of its session, and its number in the session."""
    return f"{session}-{stream}"
