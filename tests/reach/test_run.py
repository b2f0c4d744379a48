"""Programs that `run` starts as an ordinary user: a static one in Go, two with musl, Java, and Node, in each of the
three ways."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..applications import NETWORKS, Runner, require_network, runner_for
from ..servers.conftest import Site, WebServer, find
from .conftest import PROGRAMS

URL = "http://intranet/"


@pytest.fixture(scope="module")
def runner(site: Site, nginx: WebServer) -> Iterator[Runner]:
    (nginx.root / "index.html").write_text("the intranet\n")
    published = site.deployment.create("reach-web", ("127.0.0.1", nginx.port), local_name="intranet:80")
    with site.deployment.start_connector(published), runner_for(published) as runner:
        yield runner


@pytest.fixture(scope="module")
def go_program(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program without the C library, which reads the hosts file and asks DNS servers itself."""
    program = runner.directory / "fetch"
    caches = {name: str(tmp_path_factory.mktemp(name)) for name in ("GOCACHE", "GOPATH")}
    subprocess.run(
        [find("go"), "build", "-o", program, PROGRAMS / "fetch.go"],
        check=True, env={**os.environ, **caches, "CGO_ENABLED": "0", "GO111MODULE": "off"},
    )  # fmt: skip
    program.chmod(0o755)
    return program


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return require_network(request.param)


def test_a_static_program_reaches_the_web_server(runner: Runner, go_program: Path, network: str) -> None:
    done = runner.run("--network", network, "--", go_program, URL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the intranet\n", "")


@pytest.fixture(scope="module", params=["static", "dynamic"])
def musl_program(request: pytest.FixtureRequest, runner: Runner) -> Path:
    """A program with the C library of Alpine Linux."""
    program = runner.directory / f"fetch-{request.param}"
    options = ["-static"] if request.param == "static" else []
    subprocess.run([find("musl-gcc"), *options, "-o", program, PROGRAMS / "fetch.c"], check=True)
    program.chmod(0o755)
    return program


def test_a_program_of_musl_resolves_the_name_unless_its_connections_are_intercepted(
    runner: Runner, musl_program: Path, network: str
) -> None:
    """With `intercept`, its resolver ignores the answers to redirected queries (docs/run.md)."""
    done = runner.run("--network", network, "--", musl_program, "intranet", "80")
    if network == "intercept":
        assert (done.returncode, done.stderr) == (3, "the name does not resolve\n")
    else:
        assert (done.returncode, done.stdout.partition("\n\n")[2]) == (0, "the intranet\n")
    done = runner.run("--network", network, "--as", "10.20.30.40:80", "--", musl_program, "10.20.30.40", "80")
    assert (done.returncode, done.stdout.partition("\n\n")[2]) == (0, "the intranet\n")


def test_a_program_in_java_reaches_the_web_server(runner: Runner, network: str) -> None:
    source = runner.directory / "Fetch.java"
    shutil.copy(PROGRAMS / "Fetch.java", source)
    source.chmod(0o644)
    done = runner.run("--network", network, "--", find("java"), source, URL)
    assert (done.returncode, done.stdout) == (0, "the intranet\nthe intranet\n")


def test_a_program_in_node_reaches_the_web_server(runner: Runner, network: str) -> None:
    script = f"fetch('{URL}').then(answer => answer.text()).then(text => process.stdout.write(text))"
    done = runner.run("--network", network, "--", find("node"), "-e", script)
    assert (done.returncode, done.stdout) == (0, "the intranet\n")
