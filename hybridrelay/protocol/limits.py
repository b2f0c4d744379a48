"""Limits of values that occur outside of control messages, too."""

from __future__ import annotations

__all__ = ["MAX_CONNECTION_NAME", "MAX_TOKEN"]

#: The longest name of a hybrid connection (characters), as in the published service.
MAX_CONNECTION_NAME = 260
#: The longest SAS token (characters). Enough for an audience of 260 characters that are all escaped twice. Tokens
#: made by Azure's SDKs have 150 to 400 characters.
MAX_TOKEN = 4096
