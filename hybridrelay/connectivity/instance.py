"""The instance of a process: the id by which relays and clients know it, and the secret that proves it."""

from __future__ import annotations

import secrets

import attrs

from ..protocol import control

__all__ = ["OwnInstance", "new_instance"]


@attrs.frozen
class OwnInstance:
    """An instance of which this process holds the secret. Only relays are shown the secret, and only by connectors.

    Raises:
        ValueError: the secret does not have the form that `new_instance` gives it.
    """

    secret: control.InstanceSecret = attrs.field(repr=False)
    #: The id that everybody else sees.
    id: control.Instance = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "id", control.instance_of(self.secret))


def new_instance() -> OwnInstance:
    """A new instance: one for each process, and never used again."""
    return OwnInstance(secrets.token_hex(control.INSTANCE_SECRET_SIZE))
