"""MariaDB's command line client against a real server, through relay, connector and forward."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest

from .conftest import Site, find, run


@pytest.fixture(scope="module")
def port(site: Site, mariadb: int, mode: str) -> Iterator[int]:
    with site.forward("mariadb", mariadb, mode) as port:
        yield port


def sql(port: int, script: str) -> str:
    address = ["--protocol=tcp", "-h", "127.0.0.1", "-P", str(port), "-u", "app"]
    return run(
        [find("mariadb"), "--no-defaults", *address, "--max-allowed-packet=64M", "-B", "-N", "app"],
        text_in=script,
        environment={"MYSQL_PWD": "secret"},
    ).strip()


def test_a_table_is_made_filled_and_read(port: int) -> None:
    script = """
        DROP TABLE IF EXISTS orders;
        CREATE TABLE orders (n INT PRIMARY KEY, name VARCHAR(100));
        INSERT INTO orders VALUES (1, 'one'), (2, 'two');
        SELECT name FROM orders ORDER BY n;
        """
    assert sql(port, script).splitlines() == ["one", "two"]


def test_a_large_blob_arrives_unchanged(port: int) -> None:
    data = os.urandom(1 << 20)
    script = f"""
        DROP TABLE IF EXISTS blobs;
        CREATE TABLE blobs (data LONGBLOB);
        INSERT INTO blobs VALUES (x'{data.hex()}');
        SELECT MD5(data) FROM blobs;
        SELECT HEX(data) FROM blobs;
        """
    digest, content = sql(port, script).split()
    assert digest == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert bytes.fromhex(content) == data


def test_a_large_result_arrives_whole(port: int) -> None:
    lines = sql(port, "SELECT seq, MD5(seq) FROM seq_1_to_100000;").splitlines()
    expected = [f"{n}\t{hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest()}" for n in range(1, 100_001)]
    assert lines == expected


def test_a_transaction_is_taken_back(port: int) -> None:
    script = """
        DROP TABLE IF EXISTS t;
        CREATE TABLE t (n INT) ENGINE=InnoDB;
        START TRANSACTION; INSERT INTO t VALUES (1); ROLLBACK;
        START TRANSACTION; INSERT INTO t VALUES (2); COMMIT;
        SELECT n FROM t;
        """
    assert sql(port, script) == "2"
