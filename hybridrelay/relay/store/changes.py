"""What has changed in a store since an earlier time, so that a reader need not read everything again."""

from __future__ import annotations

from typing import Final

import attrs

from ..._value import Value
from ..model import HybridConnection

__all__ = ["KEPT_DELETIONS", "Changes", "Mark"]

#: How many deletions a store remembers. A reader that has missed more of them reads everything again. The
#: trigger in `schema` has the same number.
KEPT_DELETIONS: Final = 1000


@attrs.frozen
class Mark(Value):
    """How much of a store's changes somebody has read."""

    #: All changes of hybrid connections up to this version (`HybridConnection.version`) were read.
    version: int
    #: All deletions up to the one with this number were read.
    deletion: int


@attrs.frozen
class Changes(Value):
    """A part of what has changed since a mark, or everything.

    When all parts have been applied, the result is the content of the store. The state between two parts is not
    necessarily one in which the store ever was, except for each single hybrid connection.
    """

    #: Hybrid connections that were created or changed, as they are now; or all.
    changed: tuple[HybridConnection, ...]
    #: The names of hybrid connections that were deleted and do not exist now.
    deleted: tuple[str, ...]
    #: Where the next part begins.
    mark: Mark
    #: Whether `changed` has all hybrid connections, so that all others were deleted.
    is_everything: bool = False
    #: Whether there is another part.
    has_more: bool = False
