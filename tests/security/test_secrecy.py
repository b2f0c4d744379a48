"""Secrets stay out of everything that is printed, logged, copied into JSON or pickled."""

from __future__ import annotations

import copy
import pickle
import time
import traceback

import attrs
import pytest

from hybridrelay.security import (
    Authority,
    AuthorityFile,
    ConnectionString,
    Endpoint,
    Identity,
    KeySlot,
    Right,
    Role,
    Rule,
    Secret,
    create_authority,
    generate_key,
)

TEXT = "open-sesame"
SECRET = Secret(TEXT)


@pytest.mark.parametrize("shown", [repr(SECRET), str(SECRET), f"{SECRET}", f"{SECRET:>40}", f"{SECRET} {SECRET!r}"])
def test_does_not_print(shown: str) -> None:
    assert TEXT not in shown


def test_reveals_on_request_only() -> None:
    assert SECRET.reveal() == TEXT
    assert not hasattr(SECRET, "__dict__")


def test_does_not_pickle_but_copies_as_itself() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(SECRET, protocol)
    assert copy.copy(SECRET) is SECRET
    assert copy.deepcopy([SECRET])[0] is SECRET


def test_a_secret_equals_only_a_secret_with_the_same_text() -> None:
    assert Secret(TEXT) == SECRET
    assert hash(Secret(TEXT)) == hash(SECRET)
    assert Secret("é") != SECRET
    assert SECRET != TEXT
    assert Secret("\ud800") != SECRET


def test_everything_that_holds_one() -> None:
    now = time.time()
    key = generate_key()
    authority = create_authority("orders", now=now)
    identity = authority.issue(Role.CONNECTOR, "hq", now=now)
    rule = Rule("r", [Right.SEND], key, generate_key())
    holders: list[Rule | Authority | Identity | AuthorityFile | ConnectionString] = [
        rule,
        authority,
        identity,
        AuthorityFile(authority, {"key": key.reveal()}),
        ConnectionString(
            endpoints=(Endpoint("relay.test"),),
            key_name="r",
            key=key,
            entity_path="orders",
            identity=identity,
            authority=authority.certificate,
        ),
    ]
    secrets = [
        secret.reveal()
        for secret in (key, rule.key(KeySlot.SECONDARY), authority.private_key, identity.private_key)
        if secret is not None
    ]
    for holder in holders:
        shown = f"{holder} {holder!r}"
        if not isinstance(holder, AuthorityFile):  # its `extra` is plain JSON, and asdict would show it
            shown += str(attrs.asdict(holder))
        for secret in secrets:
            assert secret not in shown


def test_generated_keys_are_256_bits() -> None:
    assert len(generate_key().reveal()) == 44
    assert generate_key() != generate_key()


def test_errors_of_impossible_keys_do_not_repeat_them() -> None:
    key = "not; a key"
    with pytest.raises(ValueError) as caught:
        Rule("r", [Right.SEND], Secret(key))
    assert key not in "".join(traceback.format_exception(caught.value))
