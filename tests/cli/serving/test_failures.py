"""What becomes of a hybrid connection whose client has failed."""

from __future__ import annotations

import itertools

import pytest

from hybridrelay.cli.serving.failures import AfterFailure, after_failure


@pytest.mark.parametrize(
    ("is_ending", "has_other_string", "is_last", "expected"),
    [
        (False, False, False, AfterFailure.CLOSE_PORTS),
        (False, False, True, AfterFailure.END_PROGRAM),
        *((False, True, is_last, AfterFailure.SERVE_AGAIN) for is_last in (False, True)),
        *((True, *others, AfterFailure.END) for others in itertools.product((False, True), repeat=2)),
    ],
)
def test_every_rule(is_ending: bool, has_other_string: bool, is_last: bool, expected: AfterFailure) -> None:
    assert after_failure(is_ending=is_ending, has_other_string=has_other_string, is_last=is_last) is expected
