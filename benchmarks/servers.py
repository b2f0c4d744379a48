"""Real servers for the far end: PostgreSQL and Redis, configured so that they do not wait for a disk."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from .ports import HOST, free_port
from .programs import Program, ProgramError, find, run
from .systems import Server

#: A client's first message (SSLRequest), to which the server answers with one byte.
_POSTGRESQL_HELLO = struct.pack("!II", 8, 80877103)
_SETTINGS = (
    f"listen_addresses={HOST}", "unix_socket_directories=", "max_connections=200",
    "fsync=off", "synchronous_commit=off", "full_page_writes=off",
)  # fmt: skip
PGBENCH_SCALE = 10


def find_postgresql(name: str) -> str | None:
    """Return the path of a program of PostgreSQL, or None. Debian installs the server's programs outside PATH."""
    directories = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((str(directory / name) for directory in directories if (directory / name).exists()), find(name))


def missing_postgresql() -> tuple[str, str] | None:
    """Return what is missing for PostgreSQL and pgbench, and how to get it; None if both are installed."""
    if all(map(find_postgresql, ("initdb", "postgres", "pgbench"))):
        return None
    return "PostgreSQL not found", "apt install postgresql postgresql-contrib"


def missing_redis() -> tuple[str, str] | None:
    """Return what is missing for Redis and its benchmark, and how to get it; None if both are installed."""
    if find("redis-server") and find("redis-benchmark"):
        return None
    return "Redis not found", "apt install redis-server redis-tools"


def start_postgresql(directory: Path) -> tuple[Program, Server]:
    """Start a new cluster with pgbench's tables.

    Raises:
        ProgramError: the cluster cannot be created on this machine.
    """
    initdb, server, pgbench = map(find_postgresql, ("initdb", "postgres", "pgbench"))
    if initdb is None or server is None or pgbench is None:
        raise ProgramError("PostgreSQL not found")
    directory.mkdir()
    user = _unprivileged(directory)
    data = directory / "data"
    run([*user, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
    port = free_port()
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    program = Program("postgresql", [*user, server, "-D", data, "-p", str(port), *settings], directory)
    try:
        program.wait_for_line("ready to accept connections")
        run(
            [pgbench, "-h", HOST, "-p", str(port), "-U", "postgres", "-i", "-q", "-s", str(PGBENCH_SCALE), "postgres"]
        )
    except BaseException:
        program.close()
        raise
    return program, Server(port, _POSTGRESQL_HELLO)


def start_redis(directory: Path) -> tuple[Program, Server]:
    """Start a Redis server that stores nothing on disk.

    Raises:
        ProgramError: Redis is not installed, or does not start.
    """
    redis = find("redis-server")
    if redis is None or find("redis-benchmark") is None:
        raise ProgramError("Redis not found")
    directory.mkdir()
    port = free_port()
    where = ["--port", str(port), "--bind", HOST, "--dir", str(directory)]
    command = [redis, *where, "--save", "", "--appendonly", "no"]
    program = Program("redis", command, directory)
    try:
        program.wait_for_line("Ready to accept connections")
    except BaseException:
        program.close()
        raise
    return program, Server(port, b"PING\r\n")


def _unprivileged(directory: Path) -> list[str]:
    """Return the command prefix that runs PostgreSQL's programs as an unprivileged user, because they refuse to run
    as root. Make this user own the directory."""
    if os.geteuid() != 0:
        return []
    import pwd

    setpriv = find("setpriv")
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = None
    if setpriv is None or user is None:
        raise ProgramError("PostgreSQL does not run as root, and there is no user postgres or no setpriv")
    os.chown(directory, user.pw_uid, user.pw_gid)
    for parent in [directory, *directory.parents[:2]]:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return [setpriv, "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--"]
