"""The type of a function that uses a renewed identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..security import ConnectionString

__all__ = ["UseRenewed"]

#: Uses a connection string with a new identity in place of an earlier one: the first argument is the earlier one.
#: Must not raise or wait.
UseRenewed: TypeAlias = Callable[[ConnectionString, ConnectionString], None]
