"""The instance of a process: the id by which relays and clients know it, and the secret that proves the id."""

from __future__ import annotations

import secrets

import attrs

from ..protocol import control

__all__ = ["OwnInstance", "new_instance"]


@attrs.frozen
class OwnInstance:
    """An instance whose secret this process knows. Only connectors send the secret, and only to relays.

    Raises:
        ValueError: the secret does not have the form that `new_instance` gives it.
    """

    secret: control.InstanceSecret = attrs.field(repr=False)
    #: The public id.
    id: control.Instance = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "id", control.instance_of(self.secret))


def new_instance() -> OwnInstance:
    """Return a new instance. Each process has its own, and does not reuse it after a restart."""
    return OwnInstance(secrets.token_hex(control.INSTANCE_SECRET_SIZE))
