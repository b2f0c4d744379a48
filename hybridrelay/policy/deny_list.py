"""Parsing a deny list. A line that can be read in several ways denies everything that it may mean.

A label may contain almost any character, so a line that looks like a list of labels may also be one label. Such a
line denies the label that equals the whole line as well as each of its parts, and causes a warning. A
misunderstanding can thus deny too much, but never admit an identity that was meant to be denied.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

import attrs

from .._text_files import numbered_lines, strip_blanks, strip_value
from .._value import Value
from ..errors import ConfigurationError
from ..security import check_label
from ..security.identity import format_serial

#: How many entries one event shows, how many warnings are reported individually, and at how many of its ``#`` a line
#: may end.
MAX_SHOWN = 20
#: Serials of certificates have about 40 hexadecimal digits; one with fewer than this was probably cut off.
_FULL_SERIAL = 30

#: A field of the audit log: its name, then a label or a serial.
_FIELD = re.compile(r"(?:label|serial)\s*[=:]\s*(?P<value>.+)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[,;]")
#: Characters around an entry in lists of other formats: bullets, brackets, and quotes, one of which may be missing.
_BULLETS = "-*+\u2022\u2013 "
_AROUND = "[]\"'\u201c\u201d\u2018\u2019\u201e "
_QUOTES = "\"'\u201c\u201d\u2018\u2019\u201e"
_LIKE_A_SERIAL = re.compile(r"0x[0-9a-f]|[0-9a-f]{2}[:][0-9a-f]{1,2}(?:[:.\s]|$)|[0-9a-f]{16}", re.IGNORECASE)


@attrs.frozen
class DenyList(Value):
    """The content of a deny list."""

    #: Labels and serials (upper case hexadecimal) of identities that are denied.
    names: frozenset[str] = frozenset()
    #: The entries as shown to people: a label unchanged, a serial as ``serial 3F...``.
    entries: frozenset[str] = frozenset()
    #: The number of each line, what it says, and the labels and serials that it denies.
    lines: tuple[tuple[int, str, frozenset[str]], ...] = ()
    #: Sentences about lines that may not mean what was intended.
    warnings: tuple[str, ...] = ()


def parse_deny_list(text: str) -> DenyList:
    """Parse a deny list: a label or a serial on each line, optionally in quotes; ``#`` begins a comment.

    A serial may contain colons, spaces or hyphens, have any case, and begin with zeros. If a line can be read in
    several ways (a label may contain ``#``, commas or quotes), every reading is denied. A label in a pair of quotes
    is not split.

    Raises:
        ConfigurationError: a line is neither a label nor a serial; the message has its number. The line is not
            skipped, because that might admit an identity.
    """
    lines: list[tuple[int, str, frozenset[str]]] = []
    entries: set[str] = set()
    warnings: list[str] = []
    for number, line in numbered_lines(text):
        if not line:
            continue
        readings = list(_readings(line))
        parts: list[str] = []
        if not line.startswith("#"):
            if not _is_label(readings[0]):
                raise ConfigurationError(
                    f"line {number} is neither a label nor a serial",
                    remedy="write one label or serial on each line, as the audit log shows it",
                )
            parts = _parts(line)
            entries.update(map(_entry, parts or readings[:1]))
            if parts and (len(parts) > 1 or not _FIELD.fullmatch(readings[0])):
                shown = ", ".join(map(_quoted, parts[:MAX_SHOWN]))
                warnings.append(
                    f"line {number} looks like a list, or has an extra character: {shown} "
                    f"{'is' if len(parts) == 1 else 'are'} denied, and so is a label that equals the whole line. "
                    "Write one label or serial on each line; put a label with such characters in double quotes"
                )
            if any(map(_is_cut_off, parts or readings[:1])):
                warnings.append(
                    f"line {number} looks like an incomplete serial, which denies no identity: copy the whole serial "
                    "from the audit log"
                )
        names = {unicodedata.normalize("NFC", one) for one in (*readings, *parts) if _is_label(one)}
        lines.append((number, line, frozenset(names.union(filter(None, map(_serial, (*readings, *parts)))))))
    if len(warnings) > MAX_SHOWN:
        warnings[MAX_SHOWN:] = [f"{len(warnings) - MAX_SHOWN} further warnings"]
    every_name = frozenset[str]().union(*(names for _, _, names in lines))
    return DenyList(every_name, frozenset(entries), tuple(lines), tuple(warnings))


def shorten(entries: Iterable[str]) -> tuple[str, ...]:
    """Return the entries, sorted. If there are more than `MAX_SHOWN`, the last element says how many were left
    out."""
    ordered = sorted(entries)
    more = (f"and {len(ordered) - MAX_SHOWN} more",) if len(ordered) > MAX_SHOWN else ()
    return (*ordered[:MAX_SHOWN], *more)


def _entry(text: str) -> str:
    return _serial_entry(text) or text


def _quoted(text: str) -> str:
    return _serial_entry(text) or repr(text)


def _serial_entry(text: str) -> str | None:
    serial = _serial(text)
    return f"serial {serial}" if serial and _LIKE_A_SERIAL.match(text) else None


def _readings(line: str) -> Iterator[str]:
    """Yield the possible readings of a line as one label or serial, the most likely first."""
    hashes = [match.start() for match in re.finditer("#", line)]
    cuts = [line[:at] for at in hashes[:MAX_SHOWN]]
    for candidate in (_without_comment(line), *cuts, line):
        yield strip_value(candidate)
        yield strip_blanks(candidate)


def _without_comment(line: str) -> str:
    return re.split(r"\s#", line, maxsplit=1)[0]


def _parts(line: str) -> list[str]:
    """Return the labels and serials in a line that looks like a list or like a field of a log; otherwise none."""
    text = strip_blanks(_without_comment(line))
    value = strip_value(text)
    if value != text and not set(value) & set(_QUOTES):
        return []  # a pair of quotes: one label, whatever it contains
    found = []
    for part in _SEPARATOR.split(text):
        bare = strip_blanks(part).lstrip(_BULLETS).strip(_AROUND)
        if field := _FIELD.fullmatch(bare):
            bare = field["value"].strip(_AROUND)
        if bare and _is_label(bare):
            found.append(bare)
    return [] if found == [value] else found


def _is_label(text: str) -> bool:
    try:
        check_label(text)
    except ValueError:
        return False
    return True


def _is_cut_off(text: str) -> bool:
    return bool(_LIKE_A_SERIAL.match(text)) and len(_serial(text) or "") < _FULL_SERIAL


def _serial(text: str) -> str | None:
    digits = re.sub(r"[:\s-]", "", text).lower().removeprefix("0x")
    return format_serial(int(digits, 16)) if re.fullmatch(r"[0-9a-f]{1,64}", digits) else None
