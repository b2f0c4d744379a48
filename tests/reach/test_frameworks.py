"""Java, PHP and Node with their usual drivers, against real servers."""

from __future__ import annotations

import os
from pathlib import Path

from ..servers.conftest import find
from .conftest import PROGRAMS, Reached


def test_jdbc_drivers_reach_the_databases(reached: Reached, installed: Path) -> None:
    jars = os.pathsep.join(str(jar) for jar in sorted((installed / "jars").glob("*.jar")))
    urls = (
        f"jdbc:postgresql://{reached.at['postgresql']}/postgres?user=postgres",
        f"jdbc:mariadb://{reached.at['mariadb']}/app?user=app&password=secret",
    )
    assert reached.run(find("java"), "-cp", jars, PROGRAMS / "Databases.java", *urls) == ["PostgreSQL", "MariaDB"]


def test_extensions_of_php_reach_the_databases(reached: Reached) -> None:
    servers = (reached.at["postgresql"], reached.at["mariadb"])
    assert reached.run(find("php"), PROGRAMS / "databases.php", *servers) == ["mysqli", "mysql", "pgsql"]


def test_packages_of_node_reach_the_databases(reached: Reached, installed: Path) -> None:
    urls = (
        f"postgres://postgres@{reached.at['postgresql']}/postgres",
        f"mysql://app:secret@{reached.at['mariadb']}/app",
        f"redis://{reached.at['redis']}",
    )
    environment = {"NODE_PATH": str(installed / "node_modules")}
    output = reached.run(find("node"), PROGRAMS / "databases.js", *urls, environment=environment)
    assert output == ["pg", "mysql2", "ioredis"]
