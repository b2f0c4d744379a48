"""What the command makes of the options of the management API."""

from __future__ import annotations

from pathlib import Path

from hybridrelay.cli.commands.relay import make_management
from hybridrelay.cli.parser import build_parser
from hybridrelay.events import CertificateUnchanged, Event, EventStream
from hybridrelay.management import ManagementTcp

from ..certificates import CertificateAuthority


async def test_the_events_of_the_management_api_are_among_those_of_the_relay(tmp_path: Path) -> None:
    certificate, key = CertificateAuthority().issue("127.0.0.1")
    path = tmp_path / "certificate.pem"
    path.write_bytes(certificate + key)
    options = ["--management", "127.0.0.1:0", "--management-tls-certificate", str(path)]
    happened: list[Event] = []
    made = make_management(build_parser().parse_args(["relay", *options]))
    tcp = ManagementTcp(made, events=EventStream(happened.append))
    assert not await tcp.reload()
    assert happened == [CertificateUnchanged(file=str(path))]
