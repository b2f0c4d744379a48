"""The messages that a page shows after an action. Pure.

After a form was submitted, the browser is redirected to a page whose query contains the key of a message, never its
text.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["done", "message_of"]

_MESSAGES: Mapping[str, str] = {
    "logged-out": "You have logged out.",
    "listener-dropped": "The listener was dropped. It may register again after 30 seconds.",
    "listener-drained": "The listener is drained: it is offered no new sessions.",
    "listener-accepting": "The listener is offered new sessions again.",
    "not-changed": "Nothing was changed: the listener is no longer registered, or was already in this state.",
    "sender-dropped": "The sender was dropped. It opens another control channel when it needs one.",
    "session-dropped": "The session's data channels were dropped. The client resumes the session if it can.",
    "had-ended": "It had already ended. Nothing was dropped.",
    "rule-added": "The rule was added, with two new keys.",
    "rule-deleted": "The rule was deleted. Everything that its keys had authorized has ended.",
    "key-regenerated": "The key was replaced. Everything that the old key had authorized has ended.",
    "key-rolled": "Programs are being given the new key. The section Key rolls lists those that do not have it yet.",
    "key-revoked": "The key was revoked. Everything that it had authorized has ended.",
    "claim-revoked": "The claim was revoked. Nobody can take it now.",
    "connection-disabled": "The hybrid connection is disabled. Everything that used it has ended.",
    "connection-enabled": "The hybrid connection is enabled. Its connector registers again within a minute.",
    "connection-changed": "The hybrid connection was changed.",
    "connection-deleted": "The hybrid connection was deleted.",
    "draining": "The relay is draining: it accepts no new registrations and joins.",
    "accepting": "The relay accepts registrations and joins again.",
    "edition-used": "The relay uses this edition from now on.",
    "limits-changed": "The limits were changed. They take effect within a second.",
    "edition-changed": "The edition was changed.",
    "token-revoked": "The token was revoked.",
}


def message_of(key: str) -> str | None:
    """Return the message with this key; None if there is none."""
    return _MESSAGES.get(key)


def done(path: str, key: str) -> str:
    """Return the path of a page that shows the message with this key."""
    assert key in _MESSAGES
    return f"{path}?done={key}"
