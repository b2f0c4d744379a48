"""The lines of a hosts file (hosts(5)) that belong to this program. Pure.

1. They are in one block between two marker lines, at the end of the file. Each line of the block has a mark of its
   own, so that it is recognized even where a marker line is missing.
2. All other bytes of the file stay as they are, even if they are not text. If the last line has no end, one is
   added before the block, and the first marker line says so. The added end is removed together with the block, unless
   there are lines after the block by then.
3. Removing the block needs only the file. Any number of blocks, and parts of them, are removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import attrs

__all__ = ["HostsLine", "lines_in", "other_lines", "with_lines", "without_lines"]

_BEGIN = b"# BEGIN hybridrelay: written by 'hybridrelay hosts apply', do not edit"
#: Like `_BEGIN`, if the line above it had no end.
_BEGIN_WITH_END = (
    b"# BEGIN hybridrelay, after a line without an end: written by 'hybridrelay hosts apply', do not edit"
)
_END = b"# END hybridrelay"
_MARK = b"# hybridrelay"
_LINE = re.compile(rb"([0-9A-Fa-f.:]+)\t([A-Za-z0-9._-]+)\t# hybridrelay")


@attrs.frozen
class HostsLine:
    """A name, and the address that it has."""

    address: str
    name: str


def lines_in(content: bytes) -> tuple[HostsLine, ...]:
    """Return the lines of a hosts file that belong to this program."""
    matches = (_LINE.fullmatch(line.rstrip(b"\r\n")) for line in _split(content))
    return tuple(HostsLine(one[1].decode("ascii"), one[2].decode("ascii")) for one in matches if one is not None)


def with_lines(content: bytes, lines: Sequence[HostsLine]) -> bytes:
    """Return the content of a hosts file with these lines, instead of those that belonged to this program before.

    Args:
        content: the current content.
        lines: if there are none, the result has no block.
    """
    content = without_lines(content)
    if not lines:
        return content
    end = b"\r\n" if content.partition(b"\n")[0].endswith(b"\r") else b"\n"
    is_open = content != b"" and not content.endswith(b"\n")
    block = [_BEGIN_WITH_END if is_open else _BEGIN, *(_format(line) for line in lines), _END]
    return content + (end if is_open else b"") + b"".join(line + end for line in block)


def without_lines(content: bytes) -> bytes:
    """Return the content of a hosts file without what belongs to this program."""
    kept: list[bytes] = []
    # How many lines had been kept before the line end that was added, and that line end.
    added: tuple[int, bytes] | None = None
    for line in _split(content):
        bare = line.rstrip(b"\r\n")
        if bare == _BEGIN_WITH_END:
            added = len(kept), line[len(bare) :]
        elif bare not in (_BEGIN, _END) and _LINE.fullmatch(bare) is None:
            kept.append(line)
    # If others have added lines after the block, they need the line end.
    if added is not None and kept and added[0] == len(kept):
        kept[-1] = kept[-1].removesuffix(added[1])
    return b"".join(kept)


def other_lines(content: bytes, names: Collection[str]) -> Iterable[tuple[int, str]]:
    """Return where other lines already have one of these names: the number of the line, and the name.

    Args:
        content: the content of the file.
        names: in lower case.
    """
    for number, line in enumerate(_split(content), 1):
        if _LINE.fullmatch(line.rstrip(b"\r\n")) is None:
            for word in line.partition(b"#")[0].split()[1:]:
                name = word.decode("latin-1").lower().removesuffix(".")
                if name in names:
                    yield number, name


def _split(content: bytes) -> list[bytes]:
    # Not `splitlines`, which also splits at a carriage return alone.
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _format(line: HostsLine) -> bytes:
    return f"{line.address}\t{line.name}\t".encode("ascii") + _MARK
