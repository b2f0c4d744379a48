"""Which Unix sockets an entry of a policy is about. Pure."""

from __future__ import annotations

import posixpath

import attrs

from .._value import Value
from ..security.targets import check_unix_path

__all__ = ["PathPattern", "parse_path"]


@attrs.frozen
class PathPattern(Value):
    """Which Unix sockets an entry of a policy is about."""

    #: The path of a socket; or if `is_directory`, that of a directory, with a final slash.
    path: str
    is_directory: bool = False

    def fits(self, path: str) -> bool:
        """Return whether it is about the socket at a path."""
        return path.startswith(self.path) if self.is_directory else path == self.path


def parse_path(text: str) -> PathPattern:
    """Parse what follows ``unix:``: a path, ``/directory/*`` or ``*``.

    Raises:
        ValueError: it is not valid, or could never match anything.
    """
    if text == "*":
        return PathPattern("/", is_directory=True)
    is_directory = text.endswith("/*")
    path = check_unix_path(text.removesuffix("/*"))
    # It is compared with paths that have no symbolic links, so nothing else could ever match.
    if posixpath.normpath(path) != path or path.startswith("//"):
        raise ValueError("write the path without . and .. and double slashes")
    return PathPattern(f"{path}/" if is_directory else path, is_directory)
