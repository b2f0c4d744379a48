"""The operations of the management API on editions, and the JSON values of these operations."""

from __future__ import annotations

from typing import Annotated

import attrs
import msgspec

from ..relay.quotas import MAX_COUNT, Edition, Editions
from ..relay.store.store import NotFound, Store
from ..security import ManagementRole
from .calls import Call
from .operations import Operation
from .values import Body, EditionName, LimitsBody, Value

__all__ = ["EDITION_ROWS", "EditionList", "EditionValue", "RelayEdition"]

_EDITIONS = "/v1/editions"
_EDITION = f"{_EDITIONS}/{{edition}}"
_OF_RELAY = "/v1/relay/edition"


class EditionBody(Body, frozen=True):
    """The desired limits of an edition. A limit that is omitted is not set."""

    #: How many hybrid connections a relay of this edition may have.
    connections: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)] | None = None
    #: The limits of a hybrid connection that names the edition. If a relay uses the edition, `bytesPerMonth` and
    #: `endAtLimit` also apply to all of its hybrid connections together.
    limits: LimitsBody = LimitsBody()


class EditionValue(Value, frozen=True):
    """An edition."""

    name: str
    connections: int | None
    limits: LimitsBody
    #: Whether this relay uses the edition.
    in_use: bool
    #: The version, which increases with every change. It is also the ETag.
    version: int

    def edition(self) -> Edition:
        """Return the edition."""
        limits = self.limits.parse_untrusted()
        return Edition(name=self.name, connections=self.connections, limits=limits, version=self.version)

    @classmethod
    def of(cls, edition: Edition, editions: Editions) -> EditionValue:
        """Make the value for an edition."""
        return cls(
            name=edition.name,
            connections=edition.connections,
            limits=LimitsBody.of(edition.limits),
            in_use=edition.name == editions.in_use,
            version=edition.version,
        )


class EditionList(Value, frozen=True):
    """All editions, sorted by the number of hybrid connections that they allow."""

    value: tuple[EditionValue, ...]


class RelayEdition(Body, frozen=True):
    """The edition that the relay uses. If it is null, nothing is limited for the relay as a whole."""

    edition: EditionName | None


async def _list_editions(call: Call) -> EditionList:
    editions = await call.managed.read_store(lambda store: store.editions())
    return EditionList(value=tuple(EditionValue.of(one, editions) for one in editions.by_name.values()))


async def _get_edition(call: Call) -> EditionValue:
    return _shown(call, await call.managed.read_store(lambda store: store.editions()))


async def _put_edition(call: Call) -> EditionValue:
    body, name = call.body_as(EditionBody), call.params["edition"]
    limits = body.limits.parse_untrusted()

    def change(store: Store) -> Editions:
        known = store.editions().by_name.get(name)
        changed = store.change_edition(name, body.connections, limits, version=call.version)
        call.effect.is_unchanged = known is not None and attrs.evolve(changed, version=known.version) == known
        return store.editions()

    return _shown(call, await call.change_store(change))


def _shown(call: Call, editions: Editions) -> EditionValue:
    edition = editions.by_name.get(call.params["edition"])
    if edition is None:
        known = ", ".join(editions.by_name)
        raise NotFound(f"there is no edition {call.params['edition']!r}", remedy=f"the editions are: {known}")
    call.shown_version = edition.version
    return EditionValue.of(edition, editions)


async def _get_edition_of_relay(call: Call) -> RelayEdition:
    return _of_relay(await call.managed.read_store(lambda store: store.editions()))


async def _put_edition_of_relay(call: Call) -> RelayEdition:
    name = call.body_as(RelayEdition).edition or ""

    def use(store: Store) -> Editions:
        call.effect.is_unchanged = store.editions().in_use == name
        return store.use_edition(name)

    return _of_relay(await call.change_store(use))


def _of_relay(editions: Editions) -> RelayEdition:
    return RelayEdition(edition=editions.in_use or None)


#: The operations of this module, a part of the table of all operations.
EDITION_ROWS: tuple[Operation[Call], ...] = (
    Operation(
        id="listEditions",
        method="GET",
        path=_EDITIONS,
        summary="List the editions, which are named sets of limits.",
        role=ManagementRole.VIEWER,
        handler=_list_editions,
        answer=EditionList,
    ),
    Operation(
        id="getEdition",
        method="GET",
        path=_EDITION,
        summary="Get an edition.",
        role=ManagementRole.VIEWER,
        handler=_get_edition,
        answer=EditionValue,
        versioned=True,
    ),
    Operation(
        id="putEdition",
        method="PUT",
        path=_EDITION,
        summary="Replace the limits of an edition. If more than the new limits is already in use, nothing is ended, "
        "unless endAtLimit is set.",
        role=ManagementRole.ADMIN,
        handler=_put_edition,
        body=EditionBody,
        answer=EditionValue,
        versioned=True,
    ),
    Operation(
        id="getEditionOfRelay",
        method="GET",
        path=_OF_RELAY,
        summary="Get the name of the edition that this relay uses.",
        role=ManagementRole.VIEWER,
        handler=_get_edition_of_relay,
        answer=RelayEdition,
    ),
    Operation(
        id="putEditionOfRelay",
        method="PUT",
        path=_OF_RELAY,
        summary="Set the edition that this relay uses. It limits the number of hybrid connections, and the bytes "
        "that are moved for all of them in a month.",
        role=ManagementRole.ADMIN,
        handler=_put_edition_of_relay,
        body=RelayEdition,
        answer=RelayEdition,
    ),
)
