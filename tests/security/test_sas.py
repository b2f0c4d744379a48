"""Tokens: the published vectors, every refusal, and hostile text."""

from __future__ import annotations

import base64
from typing import TypedDict, Unpack
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import AuthorizationError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    Authorization,
    KeySlot,
    Right,
    Rule,
    Secret,
    audience_for,
    generate_key,
    make_token,
    parse_token_untrusted,
    verify_token,
)

KEY = Secret("c2VjcmV0LWtleS1mb3ItdGVzdGluZy1vbmx5LTAwMDE=")
EXPIRY = 1700003600
ROOT = "RootManageSharedAccessKey"
RULE = Rule(ROOT, [Right.MANAGE], KEY, Secret("another"))

# Audience, signature: made by the public SDKs.
VECTORS = [
    ("http://contoso.servicebus.windows.net/hyco", "oWUup3Iib3zZ2DMyPtJjP3TntB+xCDb2/MJMRuwGVW0="),
    ("http://contoso.servicebus.windows.net:443/hyco", "gdWPoh9EUT0UbYD/OlCmc9VMup+YWuEtmXV1nfKCrp4="),
    ("http://contoso.servicebus.windows.net/hyco/", "BFst2o8dAuZcErNJiAgoa10c2BT2FSdl5nCBcZCrsFg="),
    ("http://localhost/a2", "b+4t+DD/fWfau+9mWnHAivCA4H4Vv6t4D5hrZsGaGIM="),
    ("http://localhost:443/a2", "1EgahxhK3njsABwLzHVLyfCG9w3A2w0bLgTyG4MbhXk="),
]
FULL = (
    "SharedAccessSignature sr=http%3A%2F%2Fcontoso.servicebus.windows.net%2Fhyco"
    "&sig=oWUup3Iib3zZ2DMyPtJjP3TntB%2BxCDb2%2FMJMRuwGVW0%3D&se=1700003600&skn=RootManageSharedAccessKey"
)
LOWER = (
    "SharedAccessSignature sr=http%3a%2f%2fcontoso.servicebus.windows.net%2fhyco"
    "&sig=XxkPoK9g5nS8jLecjZDm6Z2R3RBRJ%2b5lXy1vmY%2bQBIY%3d&se=1700003600&skn=RootManageSharedAccessKey"
)
HOSTS = ["Contoso.ServiceBus.Windows.Net", "localhost", "::1"]


class Request(TypedDict, total=False):
    """What a token is shown for, where it differs from the usual."""

    entity: str
    right: Right
    rules: list[Rule]
    now: float


def verify(
    token: str,
    *,
    entity: str = "hyco",
    right: Right = Right.SEND,
    rules: list[Rule] | None = None,
    now: float = EXPIRY - 60,
) -> Authorization:
    return verify_token(
        token,
        hosts=HOSTS,
        entity=entity,
        right=right,
        rules=[RULE] if rules is None else rules,
        now=now,
    )


def refusal(token: str, **arguments: Unpack[Request]) -> AuthorizationError:
    with pytest.raises(AuthorizationError) as caught:
        verify(token, **arguments)
    assert KEY.reveal() not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("audience", "signature"), VECTORS)
def test_tokens_of_the_published_format_verify(audience: str, signature: str) -> None:
    token = make_token(audience, ROOT, KEY, EXPIRY)
    parsed = parse_token_untrusted(token)
    assert base64.b64encode(parsed.signature).decode() == signature
    assert (parsed.expires_at, parsed.rule_name) == (EXPIRY, ROOT)
    authorization = verify(token, entity=parsed.path[0])
    assert authorization == Authorization(ROOT, KeySlot.PRIMARY, frozenset({Right.MANAGE}), EXPIRY)


def test_a_token_has_these_characters() -> None:
    assert make_token(VECTORS[0][0], ROOT, KEY, EXPIRY) == FULL


@pytest.mark.parametrize(
    "token",
    [
        FULL,
        LOWER,
        FULL.replace("SharedAccessSignature", "sharedaccesssignature"),
        FULL.replace("sr=", "SR=").replace("skn=", "Skn="),
        # Python's documentation leaves the slash in the signature alone.
        FULL.replace("%2FMJMR", "/MJMR"),
        # The order of fields is free.
        "SharedAccessSignature " + "&".join(reversed(FULL.removeprefix("SharedAccessSignature ").split("&"))),
        # A signature that is not escaped at all keeps its plus signs.
        FULL.replace("%2BxCDb2%2FMJMRuwGVW0%3D", "+xCDb2/MJMRuwGVW0="),
    ],
)
def test_all_spellings_of_a_token_verify(token: str) -> None:
    verify(token)


def test_decoded_key_is_wrong() -> None:
    token = FULL.replace(
        quote("oWUup3Iib3zZ2DMyPtJjP3TntB+xCDb2/MJMRuwGVW0=", safe=""),
        quote("Ad0tfjMJvjz66XMxYWLjSrSPbpzQ8unfGsZIgy1RGAY=", safe=""),
    )
    assert refusal(token).reason is Reason.WRONG_KEY


@pytest.mark.parametrize(
    "audience",
    [
        "https://LOCALHOST:8443/team/db",
        "sb://localhost/team/db/",
        "wss://localhost./team//db",
        "hr://localhost//team/db",
        "ws://[::1]:80/team/db",
    ],
)
def test_audiences_that_cover(audience: str) -> None:
    verify(make_token(audience, ROOT, KEY, EXPIRY), entity="team/db")


@pytest.mark.parametrize(
    "audience",
    [
        "http://elsewhere/team/db",
        "http://localhost/",
        "http://localhost",
        "https://localhost/team",
        "http://localhost/team/d",
        "http://localhost/team/db/deeper",
        "http://localhost/TEAM/db",
        "http://localhost/team%2Fdb",
        "http://localhost/team/db?x=1",
        "http://localhost/team/../team/db",
    ],
)
def test_audiences_that_do_not(audience: str) -> None:
    token = make_token(audience, ROOT, KEY, EXPIRY)
    assert refusal(token, entity="team/db").reason is Reason.WRONG_AUDIENCE


def test_the_audience_is_normalized() -> None:
    assert audience_for("Relay.Example.com", "team/db") == "http://relay.example.com/team/db"
    assert audience_for("::1", "db") == "http://[::1]/db"
    assert audience_for("FE80::1%eth0", "db") == "http://[fe80::1]/db"


@pytest.mark.parametrize("name_at_relay", ["fe80::1%eth0", "fe80::1%enp3s0", "fe80::1", "FE80:0::1"])
def test_the_zone_of_an_address_is_that_of_one_machine(name_at_relay: str) -> None:
    token = make_token(audience_for("fe80::1%eth0", "db"), "application", KEY, EXPIRY)
    rules = [Rule("application", [Right.SEND], KEY, Secret("another"))]
    verify_token(token, hosts=[name_at_relay], entity="db", right=Right.SEND, rules=rules, now=EXPIRY - 60)


def test_expiry_has_five_minutes_of_skew() -> None:
    verify(FULL, now=EXPIRY + 299)
    error = refusal(FULL, now=EXPIRY + 300)
    assert error.reason is Reason.TOKEN_EXPIRED
    assert error.remedy is not None


def test_a_wrong_key_is_reported_before_the_expiry() -> None:
    token = make_token(VECTORS[0][0], ROOT, Secret("wrong"), EXPIRY)
    assert refusal(token, now=EXPIRY + 9999).reason is Reason.WRONG_KEY


def test_either_key_signs_and_a_revoked_one_does_not() -> None:
    old, new = generate_key(), generate_key()
    rule = Rule("r", [Right.LISTEN], old, new)
    tokens = {
        slot: make_token(audience_for("localhost", "hyco"), "r", rule.key(slot) or KEY, EXPIRY) for slot in KeySlot
    }
    for slot, token in tokens.items():
        assert verify(token, right=Right.LISTEN, rules=[rule]).slot is slot
    half = rule.with_key(KeySlot.PRIMARY, None)
    revoked = refusal(tokens[KeySlot.PRIMARY], rules=[half])
    assert revoked.reason is Reason.KEY_REVOKED
    assert "revoked: primary" in str(revoked)
    wrong = make_token(audience_for("localhost", "hyco"), "r", generate_key(), EXPIRY)
    assert refusal(wrong, rules=[rule]).reason is Reason.WRONG_KEY
    assert verify(tokens[KeySlot.SECONDARY], right=Right.LISTEN, rules=[half]).slot is KeySlot.SECONDARY
    none = half.with_key(KeySlot.SECONDARY, None)
    assert refusal(tokens[KeySlot.SECONDARY], rules=[none]).reason is Reason.KEY_REVOKED


@pytest.mark.parametrize("carried", list(Right))
@pytest.mark.parametrize("needed", list(Right))
def test_a_key_needs_the_right_or_manage(carried: Right, needed: Right) -> None:
    rule = Rule(ROOT, [carried], KEY)
    if carried in {needed, Right.MANAGE}:
        assert verify(FULL, right=needed, rules=[rule]).rule_name == ROOT
    else:
        assert refusal(FULL, right=needed, rules=[rule]).reason is Reason.RIGHT_MISSING


def test_an_unknown_rule_is_refused() -> None:
    assert refusal(FULL, rules=[]).reason is Reason.UNKNOWN_RULE


@pytest.mark.parametrize(
    ("token", "part"),
    [
        ("", "begin"),
        ("Bearer x", "begin"),
        (FULL + "&extra=1", "number 5"),
        (FULL + "&se=1", "se appears twice"),
        (FULL.replace("&se=1700003600", ""), "se is missing"),
        (FULL.replace("se=1700003600", "se="), "se is missing"),
        (FULL.replace("se=1700003600", "se=+1700003600"), "se is not a number"),
        (FULL.replace("se=1700003600", "se=1_700_003_600"), "se is not a number"),
        (FULL.replace("se=1700003600", "se= 1700003600"), "se is not a number"),
        (FULL.replace("se=1700003600", "se=1.7e9"), "se is not a number"),
        (FULL.replace("se=1700003600", "se=170000360000000"), "se is not a number"),
        (FULL.replace("contoso", "%E2%84%AA"), "host in sr is not ASCII"),  # KELVIN SIGN is k in lower case
        (FULL.replace("1700003600", "17e8"), "se is not"),
        (FULL.replace("1700003600", "-5"), "se is not"),
        (FULL.replace("1700003600", "9" * 13), "se is not"),
        (FULL.replace("oWUu", "****"), "sig is not Base64"),
        (FULL.replace("oWUu", ""), "wrong length"),
        (FULL.replace("oWUu", "%C3%A9"), "sig is not Base64"),
        (FULL.replace("http%3A%2F%2F", ""), "sr is not a URL"),
        (FULL.replace("http%3A%2F%2F", "gopher%3A%2F%2F"), "sr is not a URL"),
        (FULL.replace("http%3A%2F%2F", "ftp%3A%2F%2F"), "sr is not a URL"),
        (FULL.replace("RootManage", "R" * 300), "skn is too long"),
        (FULL + "x" * 5000, "it is too long"),
        (FULL.replace("Root", "R\u00f6\u00f6t"), "ASCII"),
    ],
)
def test_a_malformed_token_is_refused_and_the_error_names_the_part(token: str, part: str) -> None:
    error = refusal(token)
    assert error.reason is Reason.TOKEN_MALFORMED
    assert part in str(error)


def test_signature_does_not_print() -> None:
    parsed = parse_token_untrusted(FULL)
    assert "sig" not in repr(parsed).replace("signed", "")


@given(st.text(max_size=200).map(lambda text: f"SharedAccessSignature {text}") | st.text(max_size=100))
def test_arbitrary_text_raises_nothing_but_its_own_error(text: str) -> None:
    with pytest.raises(AuthorizationError):
        parse_token_untrusted(text)


@given(st.data())
def test_mutated_tokens_never_verify(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(FULL) - 1))
    character = data.draw(st.characters(max_codepoint=255))
    mutated = FULL[:position] + character + FULL[position + 1 :]
    try:
        verify(mutated)
    except AuthorizationError:
        return
    # Free are the case of names and escapes, and the unused bits of the signature's last digit.
    assert parse_token_untrusted(mutated) == parse_token_untrusted(FULL)


@given(
    host=st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,10}){0,3}", fullmatch=True),
    entity=st.from_regex(r"[A-Za-z0-9_-]{1,20}(/[A-Za-z0-9_-]{1,20}){0,2}", fullmatch=True),
    expires_at=st.integers(0, 10**11),
    right=st.sampled_from(list(Right)),
)
def test_what_is_made_verifies(host: str, entity: str, expires_at: int, right: Right) -> None:
    rule = Rule.generate("r", [right])
    assert rule.secondary is not None
    token = make_token(audience_for(host, entity), "r", rule.secondary, expires_at)
    authorization = verify_token(
        token, hosts=[host.upper()], entity=entity, right=right, rules=[rule], now=expires_at
    )
    assert authorization == Authorization("r", KeySlot.SECONDARY, frozenset({right}), expires_at)
