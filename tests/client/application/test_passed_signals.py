"""Which signals are passed on to the application."""

from __future__ import annotations

import pytest

from hybridrelay.client.application.signals import Group, is_passed_on

FIRST, CLIENT, APPLICATION, SHELL, MEMBER = 100, 101, 102, 50, 103
USER, QUEUE, KERNEL = 0, -1, 0x80
LED, OTHER = Group(FIRST, True), Group(SHELL, False)


@pytest.mark.parametrize(
    ("code", "sender", "sender_group", "group", "expected"),
    [
        (KERNEL, 0, None, LED, False),  # Ctrl-C, which the whole group gets
        (USER, SHELL, SHELL, LED, True),  # kill PID
        (QUEUE, SHELL, SHELL, LED, True),
        (USER, 0, None, LED, True),  # from outside of the container
        (USER, SHELL, None, LED, True),  # the sender has ended
        (USER, APPLICATION, FIRST, LED, False),
        (USER, CLIENT, CLIENT, LED, False),  # continues the first process
        (USER, MEMBER, FIRST, LED, False),  # a program that the application has started signals the group
        (USER, MEMBER, SHELL, OTHER, True),  # a script that has started us without job control: kill $!
        (USER, APPLICATION, SHELL, OTHER, False),
    ],
)
def test_which_signals_are_passed_on_to_the_application(
    code: int, sender: int, sender_group: int | None, group: Group, expected: bool
) -> None:
    passed = is_passed_on(
        code=code, sender=sender, sender_group=sender_group, ours=(APPLICATION, CLIENT), group=group
    )
    assert passed is expected
