"""The head of a proxy's answer to CONNECT: where it ends, and without the headers that do not count in it. Pure.

RFC 9110, section 9.3.6: a successful answer to CONNECT has no content, so Transfer-Encoding and Content-Length in it
are to be ignored, whatever they say. The same holds for interim answers (1xx, RFC 9112, section 6.3), which do not
count at all. In any other answer the two say how long the content is; where they make no sense, the content ends with
the connection, and only that connection cannot be used any more. h11, which parses the rest, refuses all of these
answers.
"""

from __future__ import annotations

import re

#: The longest head of an answer (bytes): a Negotiate token of 12 KiB fits, an attack on memory does not.
MAX_HEAD_BYTES = 16 * 1024

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] (?P<status>[0-9]{3})(?: |\r?\n)")
# A header, with the lines that continue it.
_FRAMING = re.compile(rb"(?im)^(?:transfer-encoding|content-length)[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*")


def head_size_untrusted(data: bytes | bytearray) -> int | None:
    """How many bytes of `data` are the head, the empty line at its end included; None: it is not complete.

    Raises:
        ValueError: it is longer than `MAX_HEAD_BYTES`.
    """
    match = _END.search(data, 0, MAX_HEAD_BYTES + 1)
    if match is not None:
        return match.end()
    if len(data) > MAX_HEAD_BYTES:
        raise ValueError("the head of the answer is too long")
    return None


def status_untrusted(head: bytes) -> int:
    """The status of an answer.

    Raises:
        ValueError: it does not begin as an answer of HTTP/1.0 or HTTP/1.1 does; or it changes the protocol (101),
            which was not asked for.
    """
    match = _STATUS.match(head)
    if match is None or match["status"] == b"101":
        raise ValueError("not an answer of HTTP/1")
    return int(match["status"])


def without_framing(head: bytes) -> bytes:
    """The head without Transfer-Encoding and Content-Length."""
    return _FRAMING.sub(b"", head)
