"""The address of a Unix socket on which a forward listens."""

from __future__ import annotations

import dataclasses
import os
import re

__all__ = ["UnixAddress", "parse_unix_address"]

_FORM = re.compile(r"unix:(?P<path>.+?)(?:,mode=(?P<mode>[0-7]{3}))?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class UnixAddress:
    """The path of a Unix socket, and who may connect to it. `str()` gives ``unix:/path``."""

    #: Absolute.
    path: str
    #: The mode of its file. The permission to write is the permission to connect.
    mode: int = 0o600

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse_unix_address(text: str) -> UnixAddress:
    """Parse ``unix:/path`` or ``unix:/path,mode=660``.

    Raises:
        ValueError: the text has another form, or the path is not absolute.
    """
    found = _FORM.fullmatch(text)
    if found is None or not os.path.isabs(found["path"]) or "\0" in text or ",mode=" in found["path"]:
        raise ValueError("expected unix:/path/of/the/socket or unix:/path/of/the/socket,mode=660")
    return UnixAddress(found["path"], 0o600 if found["mode"] is None else int(found["mode"], 8))
