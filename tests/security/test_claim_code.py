"""Claim codes: what people type, and what the check characters detect."""

from __future__ import annotations

import base64
import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ClaimError
from hybridrelay.security import ClaimCode, Endpoint, Secret, parse_claim_code_untrusted
from hybridrelay.security.pins import pin_matches, short_pin

PIN = "sha256:" + base64.b64encode(bytes(range(32))).decode()
SECRET = Secret(base64.b32encode(bytes(range(100, 120))).decode().lower())
CODE = "hrc1.relay.example.com.aaaq-eaye-auda-ocaj-bifq-ydio-b4ib-ceqt.mrsw-mz3i-nfvg-w3dn-nzxx-a4ls-on2h-k5tx.ve"


def example(endpoint: Endpoint | None = None) -> ClaimCode:
    return ClaimCode(Endpoint("relay.example.com") if endpoint is None else endpoint, short_pin(PIN), SECRET)


def parsed(text: str) -> ClaimCode:
    return parse_claim_code_untrusted(text)


def test_a_code_is_this_text() -> None:
    assert example().format().reveal() == CODE
    assert parsed(CODE) == example()


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("relay"),
        Endpoint("2001:db8::1"),
        Endpoint("127.0.0.1", {"probe": 19350, "control": 15671, "http": None}),
        Endpoint("fd00::5", {"https": 8443}),
    ],
)
def test_every_relay_can_be_in_a_code(endpoint: Endpoint) -> None:
    code = ClaimCode.generate(endpoint, PIN)
    assert parsed(code.format().reveal()) == code
    by_ca = ClaimCode.generate(endpoint, None)
    assert by_ca.pin == ""
    assert parsed(by_ca.format().reveal()) == by_ca


def test_case_hyphens_and_white_space_do_not_matter() -> None:
    text = example().format().reveal()
    head, dot, rest = text.partition(".com.")
    for typed in (
        text.upper(),
        f"\ufeff  {text}\r\n",
        f'"{text}"',
        head + dot + rest.replace("-", ""),
        head + dot + rest.replace("-", " "),
        text[:40] + "\n   " + text[40:],
    ):
        assert parsed(typed) == example()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("x" * 2000, "longer than"),
        ("Endpoint=hr://relay/;SharedAccessKey=k", "does not begin with"),
        ("hrc2.relay.ca.x.yy", "does not begin with"),
        ("hrc1.relay.ca", "a part is missing"),
        ("hrc1.r\u00e9lay.ca.x.yy", "a character that does not occur in codes"),
        ("hrc1.relay.ca.abc.yy", "has 3 characters instead of 32"),
        ("hrc1.relay.ca." + "a" * 31 + "0.yy", "contains 0, which does not occur there"),
        ("hrc1.relay.ca." + "a" * 31 + "!.yy", "a character that does not occur there"),
        ("hrc1.relay.ca." + "a" * 32 + ".yy", "check characters do not match"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ClaimError, match=says):
        parsed(text)


def test_every_wrong_character_is_detected() -> None:
    plain = example().format().reveal().replace("-", "")
    for position in range(len(plain)):
        for other in string.ascii_lowercase + string.digits + ".":
            if other != plain[position]:
                with pytest.raises(ClaimError):
                    parsed(plain[:position] + other + plain[position + 1 :])


def test_every_exchange_of_two_characters_is_detected() -> None:
    plain = example(Endpoint("relay.example.com", {"control": 15671})).format().reveal().replace("-", "")
    end = plain.rindex(".")
    for one in range(end):
        for two in range(one + 1, end):
            if plain[one] != plain[two]:
                swapped = list(plain)
                swapped[one], swapped[two] = swapped[two], swapped[one]
                with pytest.raises(ClaimError):
                    parsed("".join(swapped))


@given(st.text(max_size=1200))
def test_any_text_is_a_code_or_this_error(text: str) -> None:
    for typed in (text, f"hrc1.{text}", f"hrc1.relay.ca.{text}"):
        with contextlib.suppress(ClaimError):
            parsed(typed)


def test_a_code_shows_its_secret_only_on_demand() -> None:
    code = example()
    assert SECRET.reveal() not in repr(code)
    assert SECRET.reveal() not in f"{code.format()}"
    wrong = code.format().reveal().replace("-", "")[:-2] + "zz"
    with pytest.raises(ClaimError) as caught:
        parsed(wrong)
    assert SECRET.reveal() not in str(caught.value)


def test_secrets_are_random() -> None:
    assert len({ClaimCode.generate(Endpoint("relay"), PIN).secret.reveal() for _ in range(100)}) == 100


def test_a_short_pin_recognizes_its_relay_and_no_other() -> None:
    other = "sha256:" + base64.b64encode(bytes(range(1, 33))).decode()
    assert pin_matches(short_pin(PIN), PIN)
    assert not pin_matches(short_pin(PIN), other)
    assert pin_matches(PIN, PIN)
    assert not pin_matches(PIN, other)
    for wrong in ("sha256-160:", "sha256-160:AAAA", "sha1:x", ""):
        with pytest.raises(ValueError):
            ClaimCode(Endpoint("relay"), wrong or "x", SECRET)
