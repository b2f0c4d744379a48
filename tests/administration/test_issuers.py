"""Giving a hybrid connection an issuer: in the authority file, and in connector files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hybridrelay.administration import NewFiles, create_connection, make_issuer
from hybridrelay.administration.connections import make_connection_string
from hybridrelay.errors import ConfigurationError
from hybridrelay.security import HostPort, Role, load_connection_string

NOW = time.time()


def create(directory: Path, name: str = "orders", *, has_issuer: bool = False) -> NewFiles:
    files = NewFiles(*(directory / f"{name}.{role}" for role in ("connector", "application", "authority", "relay")))
    create_connection(
        name, target=HostPort("db", 5432), hosts=["relay.example.com"], files=files, has_issuer=has_issuer, now=NOW
    )
    return files


def test_a_hybrid_connection_is_created_with_an_issuer(tmp_path: Path) -> None:
    files = create(tmp_path, has_issuer=True)
    connector, application = map(load_connection_string, (files.connector, files.application))
    assert connector.issuer is not None
    assert connector.authority is not None
    connector.issuer.check(connector.authority)
    assert application.issuer is None
    assert application.authority != connector.authority
    another = make_connection_string("orders", Role.CONNECTOR, "b", authority_path=files.authority, now=NOW)
    assert (another.issuer, another.authority) == (connector.issuer, connector.authority)
    assert files.relay is not None
    assert connector.issuer.private_key.reveal() not in files.relay.read_text()


def test_a_hybrid_connection_gets_an_issuer_later_and_another_one(tmp_path: Path) -> None:
    files = create(tmp_path)
    before = load_connection_string(files.connector)
    made = make_issuer("orders", files.authority, [files.connector], now=NOW)
    assert set(made.written.updated) == {files.authority, files.connector}
    first = load_connection_string(files.connector)
    assert first.issuer is not None
    assert first.authority is not None
    first.issuer.check(first.authority)
    assert (first.identity, first.key, first.target) == (before.identity, before.key, before.target)
    make_issuer("orders", files.authority, [files.connector], now=NOW, valid_years=1)
    second = load_connection_string(files.connector)
    assert second.issuer not in (None, first.issuer)
    assert second.authority == first.authority


@pytest.mark.parametrize("which", ["application", "authority", "another"])
def test_files_that_get_no_issuer(tmp_path: Path, which: str) -> None:
    files, other = create(tmp_path), create(tmp_path, "others")
    path = {"application": files.application, "authority": files.authority, "another": other.connector}[which]
    before = path.read_text(), files.authority.read_text()
    with pytest.raises(ConfigurationError):
        make_issuer("orders", files.authority, [path], now=NOW)
    assert (path.read_text(), files.authority.read_text()) == before


def test_a_connector_of_an_earlier_hybrid_connection_of_the_same_name(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for directory in (first, second):
        directory.mkdir()
    files, other = create(first), create(second)
    with pytest.raises(ConfigurationError, match="an authority other than"):
        make_issuer("orders", files.authority, [other.connector], now=NOW)
