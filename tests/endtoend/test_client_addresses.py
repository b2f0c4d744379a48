"""What target and audit log learn about a client that connects to the relay over IPv6 (`--client-addresses`)."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path

import attrs
import pytest

from hybridrelay.connector.proxy_header import CONNECTION, LABEL, UNIQUE_ID

from ..deployments import Deployment
from ..waiting import patience, wait_until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def has_ipv6() -> bool:
    """Whether the loopback interface has ``::1``."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@attrs.frozen
class Header:
    """A PROXY header of version 2, taken apart as its specification says."""

    #: The byte with family and protocol.
    family: int
    #: The block of addresses and ports.
    addresses: bytes
    #: The additional fields by their types.
    fields: dict[int, bytes]
    #: What follows the header.
    rest: bytes

    @classmethod
    def of(cls, data: bytes) -> Header:
        assert data[:12] == SIGNATURE
        assert data[12] == 0x21, "version 2, and the connection is of somebody else"
        end = 16 + int.from_bytes(data[14:16])
        begin = 16 + {0x00: 0, 0x11: 12, 0x21: 36}[data[13]]
        fields, at = {}, begin
        while at < end:
            size = int.from_bytes(data[at + 1 : at + 3])
            fields[data[at]] = data[at + 3 : at + 3 + size]
            at += 3 + size
        assert at == end
        return cls(data[13], data[16:begin], fields, data[end:])


def through_the_relay(local: int, target: socket.socket) -> bytes:
    """Connect as an application, and return what the target receives."""
    with socket.create_connection(("127.0.0.1", local), timeout=patience(30)) as application:
        application.sendall(b"hello")
        application.shutdown(socket.SHUT_WR)
        accepted, _ = target.accept()
        with accepted, accepted.makefile("rb") as file:
            return file.read()


def addresses_in_audit(directory: Path) -> list[str]:
    """The addresses of clients in the records of streams that were opened."""
    lines = [line for file in sorted(directory.glob("audit-*.jsonl")) for line in file.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return [one.get("client_address", "") for one in records if one["event"] == "stream.opened"]


@pytest.mark.parametrize("target_host", ["::1", "127.0.0.1"])
@pytest.mark.parametrize(
    ("setting", "is_exact", "stated"), [("exact", True, "::1"), ("network", False, "::/64"), ("none", False, "")]
)
def test_a_client_with_an_ipv6_address(
    tmp_path: Path, setting: str, is_exact: bool, stated: str, target_host: str
) -> None:
    """The header has the exact address, or none; a target with an IPv4 address gets that as an IPv6 address."""
    family = socket.AF_INET6 if target_host == "::1" else socket.AF_INET
    with (
        Deployment(tmp_path, host="::1") as deployment,
        socket.create_server((target_host, 0), family=family) as target,
    ):
        target.settimeout(patience(30))
        port = target.getsockname()[1]
        deployment.start_relay("--client-addresses", setting)
        text = f"[::1]:{port}" if target_host == "::1" else f"127.0.0.1:{port}"
        published = deployment.create("orders", text, endpoint="::1")
        config, audit = tmp_path / "connector.toml", tmp_path / "audit"
        config.write_text(f'[[connection]]\nfile = "{published.connector.name}"\nproxy-protocol = true\n')
        deployment.start("connector", "--config", config, "--audit-dir", audit)
        forward = deployment.start_forward(published)
        header = Header.of(through_the_relay(forward.port, target))

        assert header.rest == b"hello"
        assert header.fields.keys() == {UNIQUE_ID, LABEL, CONNECTION}
        assert (header.fields[LABEL], header.fields[CONNECTION]) == (b"application", b"orders")
        if is_exact:
            mapped = ipaddress.IPv6Address("::1" if target_host == "::1" else f"::ffff:{target_host}")
            source = ipaddress.IPv6Address("::1")
            expected = source.packed + mapped.packed + (0).to_bytes(2) + port.to_bytes(2)
            assert (header.family, header.addresses) == (0x21, expected)
        else:
            assert (header.family, header.addresses) == (0x00, b"")
        wait_until(lambda: addresses_in_audit(audit) == [stated], seconds=30, what="the record of the stream")
