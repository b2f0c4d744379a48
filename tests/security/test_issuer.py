"""The issuer signs applications, and nothing that it signs is ever accepted as a connector."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from hybridrelay.errors import ConfigurationError, PeerIdentityError
from hybridrelay.protocol.issuing import Issued
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    Authority,
    Identity,
    IdentityName,
    Issuer,
    PeerIdentity,
    Role,
    Secret,
    authority_for_connectors,
    building_certificates,
    certify_claim,
    check_issued_untrusted,
    claim_private_key,
    create_authority,
    create_issuer,
    make_request,
    new_private_key,
    parse_request_untrusted,
)
from hybridrelay.security.building_certificates import (
    certificate_builder,
    certificate_der,
    encode_key,
    identity_extensions,
    key_usage,
    load_ca,
    sign_identity,
    subject_name,
    to_datetime,
)
from hybridrelay.security.identity import details_of
from hybridrelay.security.identity_requests import load_private_key

from .test_mutual_tls import CONNECTOR, NOW, OURS, THEIRS, meet

DAY = 86_400.0
Extension: TypeAlias = tuple[x509.ExtensionType, bool]
ISSUER = create_issuer(OURS, now=NOW)
#: What connectors with an issuer trust.
TRUSTED = attrs.evolve(OURS, certificate=authority_for_connectors(OURS))


def issued(issuer: Issuer = ISSUER, label: str = "billing", name: str = "orders/sql", **options: float) -> Identity:
    """An identity that a machine has requested."""
    key = new_private_key()
    answer = issuer.sign(name, label, parse_request_untrusted(make_request(key)), now=NOW, **options)
    return Identity(answer.certificate, key, answer.issuer)


async def test_an_application_of_the_issuer_is_accepted_by_connectors_that_have_one() -> None:
    application = issued()
    client, server = await meet(application, CONNECTOR, server_trusts=TRUSTED)
    assert isinstance(client, PeerIdentity)
    assert isinstance(server, PeerIdentity)
    assert (server.label, server.role, server.is_from_issuer) == ("billing", Role.APPLICATION, True)
    assert server.serial == application.serial


async def test_one_of_the_authority_is_told_apart() -> None:
    _, server = await meet(OURS.issue(Role.APPLICATION, "old", now=NOW), CONNECTOR, server_trusts=TRUSTED)
    assert isinstance(server, PeerIdentity)
    assert not server.is_from_issuer


async def test_a_connector_without_an_issuer_does_not_accept_it() -> None:
    _, server = await meet(issued(), CONNECTOR)
    assert isinstance(server, PeerIdentityError)
    assert server.reason is Reason.IDENTITY_WRONG_AUTHORITY


async def test_an_issuer_of_another_authority_is_not_accepted() -> None:
    _, server = await meet(issued(create_issuer(THEIRS, now=NOW)), CONNECTOR, server_trusts=TRUSTED)
    assert isinstance(server, PeerIdentityError)
    assert server.reason is Reason.IDENTITY_WRONG_AUTHORITY


# --- never a connector

ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
#: The extended key usages that a thief of the issuer might put into a certificate.
USAGES: list[Sequence[ObjectIdentifier] | None] = [
    None, [SERVER], [CLIENT], [SERVER, CLIENT], [ANY], [ANY, SERVER], [ObjectIdentifier("2.16.840.1.113730.4.1")],
]  # fmt: skip


def forge(
    issuer: Issuer,
    *,
    usages: Sequence[ObjectIdentifier] | None,
    uri: str,
    ca: bool = False,
    names_authority: bool = False,
) -> Identity:
    """What a thief of the issuer can sign: anything."""
    above, above_key = load_ca(issuer.certificate, issuer.private_key, "")
    key = ed25519.Ed25519PrivateKey.generate()
    named = x509.load_der_x509_certificate(OURS.certificate).subject if names_authority else above.subject
    builder = (
        certificate_builder(subject_name("hybridrelay connector", "forged"), named, key.public_key(), NOW)
        .not_valid_after(dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=ca), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    )
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
    return Identity(certificate_der(builder.sign(above_key, None)), encode_key(key), issuer.certificate)


CONNECTOR_URI = IdentityName("orders/sql", Role.CONNECTOR, "hq").uri


@pytest.mark.parametrize("trusts", [OURS, TRUSTED], ids=["usual", "path length 1"])
@pytest.mark.parametrize("usages", USAGES, ids=str)
@pytest.mark.parametrize("ca", [False, True])
@pytest.mark.parametrize("names_authority", [False, True])
async def test_nothing_that_the_issuer_signs_is_a_connector(
    trusts: Authority, usages: Sequence[ObjectIdentifier] | None, ca: bool, names_authority: bool
) -> None:
    """The usage of the issuer and the path length of the authority each suffice."""
    forged = forge(ISSUER, usages=usages, uri=CONNECTOR_URI, ca=ca, names_authority=names_authority)
    client, _ = await meet(OURS.issue(Role.APPLICATION, "a", now=NOW), forged, client_trusts=trusts)
    assert isinstance(client, PeerIdentityError)
    assert client.reason in {Reason.IDENTITY_WRONG_AUTHORITY, Reason.IDENTITY_WRONG_ROLE}


@pytest.mark.parametrize("trusts", [OURS, TRUSTED], ids=["usual", "path length 1"])
async def test_the_issuer_itself_is_neither_a_connector_nor_an_application(trusts: Authority) -> None:
    itself = Identity(ISSUER.certificate, ISSUER.private_key)
    client, _ = await meet(OURS.issue(Role.APPLICATION, "a", now=NOW), itself, client_trusts=trusts)
    assert isinstance(client, PeerIdentityError)
    _, server = await meet(itself, CONNECTOR, server_trusts=trusts)
    assert isinstance(server, PeerIdentityError)


@pytest.mark.parametrize("usages", USAGES, ids=str)
async def test_an_issuer_cannot_make_another_one(usages: Sequence[ObjectIdentifier] | None) -> None:
    above = forge(ISSUER, usages=usages, uri=CONNECTOR_URI, ca=True)
    second = Issuer(above.certificate, above.private_key)
    forged = forge(second, usages=usages, uri=IdentityName("orders/sql", Role.APPLICATION, "a").uri)
    assert forged.issuer is not None
    chained = attrs.evolve(forged, issuer=forged.issuer)
    _, server = await meet(chained, CONNECTOR, server_trusts=TRUSTED)
    assert isinstance(server, PeerIdentityError)


# --- what it signs


def test_an_issuer_ends_after_two_years_and_its_identities_after_ninety_days() -> None:
    assert ISSUER.not_after == pytest.approx(NOW + 2 * 365.25 * DAY, abs=2)
    assert issued().details.not_after == pytest.approx(NOW + 90 * DAY, abs=2)
    ISSUER.check(TRUSTED.certificate)


def test_an_identity_ends_no_later_than_its_issuer() -> None:
    short = create_issuer(OURS, now=NOW, valid_years=10 / 365.25)
    assert issued(short).details.not_after == short.not_after
    with pytest.raises(ConfigurationError, match="the issuer has expired"):
        short.sign("orders/sql", "x", parse_request_untrusted(make_request(new_private_key())), now=NOW + 11 * DAY)


def test_an_issuer_ends_no_later_than_the_authority() -> None:
    short = create_authority("orders", now=NOW, valid_years=1)
    assert create_issuer(short, now=NOW).not_after == pytest.approx(NOW + 365.25 * DAY, abs=2)
    with pytest.raises(ConfigurationError, match="expired"):
        create_issuer(short, now=NOW + 400 * DAY)


def test_the_authority_for_connectors_is_always_the_same() -> None:
    assert authority_for_connectors(OURS) == TRUSTED.certificate != OURS.certificate


def ca_for(usages: Sequence[ObjectIdentifier]) -> Issuer:
    """A CA of the authority that is like an issuer, but with other purposes."""
    above, above_key = load_ca(TRUSTED.certificate, TRUSTED.private_key, "")
    key = ed25519.Ed25519PrivateKey.generate()
    builder = (
        certificate_builder(subject_name("hybridrelay issuer", "x"), above.subject, key.public_key(), NOW)
        .not_valid_after(to_datetime(NOW + 90 * DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    return Issuer(certificate_der(builder.sign(above_key, None)), encode_key(key))


def test_an_issuer_is_for_clients_only() -> None:
    ca_for([CLIENT]).check(TRUSTED.certificate)
    for usages in ([SERVER], [CLIENT, SERVER], [ANY], [CLIENT, ANY]):
        with pytest.raises(ConfigurationError, match="not limited to identities of applications"):
            ca_for(usages).check(TRUSTED.certificate)


@pytest.mark.parametrize(
    ("issuer", "authority"),
    [
        (ISSUER, OURS.certificate),  # of path length 0: connectors would accept nothing that it signs
        (create_issuer(THEIRS, now=NOW), TRUSTED.certificate),
        (Issuer(OURS.certificate, OURS.private_key), TRUSTED.certificate),
        (Issuer(CONNECTOR.certificate, CONNECTOR.private_key), TRUSTED.certificate),
        (attrs.evolve(ISSUER, private_key=CONNECTOR.private_key), TRUSTED.certificate),
        (attrs.evolve(ISSUER, certificate=ISSUER.certificate[:-9]), TRUSTED.certificate),
    ],
)
def test_what_is_not_an_issuer_is_noticed(issuer: Issuer, authority: bytes) -> None:
    with pytest.raises(ConfigurationError):
        issuer.check(authority)


@pytest.mark.parametrize("label", ["", "a" * 65, " a", "a\n"])
def test_a_label_that_is_none_is_not_signed(label: str) -> None:
    with pytest.raises(ConfigurationError):
        issued(label=label)


# --- claim certificates

CLAIM_KEY = claim_private_key(bytes(range(32)))


def claim(*, expires_at: float = NOW + DAY) -> Identity:
    return Identity(certify_claim(OURS, "billing", CLAIM_KEY, now=NOW, expires_at=expires_at), CLAIM_KEY)


def test_a_claim_certificate_ends_with_the_claim() -> None:
    details = claim().details
    assert details.name == IdentityName("orders/sql", Role.CLAIM, "billing")
    assert details.not_after == int(NOW + DAY)


@pytest.mark.parametrize("trusts", [OURS, TRUSTED], ids=["usual", "path length 1"])
async def test_a_claim_certificate_is_not_an_application(trusts: Authority) -> None:
    _, server = await meet(claim(), CONNECTOR, server_trusts=trusts)
    assert isinstance(server, PeerIdentityError)
    assert server.reason is Reason.IDENTITY_WRONG_ROLE


async def test_a_claim_certificate_is_not_a_connector() -> None:
    client, _ = await meet(OURS.issue(Role.APPLICATION, "a", now=NOW), claim())
    assert isinstance(client, PeerIdentityError)


async def test_an_expired_claim_certificate() -> None:
    _, server = await meet(claim(expires_at=time.time() - 60), CONNECTOR, server_trusts=TRUSTED)
    assert isinstance(server, PeerIdentityError)
    assert server.reason is Reason.IDENTITY_EXPIRED


# --- what the machine accepts

NAME = IdentityName("orders/sql", Role.APPLICATION, "billing")


def test_an_answer_is_checked() -> None:
    key = new_private_key()
    request = parse_request_untrusted(make_request(key))
    good = ISSUER.sign("orders/sql", "billing", request, now=NOW)
    check_issued_untrusted(good, OURS.certificate, NAME, key, now=NOW)
    foreign = create_issuer(THEIRS, now=NOW)
    wrong: list[tuple[Issued, str]] = [
        (ISSUER.sign("orders/sql", "another", request, now=NOW), "another name"),
        (ISSUER.sign("others", "billing", request, now=NOW), "another name"),
        (ISSUER.sign("orders/sql", "billing", request, now=NOW - 200 * DAY), "has expired"),
        (foreign.sign("orders/sql", "billing", request, now=NOW), "not signed under the authority"),
        (attrs.evolve(good, issuer=foreign.certificate), "not signed under the authority"),
        (attrs.evolve(good, issuer=b"0\x00"), "not signed under the authority"),
        (attrs.evolve(good, certificate=b"0\x00"), "not that of an identity"),
    ]
    for answer, why in wrong:
        with pytest.raises(ConfigurationError, match=why):
            check_issued_untrusted(answer, OURS.certificate, NAME, key, now=NOW)
    with pytest.raises(ConfigurationError, match="another key"):
        check_issued_untrusted(good, OURS.certificate, NAME, new_private_key(), now=NOW)


STOLEN = OURS.issue(Role.CONNECTOR, "hq", now=NOW)


def answered(
    key: Secret, *, signer: Identity | Issuer = ISSUER, begin: float = NOW, days: float = 90, is_server: bool = False
) -> Issued:
    """What somebody with the connection string of a connector can answer: anything."""
    above, above_key = load_ca(signer.certificate, signer.private_key, "")
    signed = sign_identity(
        above,
        above_key,
        load_private_key(key).public_key(),
        subject=subject_name("hybridrelay application", "billing"),
        uri=NAME.uri,
        is_server=is_server,
        now=begin,
        end=to_datetime(begin + days * DAY),
    )
    return Issued(signed, signer.certificate)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"signer": STOLEN}, "unlike those of an issuer"),
        ({"is_server": True}, "unlike those of an issuer"),
        ({"begin": NOW + 3 * DAY}, "not valid yet"),
        ({"begin": NOW - 3 * DAY}, "began long ago"),  # and is due for renewal again and again
        ({"days": 0.4}, "expires too early"),
    ],
)
def test_an_identity_that_no_connector_would_accept_is_not_accepted_here_either(
    options: dict[str, Any], why: str
) -> None:
    """Otherwise it would take the place of a good one."""
    key = new_private_key()
    check_issued_untrusted(answered(key), OURS.certificate, NAME, key, now=NOW)
    with pytest.raises(ConfigurationError, match=why):
        check_issued_untrusted(answered(key, **options), OURS.certificate, NAME, key, now=NOW)


def test_an_identity_does_not_take_the_place_of_one_that_ends_later() -> None:
    key = new_private_key()
    answer = answered(key, days=90)
    end = details_of(answer.certificate).not_after
    check_issued_untrusted(answer, OURS.certificate, NAME, key, now=NOW, lasts_until=end)
    with pytest.raises(ConfigurationError, match="expires too early"):
        check_issued_untrusted(answer, OURS.certificate, NAME, key, now=NOW, lasts_until=end + 1)


def test_the_issuer_has_to_be_valid_too() -> None:
    key = new_private_key()
    issuer = create_issuer(OURS, now=NOW - 60 * DAY, valid_years=30 / 365)
    forged = sign_identity_beyond(issuer, key)
    with pytest.raises(ConfigurationError, match="the issuer of the connector is not valid now"):
        check_issued_untrusted(forged, OURS.certificate, NAME, key, now=NOW)


def test_an_identity_has_to_end_no_later_than_its_issuer() -> None:
    """Otherwise it would take the place of a good one, and no connector would accept it after the issuer's end."""
    key = new_private_key()
    issuer = create_issuer(OURS, now=NOW, valid_years=30 / 365)
    check_issued_untrusted(answered(key, signer=issuer), OURS.certificate, NAME, key, now=NOW)
    with pytest.raises(ConfigurationError, match="expires after its issuer"):
        check_issued_untrusted(sign_identity_beyond(issuer, key), OURS.certificate, NAME, key, now=NOW)


def test_an_identity_that_a_program_already_has_ends_with_its_issuer() -> None:
    key = new_private_key()
    issuer = create_issuer(OURS, now=NOW, valid_years=30 / 365)
    beyond = sign_identity_beyond(issuer, key)
    details = Identity(beyond.certificate, key, beyond.issuer).details
    assert details.not_after == issuer.not_after < details_of(beyond.certificate).not_after
    with pytest.raises(ConfigurationError, match="issuer is damaged"):
        _ = Identity(beyond.certificate, key, b"0\x00").details


def test_nobody_can_choose_the_serial_of_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody with an issuer could choose one that deny lists contain."""
    key = new_private_key()
    honest = answered(key, signer=ISSUER)
    check_issued_untrusted(honest, OURS.certificate, NAME, key, now=NOW)
    assert details_of(honest.certificate).serial == details_of(answered(key, signer=ISSUER).certificate).serial
    assert details_of(honest.certificate).serial != details_of(issued(seconds=DAY).certificate).serial
    with monkeypatch.context() as context:
        context.setattr(building_certificates, "serial_for", lambda _key: 0x4711)
        chosen = answered(key, signer=ISSUER)
    assert details_of(chosen.certificate).serial == "4711"
    with pytest.raises(ConfigurationError, match="unlike those of an issuer"):
        check_issued_untrusted(chosen, OURS.certificate, NAME, key, now=NOW)


def sign_identity_beyond(issuer: Issuer, key: Secret) -> Issued:
    """An identity that expires after its issuer."""
    above, above_key = load_ca(issuer.certificate, issuer.private_key, "")
    public = load_private_key(key).public_key()
    subject = subject_name("hybridrelay application", "billing")
    builder = certificate_builder(subject, above.subject, public, NOW).not_valid_after(to_datetime(NOW + 90 * DAY))
    for value, critical in identity_extensions(above, public, uri=NAME.uri, is_server=False)[1:]:
        builder = builder.add_extension(value, critical=critical)
    return Issued(certificate_der(builder.sign(above_key, None)), issuer.certificate)


EXTENSIONS: list[Callable[[list[Extension]], list[Extension]]] = [
    lambda found: found[:-1],  # the key of the issuer
    lambda found: [one for one in found if not isinstance(one[0], x509.ExtendedKeyUsage)],
    lambda found: [*found, (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)],
    lambda found: [*found, (x509.NameConstraints(None, [x509.DNSName("a")]), False)],
    lambda found: [
        (x509.BasicConstraints(ca=True, path_length=None), True)
        if isinstance(value, x509.BasicConstraints)
        else (value, critical)
        for value, critical in found
    ],
    lambda found: [
        (key_usage(signs_certificates=True), True) if isinstance(value, x509.KeyUsage) else (value, critical)
        for value, critical in found
    ],
    lambda found: [
        (x509.AuthorityKeyIdentifier(b"another", None, None), False)
        if isinstance(value, x509.AuthorityKeyIdentifier)
        else (value, critical)
        for value, critical in found
    ],
]


@pytest.mark.parametrize("change", EXTENSIONS)
def test_every_extension_has_to_be_as_an_issuer_makes_it(
    change: Callable[[list[Extension]], list[Extension]],
) -> None:
    key = new_private_key()
    above, above_key = load_ca(ISSUER.certificate, ISSUER.private_key, "")
    public = load_private_key(key).public_key()

    def made(change: Callable[[list[Extension]], list[Extension]]) -> Issued:
        subject = subject_name("hybridrelay application", "billing")
        builder = certificate_builder(subject, above.subject, public, NOW)
        builder = builder.not_valid_after(to_datetime(NOW + 90 * DAY))
        for value, critical in change(identity_extensions(above, public, uri=NAME.uri, is_server=False)[1:]):
            builder = builder.add_extension(value, critical=critical)
        return Issued(certificate_der(builder.sign(above_key, None)), ISSUER.certificate)

    check_issued_untrusted(made(list), OURS.certificate, NAME, key, now=NOW)
    with pytest.raises(ConfigurationError, match="unlike those of an issuer"):
        check_issued_untrusted(made(change), OURS.certificate, NAME, key, now=NOW)


def test_the_end_of_an_identity_is_in_its_details() -> None:
    assert details_of(issued(seconds=60).certificate).not_after == int(NOW + 60)
