"""The recipes of docs/embedding.md, as they are there, against real servers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..certificates import CertificateAuthority
from ..deployments import Program, Published
from ..waiting import patience
from .conftest import Site, WebServer, missing
from .tds import tds_responder

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


@pytest.fixture(scope="module")
def published(
    site: Site, postgresql: int, mariadb: int, redis: int, nginx: WebServer
) -> Iterator[dict[str, Published]]:
    """Hybrid connections to all servers, from one connector."""
    (nginx.root / "greeting").write_text("hello")
    ports = {"postgresql": postgresql, "mariadb": mariadb, "redis": redis, "nginx": nginx.port}
    made = {name: site.deployment.create(f"recipe-{name}", ("127.0.0.1", port)) for name, port in ports.items()}
    with site.deployment.start_connector(*made.values()):
        yield made


def directory_for(published: Published, directory: Path, *modules: str) -> Path:
    """A directory with the connection string where the recipes expect it. Skips the test without their packages."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            missing(f"the Python package {module}", "the dependency group `recipes`")
    (directory / "application.txt").write_text(published.application.read_text())
    (directory / "application.txt").chmod(0o600)
    return directory


def run_in(directory: Path, *command: str | Path, **environment: str) -> str:
    """Run Python in the directory. Returns the standard output."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        check=False, cwd=directory, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=patience(60),
    )  # fmt: skip
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("recipe", "server", "modules", "says"),
    [
        ("postgresql_psycopg", "postgresql", ["psycopg"], "1\n2\n3"),
        ("postgresql_asyncpg", "postgresql", ["asyncpg"], "380"),
        ("mysql_pymysql", "mariadb", ["pymysql"], "(42,)"),
        ("sqlalchemy_engine", "mariadb", ["pymysql", "sqlalchemy"], "2"),
        ("redis_sync", "redis", ["redis"], "hello"),
        ("redis_asyncio", "redis", ["redis"], "20"),
        ("http_requests", "nginx", ["requests"], "hello"),
        ("http_httpx", "nginx", ["httpx"], "{'hello'}"),
    ],
)
def test_a_recipe_runs_as_it_is(
    published: dict[str, Published], tmp_path: Path, recipe: str, server: str, modules: list[str], says: str
) -> None:
    directory = directory_for(published[server], tmp_path, *modules)
    assert run_in(directory, RECIPES / f"{recipe}.py") == says


def test_the_recipe_for_sql_server_verifies_the_certificate_and_logs_in(site: Site, tmp_path: Path) -> None:
    """Its beginning, against a responder: PRELOGIN, TLS inside of TDS, login and rows inside of TLS."""
    name = "sql01.corp.example"
    authority = CertificateAuthority()
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(b"".join(authority.issue(name, common_name=name)))
    authority.write(tmp_path / "ca.pem")
    recipe = RECIPES / "sqlserver_pytds.py"
    with tds_responder(certificate, "app", "secret") as port:
        published = site.deployment.create("recipe-sql", ("127.0.0.1", port))
        with site.deployment.start_connector(published):
            directory = directory_for(published, tmp_path, "pytds", "OpenSSL")
            assert run_in(directory, recipe) == str(20_000 * 20_001 // 2)
            CertificateAuthority().write(tmp_path / "ca.pem")
            with pytest.raises(AssertionError, match="certificate verify failed"):
                run_in(directory, recipe)
    with tds_responder(certificate, "app", "another password") as port:
        published = site.deployment.create("recipe-sql-2", ("127.0.0.1", port))
        authority.write(tmp_path / "ca.pem")
        with site.deployment.start_connector(published):
            with pytest.raises(AssertionError, match="Login failed"):
                run_in(directory_for(published, tmp_path), recipe)


def test_the_recipe_for_django_uses_the_database(published: dict[str, Published], tmp_path: Path) -> None:
    directory = directory_for(published["postgresql"], tmp_path, "django", "psycopg")
    settings = {"DJANGO_SETTINGS_MODULE": "django_settings", "PYTHONPATH": str(RECIPES)}
    run_in(directory, "-m", "django", "migrate", "--verbosity", "0", **settings)
    users = (
        "from django.contrib.auth.models import User; User.objects.create_user('ada'); print(User.objects.count())"
    )
    assert run_in(directory, "-m", "django", "shell", "--verbosity", "0", "-c", users, **settings) == "1"


def test_the_recipe_for_fastapi_serves_and_shuts_down(
    published: dict[str, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory_for(published["postgresql"], tmp_path, "fastapi", "uvicorn", "asyncpg"))
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        RECIPES,
        "fastapi_lifespan:app",
        "--port",
        "0",
    ]
    with Program(command, name="uvicorn") as server:
        address = server.wait_for_line(r"running on (http://[0-9.:]+)", where="err")[1]
        with urllib.request.urlopen(f"{address}/double/21", timeout=patience(30)) as answer:
            assert json.load(answer) == {"answer": 42}
        server.process.send_signal(signal.SIGINT)
        server.wait()
        assert "Application shutdown complete" in server.err
        assert "Traceback" not in server.err


def test_every_recipe_is_in_the_documentation_and_is_tested() -> None:
    """`python docs/generate.py` puts them into the page."""
    page = (RECIPES.parent / "embedding.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- recipe: (\w+) -->", page)
    assert sorted(shown) == sorted(path.stem for path in RECIPES.glob("*.py"))
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in shown if name not in tests] == []
