"""A strict reader for request bodies in chunked coding (RFC 9112 section 7.1). No I/O.

h11's own reader lets a bare line feed end the trailer section and accepts control characters in extensions. A proxy
in front of the server may see the end of such a body elsewhere, which allows request smuggling. This reader accepts
only what the grammar allows. It drops extensions and trailers, and limits their size.
"""

from __future__ import annotations

import re

from .failure import Failure, RequestError

__all__ = ["ChunkedReader"]

#: 16 digits allow sizes below 2^64 bytes.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
#: The longest line (bytes). Extensions are rare; chunk signatures, which some storage services use, have 85 bytes.
_MAX_LINE = 256
#: How much framing is accepted for the whole body, plus for each byte of payload (bytes). Chunks of one byte, with
#: five bytes of framing each, are accepted; a flood of extensions is not.
_MAX_OVERHEAD = 16 * 1024
_MAX_OVERHEAD_PER_BYTE = 8
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class ChunkedReader:
    """Decodes one chunked body.

    `receive_untrusted` takes received bytes and returns the payload in them. When the body has ended, `is_done` is
    true and `rest` has the bytes that were received after it.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self._after_chunk = False
        self._in_trailers = False
        self._payload = 0
        self._overhead = 0
        self.is_done = False

    @property
    def rest(self) -> bytes:
        """The bytes that were received after the body."""
        return bytes(self._buffer)

    def receive_untrusted(self, data: bytes) -> bytes:
        """Take received bytes and return the payload in them.

        Raises:
            RequestError: 400 if the body is malformed, or has too much framing for its payload.
        """
        self._buffer += data
        payload = bytearray()
        while not self.is_done:
            if self._left:
                piece = self._buffer[: self._left]
                del self._buffer[: self._left]
                payload += piece
                self._payload += len(piece)
                self._left -= len(piece)
                self._after_chunk = not self._left
                if self._left:
                    break
            elif self._after_chunk:
                if len(self._buffer) < 2:
                    break
                if not self._buffer.startswith(b"\r\n"):
                    raise _bad()
                del self._buffer[:2]
                self._after_chunk = False
            elif (line := self._line()) is None:
                break
            else:
                self._process(line)
        return bytes(payload)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, _MAX_LINE + 2)
        if end < 0:
            if len(self._buffer) > _MAX_LINE + 1 or b"\n" in self._buffer:
                raise _bad()
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._overhead += end + 4
        if self._overhead > _MAX_OVERHEAD + _MAX_OVERHEAD_PER_BYTE * self._payload:
            raise RequestError(Failure(400, "the body has too much framing for its length", close=True))
        return line

    def _process(self, line: bytes) -> None:
        if self._in_trailers:
            if not line:
                self.is_done = True
            elif not _TRAILER.fullmatch(line):
                raise _bad()
            return
        size = _SIZE_LINE.fullmatch(line)
        if size is None:
            raise _bad()
        self._left = int(size[1], 16)
        self._in_trailers = not self._left


def _bad() -> RequestError:
    return RequestError(Failure(400, "the chunked body is malformed", close=True))
