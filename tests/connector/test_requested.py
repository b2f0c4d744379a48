"""Which port of a target a stream is for: never one that the connector's own connection string does not have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connector.requested import first_target, requested_untrusted, watched_targets
from hybridrelay.protocol import Kind, Metadata, MetadataEntry
from hybridrelay.protocol.metadata import NO_METADATA
from hybridrelay.protocol.open_metadata import PORT, port_metadata
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    HostPort,
    HostPorts,
    NamedInstance,
    PortSet,
    Protocols,
    StreamTarget,
    Target,
    UnixSocket,
)

FTP = HostPorts("ftp.corp", PortSet([(21, 21), (50000, 50100)]))
DATABASE = HostPort("db.corp", 5432)
SOCKET = UnixSocket("/run/db.sock")
INSTANCE = NamedInstance("sql01", "SQLEXPRESS")


@pytest.mark.parametrize(
    ("target", "metadata", "wanted", "reason"),
    [
        (FTP, NO_METADATA, HostPort("ftp.corp", 21), None),
        (FTP, port_metadata(50100), HostPort("ftp.corp", 50100), None),
        (FTP, port_metadata(22), HostPort("ftp.corp", 22), Reason.PORT_NOT_PUBLISHED),
        (DATABASE, NO_METADATA, DATABASE, None),
        (DATABASE, port_metadata(5432), DATABASE, None),
        (DATABASE, port_metadata(22), HostPort("db.corp", 22), Reason.PORT_NOT_PUBLISHED),
        (SOCKET, NO_METADATA, SOCKET, None),
        (INSTANCE, NO_METADATA, INSTANCE, None),
        (INSTANCE, port_metadata(1433), INSTANCE, Reason.PORT_NOT_PUBLISHED),
        (SOCKET, port_metadata(22), SOCKET, Reason.PORT_NOT_PUBLISHED),
        (FTP, Metadata([MetadataEntry(PORT, b"\0\0")]), FTP.first, Reason.METADATA_NOT_UNDERSTOOD),
        (FTP, Metadata([MetadataEntry(PORT, b"21")]), HostPort("ftp.corp", 0x3231), Reason.PORT_NOT_PUBLISHED),
        (FTP, Metadata([MetadataEntry(PORT, b"")]), FTP.first, Reason.METADATA_NOT_UNDERSTOOD),
    ],
)
def test_only_published_ports_are_connected_to(
    target: Target, metadata: Metadata, wanted: StreamTarget, reason: Reason | None
) -> None:
    found = requested_untrusted(target, metadata)
    assert found.target == wanted
    assert (None if found.refusal is None else found.refusal.reason) is reason


DNS = HostPort("dns.corp", 53, protocols=Protocols.BOTH)
KERBEROS = HostPorts("kdc.corp", PortSet([(88, 88), (464, 464)]), protocols=Protocols.UDP)


@pytest.mark.parametrize(
    ("target", "kind", "port", "wanted", "reason"),
    [
        (DNS, Kind.STREAM, None, "dns.corp:53", None),
        (DNS, Kind.DATAGRAMS, None, "dns.corp:53/udp", None),
        (DNS, Kind.DATAGRAMS, 54, "dns.corp:54/udp", Reason.PORT_NOT_PUBLISHED),
        (KERBEROS, Kind.DATAGRAMS, None, "kdc.corp:88/udp", None),
        (KERBEROS, Kind.DATAGRAMS, 464, "kdc.corp:464/udp", None),
        (KERBEROS, Kind.STREAM, 464, "kdc.corp:464", Reason.KIND_NOT_OFFERED),
        (KERBEROS, Kind.STREAM, None, "kdc.corp:88", Reason.KIND_NOT_OFFERED),
        (DATABASE, Kind.DATAGRAMS, None, "db.corp:5432/udp", Reason.KIND_NOT_OFFERED),
        (SOCKET, Kind.DATAGRAMS, None, "unix:/run/db.sock", Reason.KIND_NOT_OFFERED),
    ],
)
def test_a_port_is_connected_to_only_over_its_protocols(
    target: Target, kind: Kind, port: int | None, wanted: str, reason: Reason | None
) -> None:
    found = requested_untrusted(target, port_metadata(port), kind)
    assert str(found.target) == wanted
    assert (None if found.refusal is None else found.refusal.reason) is reason


def test_only_the_log_of_the_private_network_says_which_ports_there_are() -> None:
    refusal = requested_untrusted(FTP, port_metadata(22)).refusal
    assert refusal is not None
    assert refusal.detail == "the client has asked for port 22, and the target is ftp.corp:21,50000-50100"
    assert refusal.client_text == "this hybrid connection has no port 22"


@given(
    st.sampled_from([FTP, DATABASE, SOCKET]),
    st.builds(lambda value: Metadata([MetadataEntry(PORT, value)]), st.binary(max_size=6)),
)
def test_whatever_a_client_sends_nothing_else_is_dialed(target: Target, metadata: Metadata) -> None:
    found = requested_untrusted(target, metadata)
    if found.refusal is None:
        assert found.target in (list(target.each) if isinstance(target, HostPorts) else [target])


@pytest.mark.parametrize(
    ("target", "watched"),
    [
        (DATABASE, [5432]),
        (HostPorts("kdc", PortSet.of([88, 464, 750])), [88, 464, 750]),
        (FTP, [21]),
        (HostPorts("ftp", PortSet([(2000, 2010), (3000, 3000)])), [2000, 3000]),
        (HostPorts("many", PortSet.of(range(1, 200, 2))), list(range(1, 33, 2))),
    ],
    ids=str,
)
def test_the_ports_whose_health_counts(target: HostPort | HostPorts, watched: list[int]) -> None:
    found = watched_targets(target)
    assert [one.port for one in found if isinstance(one, HostPort)] == watched
    assert found[0] == first_target(target)


def test_other_kinds_of_targets_have_one_health() -> None:
    for target in (SOCKET, INSTANCE):
        assert watched_targets(target) == (target,)
