"""The head (status line and headers) of a proxy's answer to CONNECT: finding its end, and removing headers. Pure.

A successful answer to CONNECT has no content, so Transfer-Encoding and Content-Length in it have to be ignored (RFC
9110, section 9.3.6). The same holds for interim answers (1xx; RFC 9112, section 6.3), which are skipped. In any other
answer, the two headers give the length of the content; if they are invalid, the content ends with the connection, and
the connection cannot be used for another request. h11, which parses the heads, would reject such answers, so the two
headers are removed first.
"""

from __future__ import annotations

import re

#: The longest head of an answer (bytes): enough for a Negotiate token with 12 KiB of Base64, and a bound on
#: memory.
MAX_HEAD_BYTES = 16 * 1024

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] (?P<status>[0-9]{3})(?: |\r?\n)")
# One of the two headers, with its continuation lines.
_FRAMING = re.compile(rb"(?im)^(?:transfer-encoding|content-length)[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*")


def head_size_untrusted(data: bytes | bytearray) -> int | None:
    """Return how many bytes of `data` are the head, including the empty line at its end; None if it is incomplete.

    Raises:
        ValueError: the head is longer than `MAX_HEAD_BYTES`.
    """
    match = _END.search(data, 0, MAX_HEAD_BYTES)
    if match is not None:
        return match.end()
    if len(data) > MAX_HEAD_BYTES:
        raise ValueError("the head of the answer is too long")
    return None


def status_untrusted(head: bytes) -> int:
    """Return the status of an answer.

    Raises:
        ValueError: this is not the beginning of an HTTP/1.0 or HTTP/1.1 answer, or the status is 101 (Switching
            Protocols), which was not requested.
    """
    match = _STATUS.match(head)
    if match is None or match["status"] == b"101":
        raise ValueError("not an answer of HTTP/1")
    return int(match["status"])


def without_framing(head: bytes) -> bytes:
    """Return the head without Transfer-Encoding and Content-Length."""
    return _FRAMING.sub(b"", head)
