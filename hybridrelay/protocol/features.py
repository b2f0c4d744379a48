"""Features, which both sides of a session offer before they are used, and kinds of stream. SPEC.md, sections 3, 5."""

from __future__ import annotations

import enum
from collections.abc import Mapping

#: HELLO has this many bits for features.
ALL_FEATURE_BITS = 0xFFFF_FFFF


class Feature(enum.IntFlag):
    """What a side of a session can offer beyond the base protocol: one bit of HELLO each.

    A feature is used if both sides offer it. A bit without a name here belongs to a later version, and is ignored.
    """

    #: Streams of `Kind.DATAGRAMS`, and DATAGRAM frames.
    DATAGRAMS = 1 << 0
    #: Streams of `Kind.ISSUE`.
    ISSUE = 1 << 1


NO_FEATURES = Feature(0)


class Kind(enum.IntEnum):
    """What a stream is for. OPEN states it."""

    #: A byte stream: one connection of the application.
    STREAM = 0
    #: A flow: the datagrams between one address of the application and the target.
    DATAGRAMS = 1
    #: The exchange by which an application renews its identity.
    ISSUE = 2


#: The feature that each kind other than `Kind.STREAM` needs.
_NEEDED: Mapping[int, Feature] = {Kind.DATAGRAMS: Feature.DATAGRAMS, Kind.ISSUE: Feature.ISSUE}


def used_features(ours: Feature, theirs: int) -> Feature:
    """Return the features that both sides offer. `theirs` is the field of the peer's HELLO; bits without a name are
    ignored."""
    return Feature(ours & theirs & sum(Feature))


def may_open(kind: int, used: Feature) -> bool:
    """Return whether a stream of this kind may be opened with these features in use. False for unknown kinds."""
    if kind == Kind.STREAM:
        return True
    needed = _NEEDED.get(kind)
    return needed is not None and needed in used
