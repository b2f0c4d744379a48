"""The registry of reasons: each has one number, one name, one sentence, and a declared category and duration."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

import hybridrelay.protocol
from hybridrelay.protocol import Reason
from hybridrelay.protocol.reasons import Category, Duration

SPEC = Path(hybridrelay.protocol.__file__).with_name("SPEC.md")
#: SPEC.md, section 4: both ranges of each category, and its general reason, the last number of the first range.
CATEGORIES = [
    (range(0x10), range(0x100, 0x200), Category.STREAM, Reason.STREAM_FAILED),
    (range(0x10, 0x20), range(0x200, 0x300), Category.SESSION, Reason.SESSION_FAILED),
    (range(0x20, 0x30), range(0x300, 0x400), Category.IDENTITY, Reason.IDENTITY_NOT_ACCEPTED),
    (range(0x30, 0x40), range(0x400, 0x500), Category.AUTHORIZATION, Reason.NOT_AUTHORIZED),
    (range(0x40, 0x50), range(0x500, 0x600), Category.RENDEZVOUS, Reason.RENDEZVOUS_FAILED),
    (range(0x50, 0x60), range(0x600, 0x700), Category.RELAY_PORT, Reason.REFUSED_BY_RELAY),
    (range(0x60, 0x70), range(0x700, 0x800), Category.QUOTA, Reason.QUOTA_REACHED),
]
RANGES = {
    number: (category, general)
    for first, further, category, general in CATEGORIES
    for number in itertools.chain(first, further)
}


@pytest.mark.parametrize("reason", Reason)
def test_goes_over_the_wire_as_number_and_as_name(reason: Reason) -> None:
    assert 0 <= reason <= 0xFFFF
    assert Reason.from_wire(int(reason)) is reason
    assert Reason.from_name(reason.slug) is reason
    assert reason.slug == reason.slug.lower()


@pytest.mark.parametrize("reason", Reason)
def test_the_table_has_every_reason(reason: Reason) -> None:
    assert reason.describe
    assert not reason.describe.endswith(".")
    assert "\n" not in reason.describe
    assert isinstance(reason.duration, Duration)
    assert reason.is_permanent == (reason.duration is Duration.PERMANENT)
    assert reason.specificity >= 0


@pytest.mark.parametrize("reason", Reason)
def test_the_number_is_in_the_range_of_the_declared_category(reason: Reason) -> None:
    if reason is Reason.NO_ERROR:
        assert reason.category is Category.NO_ERROR
    else:
        assert reason.category is RANGES[int(reason)][0]


def test_the_specification_lists_them_all() -> None:
    listed = [
        (int(number, 16), name.replace(" ", "-"), meaning)
        for number, name, meaning in re.findall(
            r"^\| (0x\w{4}) \| \*(.+)\* \| (.+) \|$", SPEC.read_text("utf-8"), re.MULTILINE
        )
    ]
    assert listed == [(int(reason), reason.slug, reason.describe) for reason in Reason]


def test_the_specification_lists_the_ranges() -> None:
    listed = re.findall(
        r"^\| (0x\w+) to (0x\w+) \| (0x\w+) to (0x\w+) \| [a-z -]+(?:, [a-z ]+)? \| (0x\w+) \*(.+)\* \|$",
        SPEC.read_text("utf-8"),
        re.MULTILINE,
    )
    assert [(*(int(number, 16) for number in row[:5]), row[5].replace(" ", "-")) for row in listed] == [
        (max(1, first[0]), first[-1], further[0], further[-1], int(general), general.slug)
        for first, further, _, general in CATEGORIES
    ]


def test_no_two_are_the_same() -> None:
    assert len(Reason.__members__) == len(list(Reason)) == len({reason.describe for reason in Reason})


def test_an_unknown_number_is_the_general_reason_of_its_category() -> None:
    known = set(map(int, Reason))
    for code in range(0x10000):
        if code in known:
            continue
        read = Reason.from_wire(code)
        if code in RANGES:
            category, general = RANGES[code]
            assert read is general
            assert read.category is category
            assert not read.is_permanent, "what is not understood ends nothing for good"
        else:
            assert read is Reason.INTERNAL_ERROR


def test_an_unknown_name_is_an_internal_error() -> None:
    assert Reason.from_name("never-heard-of") is Reason.INTERNAL_ERROR


def test_of_the_failures_of_several_addresses_the_most_specific_is_known() -> None:
    order = [
        Reason.TARGET_REFUSED,
        Reason.TARGET_TIMEOUT,
        Reason.TARGET_NAME_NOT_FOUND,
        Reason.TARGET_NAME_SERVICE_FAILED,
        Reason.TARGET_UNREACHABLE,
    ]
    assert sorted(order, key=lambda reason: -reason.specificity) == order
    assert len({reason.specificity for reason in order}) == len(order)
