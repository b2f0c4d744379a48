"""Connection strings: round trips, and a clear error for every part that is wrong."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import os
import re
import time
from pathlib import Path
from typing import TypedDict

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConfigurationError, ConnectionStringError
from hybridrelay.security import (
    ENVIRONMENT_VARIABLE,
    ConnectionString,
    Endpoint,
    HostPort,
    Protocols,
    Role,
    Secret,
    authority_for_connectors,
    create_authority,
    create_issuer,
    generate_key,
    load_connection_string,
    parse_connection_string_untrusted,
    parse_host_port_untrusted,
)

NOW = time.time()
AUTHORITY = create_authority("team/db", now=NOW)
PIN = "sha256:" + base64.b64encode(bytes(32)).decode()
PLAIN = "Endpoint=hr://relay.example.com/;SharedAccessKeyName=app;SharedAccessKey=c2VjcmV0=;EntityPath=team/db"
FULL = ConnectionString(
    endpoints=(
        Endpoint("2001:db8::1", {"probe": 9350, "http": None}),
        Endpoint("b.example.com"),
        Endpoint("192.0.2.3", {"data": 1}),
    ),
    key_name="defaultListener",
    key=generate_key(),
    entity_path="team/db",
    target=HostPort("sql.corp.example", 1433),
    identity=AUTHORITY.issue(Role.CONNECTOR, "hq", now=NOW),
    authority=AUTHORITY.certificate,
    relay_pins=(PIN, PIN),
)


def test_the_public_format_is_read_and_written() -> None:
    parsed = parse_connection_string_untrusted(PLAIN)
    assert parsed == ConnectionString(
        endpoints=(Endpoint("relay.example.com"),), key_name="app", key=Secret("c2VjcmV0="), entity_path="team/db"
    )
    assert parsed.role is Role.APPLICATION
    assert parsed.hosts == ("relay.example.com",)
    assert parsed.format() == PLAIN


def test_everything_reads_back() -> None:
    text = FULL.format()
    assert parse_connection_string_untrusted(text) == FULL
    assert FULL.role is Role.CONNECTOR
    assert FULL.require_identity() == (FULL.identity, FULL.authority)
    assert str(FULL.require_target()) == "sql.corp.example:1433"
    assert len(text) < 2000
    assert text.startswith("Endpoint=hr://[2001:db8::1]/,hr://b.example.com/,hr://192.0.2.3/;")
    assert text.endswith(";Ports=probe=9350,http=off||data=1")


@pytest.mark.parametrize(
    "text",
    [
        PLAIN + ";",
        f"  {PLAIN}\n",
        PLAIN.replace(";", " ; "),
        PLAIN.replace("SharedAccessKey=", "sharedaccessKEY="),
        PLAIN.replace("hr://relay.example.com/", "sb://relay.example.com"),
        PLAIN.replace("hr:", "HR:"),
    ],
)
def test_spellings_of_other_programs_mean_the_same(text: str) -> None:
    assert parse_connection_string_untrusted(text) == parse_connection_string_untrusted(PLAIN)


A_AND_B = PLAIN.replace("hr://relay.example.com/", "hr://a.example/,hr://b.example/")


@pytest.mark.parametrize(
    ("ports", "first", "second", "written"),
    [
        ("", {}, {}, ""),
        (";Ports=data=1", {"data": 1}, {"data": 1}, ";Ports=data=1"),
        (";Ports=data=1|data=1", {"data": 1}, {"data": 1}, ";Ports=data=1"),
        (";Ports=data=1,http=off|data=2", {"data": 1, "http": None}, {"data": 2}, ";Ports=data=1,http=off|data=2"),
        (";Ports=data=1|", {"data": 1}, {}, ";Ports=data=1|"),
        (";Ports= | data=2", {}, {"data": 2}, ";Ports=|data=2"),
        (";Ports=|", {}, {}, ""),
    ],
)
def test_ports_of_several_relays(
    ports: str, first: dict[str, int | None], second: dict[str, int | None], written: str
) -> None:
    parsed = parse_connection_string_untrusted(A_AND_B + ports)
    assert parsed.endpoints == (Endpoint("a.example", first), Endpoint("b.example", second))
    assert parsed.format() == A_AND_B + written


def test_spellings_of_several_relays() -> None:
    spelled = A_AND_B.replace("hr://a.example/,", "SB://a.example , ")
    assert parse_connection_string_untrusted(spelled).hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("text", "part", "words"),
    [
        ("", None, "empty"),
        (" \n", None, "empty"),
        (PLAIN + "x" * 20_000, None, "longer"),
        (PLAIN.replace(";", "\n"), None, "line break"),
        (PLAIN + ";Target=h\u00f6st:1", None, "ASCII"),
        (PLAIN + ";Colour=red", "'Colour'", "unknown"),
        (PLAIN + ";c2VjcmV0LWtleS1mb3I=", "number 5", "unknown"),
        (PLAIN + ";c2VjcmV0", "number 5", "unknown"),
        (PLAIN + ";endpoint=hr://x/", "Endpoint", "twice"),
        (PLAIN.replace("Endpoint=hr://relay.example.com/;", ""), "Endpoint", "missing"),
        (PLAIN.replace("SharedAccessKeyName=app;", ""), "SharedAccessKeyName", "missing"),
        (PLAIN.replace("c2VjcmV0=", ""), "SharedAccessKey", "missing"),
        (PLAIN.replace(";EntityPath=team/db", ""), "EntityPath", "missing"),
        (PLAIN.replace("hr://", "hc://"), "Endpoint", "other schemes"),
        (PLAIN.replace("hr://", ""), "Endpoint", "hr://host/"),
        (PLAIN.replace(".com/", ".com/db"), "Endpoint", "EntityPath"),
        (PLAIN.replace(".com/", ".com/?x"), "Endpoint", "EntityPath"),
        (PLAIN.replace(".com/", ".com:443/"), "Endpoint", "Ports"),
        (PLAIN.replace("relay.example.com", "user@relay"), "Endpoint", "user name"),
        (PLAIN.replace("relay.example.com", ""), "Endpoint", "missing"),
        (PLAIN.replace("relay.example.com", "re lay"), "Endpoint", "host name"),
        (PLAIN.replace("relay.example.com", "a" * 64), "Endpoint", "host name"),
        (PLAIN.replace("relay.example.com", "a." * 128), "Endpoint", "host name"),
        (PLAIN.replace("relay.example.com", "-a.b"), "Endpoint", "host name"),
        (PLAIN.replace("relay.example.com", "[::1"), "Endpoint", "brackets"),
        (PLAIN.replace("relay.example.com", "::1"), "Endpoint", "brackets"),
        (PLAIN.replace("relay.example.com", "[::g]"), "Endpoint", "IPv6"),
        (PLAIN.replace("=app", "=a b"), "SharedAccessKeyName", "characters"),
        (PLAIN.replace("c2VjcmV0=", "c2 VjcmV0="), "SharedAccessKey", "characters"),
        (PLAIN.replace("team/db", "/db"), "EntityPath", "slash"),
        (PLAIN.replace("team/db", "team//db"), "EntityPath", "slash"),
        (PLAIN.replace("team/db", "team/../db"), "EntityPath", "segment"),
        (PLAIN.replace("team/db", "team/d%62"), "EntityPath", "consists"),
        (PLAIN.replace("team/db", "d" * 261), "EntityPath", "260"),
        (PLAIN + ";Target=host", "Target", "host:port"),
        (PLAIN + ";Target=host:0", "Target", "65535"),
        (PLAIN + ";Target=host:65536", "Target", "65535"),
        (PLAIN + ";Target=host:99999999", "Target", "65535"),
        (PLAIN + ";Target=host:1e3", "Target", "65535"),
        (PLAIN + ";Target=::1:80", "Target", "brackets"),
        (PLAIN + ";Target=[host]:80", "Target", "brackets"),
        (PLAIN + ";Target=:80", "Target", "missing"),
        (PLAIN + ";Target=", "Target", "host:port"),
        (PLAIN + ";PrivateKey=MAA=", "Certificate", "together with PrivateKey"),
        (PLAIN + ";Certificate=MAA=;Authority=MAA=", "PrivateKey", "together with Certificate"),
        (PLAIN + ";PrivateKey=%;Certificate=MAA=;Authority=MAA=", "PrivateKey", "Base64"),
        (PLAIN + ";PrivateKey=MAA=;Certificate=MAE=;Authority=MAA=", "Certificate", "cut short"),
        (PLAIN + ";PrivateKey=MAA=;Certificate=MAA=;Authority=", "Authority", "not one complete structure"),
        (PLAIN + ";Protocols=", "Protocols", "udp or tcp+udp"),
        (PLAIN + ";Protocols=tcp", "Protocols", "udp or tcp+udp"),
        (PLAIN + ";Target=host:53/udp;Protocols=udp", "Protocols", "together with Target"),
        (PLAIN + ";RelayPin=", "RelayPin", "sha256:"),
        (PLAIN + ";RelayPin=md5:AAAA", "RelayPin", "sha256:"),
        (PLAIN + ";RelayPin=sha256:!", "RelayPin", "Base64"),
        (PLAIN + ";RelayPin=sha256:AAAA", "RelayPin", "32 bytes"),
        (PLAIN + f";RelayPin={','.join([PIN] * 9)}", "RelayPin", "at most 8"),
        (PLAIN + ";Ports=data", "Ports", "name=number"),
        (PLAIN + ";Ports=data=x", "Ports", "65535"),
        (PLAIN + ";Ports=DATA=1", "Ports", "name=number"),
        (PLAIN + ";Ports=data=1,data=2", "Ports", "twice"),
        (PLAIN + ";Ports=" + ",".join(f"p{number}=1" for number in range(17)), "Ports", "at most 16"),
        (PLAIN + ";Ports=", "Ports", "name=number"),
        (PLAIN + ";Ports=data=1|data=2", "Ports", "2 lists of ports for 1 relay:"),
        (A_AND_B.replace("b.example", "a.example"), "Endpoint", "twice"),
        (A_AND_B.replace("b.example", "A.Example."), "Endpoint", "twice"),
        (A_AND_B.replace("a.example", "[::1]").replace("b.example", "[0:0::1]"), "Endpoint", "twice"),
        (A_AND_B.replace("hr://b.example/", ""), "Endpoint", "hr://host/"),
        (A_AND_B.replace("hr://b.example/", "b.example"), "Endpoint", "hr://host/"),
        (A_AND_B.replace("hr://b.example/", "https://b.example/"), "Endpoint", "other schemes"),
        (A_AND_B.replace("b.example/", "b.example/db"), "Endpoint", "EntityPath"),
        (A_AND_B.replace("b.example", "b.example:443"), "Endpoint", "Ports"),
        (PLAIN.replace("hr://relay", ",".join(f"hr://h{n}/" for n in range(8)) + ",hr://relay"), "Endpoint", "to 8"),
        (PLAIN.replace("hr://relay", "hr://h/," * 5000 + "hr://relay"), None, "longer"),
        (A_AND_B + ";Ports=data=1|data=2|data=3", "Ports", "3 lists of ports for 2 relays"),
        (A_AND_B + ";Ports=" + "|" * 5000, "Ports", "name=number"),
        (A_AND_B + ";Ports=data=1|data=x", "Ports", "65535"),
        (A_AND_B + ";Ports=data=1|data=1,data=2", "Ports", "twice"),
    ],
)
def test_what_is_wrong(text: str, part: str | None, words: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse_connection_string_untrusted(text)
    assert caught.value.part == part
    assert words in str(caught.value)
    if part is not None:
        assert part in str(caught.value)
    assert "c2V" not in f"{caught.value} {caught.value.remedy}"


def test_what_is_needed_and_absent() -> None:
    plain = parse_connection_string_untrusted(PLAIN)
    for require, part in ((plain.require_identity, "PrivateKey"), (plain.require_target, "Target")):
        with pytest.raises(ConnectionStringError) as caught:
            require()
        assert caught.value.part == part
        assert caught.value.remedy


class Changes(TypedDict, total=False):
    """Fields of a connection string."""

    endpoints: tuple[Endpoint, ...]
    key: Secret
    entity_path: str
    authority: bytes
    relay_pins: tuple[str, ...]


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoints": ()},
        {"endpoints": (Endpoint("a"), Endpoint("A"))},
        {"endpoints": tuple(Endpoint(f"h{number}") for number in range(9))},
        {"key": Secret("")},
        {"entity_path": ""},
        {"authority": b"x"},
        {"relay_pins": ("x",)},
        {"relay_pins": (PIN,) * 9},
    ],
)
def test_cannot_be_constructed_wrong(changes: Changes) -> None:
    right = ConnectionString(endpoints=(Endpoint("a"),), key_name="b", key=Secret("c"), entity_path="d")
    with pytest.raises(ValueError):
        attrs.evolve(right, **changes)


@pytest.mark.parametrize("protocols", Protocols)
def test_an_application_knows_what_the_target_receives(protocols: Protocols) -> None:
    string = attrs.evolve(parse_connection_string_untrusted(PLAIN), protocols=protocols)
    suffix = {Protocols.TCP: "", Protocols.UDP: ";Protocols=udp", Protocols.BOTH: ";Protocols=tcp+udp"}[protocols]
    assert string.format() == PLAIN + suffix
    assert parse_connection_string_untrusted(string.format()) == string


def test_a_connector_has_it_in_the_target() -> None:
    with pytest.raises(ValueError, match="protocols are for applications"):
        attrs.evolve(FULL, protocols=Protocols.UDP)


@pytest.mark.parametrize(("host", "ports"), [("a/b", {}), ("a", {"data": 0}), ("a", {"da;ta": 1}), ("a", {"a|b": 1})])
def test_an_impossible_endpoint_is_refused(host: str, ports: dict[str, int | None]) -> None:
    with pytest.raises(ValueError):
        Endpoint(host, ports)


@pytest.mark.parametrize("zone", ["a b", "a,b", "a;Target=c:1", "a|b", "a]", "a\nb", "", "x" * 65])
def test_an_address_has_no_zone_that_is_more_than_a_name(zone: str) -> None:
    with pytest.raises(ValueError, match="IPv6"):
        Endpoint(f"fe80::1%{zone}")


@pytest.mark.parametrize("text", ["sql:1433", "10.0.0.1:1", "[::1]:65535", "[fe80::1%eth0.7]:1", "a_b.local.:80"])
def test_host_and_port(text: str) -> None:
    assert str(parse_host_port_untrusted(text)) == text


def test_long_der_lengths() -> None:
    for size in (0, 127, 128, 255, 256, 65_535):
        header = bytes([0x30, size]) if size < 128 else b""
        if not header:
            length = size.to_bytes((size.bit_length() + 7) // 8, "big")
            header = bytes([0x30, 0x80 | len(length)]) + length
        from hybridrelay.security.encoding import decode_der_untrusted, encode_der

        der = header + bytes(size)
        assert decode_der_untrusted(encode_der(der)) == der
        with pytest.raises(ValueError, match="not one complete structure"):
            decode_der_untrusted(encode_der(der + b"x"))


hosts = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9](\.[a-z]{1,8}){0,3}", fullmatch=True) | st.ip_addresses().map(str)
ports = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True), st.none() | st.integers(1, 65535), max_size=6
)
strings = st.builds(
    ConnectionString,
    endpoints=st.lists(st.builds(Endpoint, hosts, ports), min_size=1, max_size=8, unique_by=lambda one: one.host).map(
        tuple
    ),
    key_name=st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True),
    key=st.from_regex(r"[A-Za-z0-9+/=]{1,60}", fullmatch=True).map(Secret),
    entity_path=st.from_regex(r"[A-Za-z0-9_-]{1,9}(/[A-Za-z0-9_-]{1,9}){0,2}", fullmatch=True),
    target=st.none() | st.builds(HostPort, hosts, st.integers(1, 65535)),
    identity=st.just(FULL.identity),
    authority=st.just(FULL.authority),
    relay_pins=st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(
        lambda digests: tuple("sha256:" + base64.b64encode(digest).decode() for digest in digests)
    ),
)


@given(strings)
def test_all_read_back(string: ConnectionString) -> None:
    assert parse_connection_string_untrusted(string.format()) == string


@given(st.text(max_size=300) | st.text(max_size=100).map(lambda text: f"{PLAIN};Target={text}"))
def test_arbitrary_text_raises_nothing_but_its_own_error(text: str) -> None:
    with contextlib.suppress(ConnectionStringError):
        parse_connection_string_untrusted(text)


SEVERAL = A_AND_B + ";Ports=data=1,http=off|data=2"


@given(st.integers(0, len(SEVERAL) - 1), st.characters(max_codepoint=255))
def test_a_mutated_string_is_refused_or_written_as_it_is_read(position: int, character: str) -> None:
    try:
        parsed = parse_connection_string_untrusted(SEVERAL[:position] + character + SEVERAL[position + 1 :])
    except ConnectionStringError:
        return
    assert parse_connection_string_untrusted(parsed.format()) == parsed


@pytest.fixture
def string_file(tmp_path: Path) -> Path:
    path = tmp_path / "application.txt"
    path.write_text(PLAIN + "\n", encoding="ascii")
    path.chmod(0o600)
    return path


def test_loads_from_a_file(string_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_connection_string(string_file).format() == PLAIN
    assert load_connection_string(str(string_file)).format() == PLAIN
    string_file.write_bytes(b"\xef\xbb\xbf" + PLAIN.encode() + b"\r\n")
    assert load_connection_string(string_file).format() == PLAIN
    assert not caplog.records


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_warns_of_readable_files(string_file: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    string_file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        load_connection_string(string_file)
    assert "chmod 600" in caplog.text


def test_loads_from_standard_input() -> None:
    assert load_connection_string("-", stdin=io.BytesIO(PLAIN.encode())).format() == PLAIN


def test_loads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_connection_string(environ={ENVIRONMENT_VARIABLE: PLAIN}).format() == PLAIN
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, PLAIN)
    assert load_connection_string().format() == PLAIN
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    with pytest.raises(ConfigurationError, match="no connection string") as caught:
        load_connection_string()
    assert ENVIRONMENT_VARIABLE in (caught.value.remedy or "")


def test_what_cannot_be_loaded(string_file: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_connection_string(string_file.with_name("nowhere"))
    with pytest.raises(ConfigurationError):
        load_connection_string("nul\0")
    with pytest.raises(ConfigurationError):
        load_connection_string(string_file.parent)
    string_file.write_bytes(b"")
    with pytest.raises(ConnectionStringError, match="is empty"):
        load_connection_string(string_file)
    string_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConnectionStringError, match=r"application\.txt: line 1 is not text"):
        load_connection_string(string_file)
    string_file.write_bytes(b"x" * 1_000_000)
    with pytest.raises(ConnectionStringError, match="larger"):
        load_connection_string(string_file)


def test_a_string_in_place_of_a_file_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_connection_string(PLAIN)
    assert "c2V" not in f"{caught.value} {caught.value.remedy} {caught.value.__cause__}"


# --- issuers

ISSUER = create_issuer(AUTHORITY, now=NOW)
WITH_ISSUER = attrs.evolve(FULL, issuer=ISSUER, authority=authority_for_connectors(AUTHORITY))


def test_a_connector_may_have_an_issuer() -> None:
    text = WITH_ISSUER.format()
    assert parse_connection_string_untrusted(text) == WITH_ISSUER
    assert ISSUER.private_key.reveal() not in repr(WITH_ISSUER)


def test_an_application_may_have_an_identity_of_an_issuer() -> None:
    identity = attrs.evolve(AUTHORITY.issue(Role.APPLICATION, "a", now=NOW), issuer=ISSUER.certificate)
    string = attrs.evolve(FULL, target=None, identity=identity)
    assert parse_connection_string_untrusted(string.format()) == string
    assert "IssuerKey" not in string.format()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (WITH_ISSUER.format().replace("IssuerKey=", "RelayPin=x;Unknown="), "Unknown"),
        (re.sub("IssuerKey=[^;]*;", "", WITH_ISSUER.format()), "IssuerKey"),
        (re.sub("IssuerCertificate=[^;]*;", "", WITH_ISSUER.format()), "IssuerCertificate"),
        (re.sub("Target=[^;]*;", "", WITH_ISSUER.format()), "IssuerKey"),
        (f"{PLAIN};IssuerCertificate=MAA=", "PrivateKey"),
        (f"{PLAIN};IssuerKey=MAA=", "IssuerCertificate"),
        (re.sub("IssuerKey=[^;]*;", "IssuerKey=?;", WITH_ISSUER.format()), "IssuerKey"),
    ],
)
def test_fields_about_an_issuer_that_do_not_fit(text: str, part: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse_connection_string_untrusted(text)
    assert caught.value.part in {part, f"'{part}'"}
    assert ISSUER.private_key.reveal() not in str(caught.value)


def test_only_a_connector_can_have_an_issuer() -> None:
    with pytest.raises(ValueError, match="only a connector"):
        attrs.evolve(FULL, target=None, issuer=ISSUER)
