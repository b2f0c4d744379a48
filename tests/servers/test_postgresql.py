"""psql, pgbench and psycopg against a real PostgreSQL, through relay, connector and forward."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from hybridrelay.client import ClientConfig, forward_in_thread

from ..deployments import Deployment, Published
from ..waiting import wait_until
from .conftest import MODES, Site, find, run

ROWS = 200_000
#: What a client waits before it connects again: without it, four of them take all processors.
PAUSE_SECONDS = 0.05


@pytest.fixture(scope="module")
def port(site: Site, postgresql: int, mode: str) -> Iterator[int]:
    with site.forward("postgresql", postgresql, mode) as port:
        yield port


def psql(port: int, *arguments: str | Path) -> str:
    address = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", "postgres"]
    return run([find("psql"), *address, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *arguments]).strip()


def test_psql_asks_and_gets_answers(port: int) -> None:
    assert psql(port, "-c", "SELECT 6 * 7") == "42"
    assert psql(port, "-c", "SELECT count(*) FROM generate_series(1, 100000)") == "100000"


def test_psql_over_a_unix_socket(site: Site, postgresql: int) -> None:
    """At the path that psql expects in a directory."""
    published = site.deployment.create("postgresql-unix", ("127.0.0.1", postgresql))
    directory = site.deployment.directory / "run"
    directory.mkdir()
    listen = f"unix:{directory}/.s.PGSQL.5432,mode=660"
    with (
        site.deployment.start_connector(published),
        site.deployment.start("forward", "--connection-string-file", published.application, "--listen", listen),
    ):
        address = ["-h", str(directory), "-U", "postgres", "-d", "postgres"]
        query = "SELECT length(repeat('x', 1000000)), inet_client_addr()"
        assert run([find("psql"), *address, "-X", "-q", "-A", "-t", "-c", query]).strip() == "1000000|127.0.0.1"


def test_the_unix_socket_of_postgresql_as_target(site: Site, postgresql: int, tmp_path: Path) -> None:
    """PostgreSQL itself says over which socket the connector has come, and everything arrives."""
    directory = psql(postgresql, "-c", "SHOW unix_socket_directories")
    (tmp_path / "run").symlink_to(directory)
    published = site.deployment.create("postgresql-target", f"unix:{tmp_path}/run/.s.PGSQL.{postgresql}")
    connector = site.deployment.start_connector(published, arguments=["--check-target", "--status", "127.0.0.1:0"])
    forward = site.deployment.start_forward(published)
    with connector, forward.program:
        assert (
            psql(forward.port, "-c", "SELECT inet_client_addr() IS NULL, length(repeat('x', 1000000))") == "t|1000000"
        )
        psql(forward.port, "-c", f"CREATE TABLE over_unix AS SELECT generate_series(1, {ROWS}) AS n")
        lines = "".join(f"{number}\n" for number in range(1, ROWS + 1))
        copied = psql(forward.port, "-c", "\\copy (SELECT n FROM over_unix ORDER BY n) TO STDOUT")
        assert copied == lines.strip()
        # The audit log has the path that was configured, and the one to which it leads.
        name = f".s.PGSQL.{postgresql}"
        at = f"target='unix:{tmp_path}/run/{name}' .*address='unix:{directory}/{name}'"
        connector.wait_for_line(at, where="err")


def test_psql_copies_a_big_table_both_ways(port: int, tmp_path: Path) -> None:
    """Some 20 MB: out of one table, into a file, into another table, with nothing changed."""
    psql(port, "-c", "DROP TABLE IF EXISTS original, copy")
    psql(
        port, "-c",
        f"CREATE TABLE original AS SELECT i, repeat(md5(i::text), 3) AS t FROM generate_series(1, {ROWS}) AS i",
        "-c", "CREATE TABLE copy (LIKE original)",
    )  # fmt: skip
    file = tmp_path / "table"
    psql(port, "-c", f"\\copy (SELECT * FROM original ORDER BY i) TO '{file}'")
    lines = "".join(
        f"{i}\t{hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest() * 3}\n" for i in range(1, ROWS + 1)
    )
    assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(lines.encode()).digest()
    psql(port, "-c", f"\\copy copy FROM '{file}'")
    different = "(TABLE original EXCEPT TABLE copy) UNION ALL (TABLE copy EXCEPT TABLE original)"
    assert psql(port, "-c", f"SELECT count(*) FROM ({different}) AS d") == "0"
    assert psql(port, "-c", "SELECT count(*) FROM copy") == str(ROWS)


def test_a_transaction_is_taken_back(port: int) -> None:
    statements = "DROP TABLE IF EXISTS t|CREATE TABLE t (n int)|BEGIN|INSERT INTO t VALUES (1)|ROLLBACK"
    statements += "|BEGIN|INSERT INTO t VALUES (2)|COMMIT|SELECT n FROM t"
    # Each -c is a request of its own on the same connection.
    assert psql(port, *(part for statement in statements.split("|") for part in ("-c", statement))) == "2"


def test_pgbench_with_eight_clients(port: int) -> None:
    address = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    run([find("pgbench"), *address, "-i", "-q", "-s", "1", "postgres"])
    report = run([find("pgbench"), *address, "-c", "8", "-j", "2", "-t", "200", "postgres"])
    print(report)
    assert re.search(r"transactions actually processed: 1600/1600", report)
    assert re.search(r"failed transactions: 0 ", report)


@pytest.fixture(scope="module")
def published(site: Site, postgresql: int) -> Iterator[Published]:
    published = site.deployment.create("psycopg", ("127.0.0.1", postgresql))
    with site.deployment.start_connector(published):
        yield published


@pytest.mark.parametrize("mode", MODES)
def test_psycopg_in_a_program_without_trio(published: Published, mode: str) -> None:
    data = os.urandom(1_000_000)
    text = published.application.read_text()
    with (
        forward_in_thread(ClientConfig(text, mode=mode)) as (host, port),
        psycopg.connect(host=host, port=port, user="postgres", dbname="postgres") as connection,
    ):
        assert connection.execute("SELECT 6 * 7").fetchone() == (42,)
        assert connection.execute("SELECT %b", [data]).fetchone() == (data,)
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", [n]) for n in range(100)]
        assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(100)]


def test_clients_that_reconnect_ride_over_the_restart_of_a_relay(postgresql: int, tmp_path: Path) -> None:
    stop = threading.Event()
    asked = [0] * 4
    errors: list[psycopg.Error] = []

    def ask_again_and_again(number: int, port: int) -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(host="127.0.0.1", port=port, user="postgres", connect_timeout=60) as connection:
                    connection.execute("SELECT 1")
                asked[number] += 1
                stop.wait(PAUSE_SECONDS)
            except psycopg.Error as exc:
                errors.append(exc)

    def all_ask() -> None:
        before = list(asked)
        wait_until(
            lambda: errors or all(now > then + 2 for now, then in zip(asked, before, strict=True)),
            seconds=60, what="every client is served",
        )  # fmt: skip

    with Deployment(tmp_path) as deployment:
        # Otherwise, its workers would keep the data channel for a minute, and the session would not be interrupted.
        relay = deployment.start_relay("--keep-pairs", "0")
        published = deployment.create("restart", ("127.0.0.1", postgresql))
        deployment.start_connector(published)
        forward = deployment.start_forward(published, arguments=["--open-patience", "60"])
        clients = [
            threading.Thread(target=ask_again_and_again, args=(number, forward.port)) for number in range(len(asked))
        ]
        for client in clients:
            client.start()
        try:
            all_ask()
            relay.kill()
            forward.program.wait_for_line("session.interrupted", where="err")
            deployment.start_relay()
            all_ask()
        finally:
            stop.set()
            for client in clients:
                client.join(60)
    assert not errors
    assert "stream.failed" not in forward.program.err
