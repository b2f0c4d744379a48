"""Everything that checks the project: ``nox`` runs what a change has to pass, ``nox -l`` lists the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import nox
import nox.command

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["check"]

#: The drivers that the Java program of tests/reach uses, at Maven Central.
DRIVERS = ("org.postgresql:postgresql:42.7.7", "org.mariadb.jdbc:mariadb-java-client:3.5.3")
COPY_DRIVER = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
PROJECT = nox.project.load_toml("pyproject.toml")
BULK_BYTES = 1 << 30
#: The minor versions of Python 3 that the project supports.
VERSIONS = range(11, 15)
#: Most tests wait for processes and sockets, not for the processor, so two cores keep this many workers busy. A file
#: stays with one worker, because its tests share servers and namespaces.
#: The files are distributed in the given order, and not, as otherwise, those with the fewest tests last.
WORKERS = ("--numprocesses=4", "--dist=loadfile", "--no-loadscope-reorder")
#: The directories with the longest files come first, so that no worker is left alone with one of them at the end.
#: No path may contain another one: pytest would keep only the outer one, and its order.
LONG = ("tests/network", "tests/endtoend", "tests/servers", "tests/system", "tests/cli", "tests/management")
LONGEST_FIRST = (
    *LONG,
    *sorted(
        str(path)
        for path in Path("tests").iterdir()
        if str(path) not in LONG and (path.name.startswith("test_") or any(path.rglob("test_*.py")))
    ),
)
#: At most so many failed tests are run again; more are not a coincidence.
MAX_AGAIN = 3
#: What `nox` runs while the tests wait.
BESIDE_TESTS = ("lint", "types", "contracts", "schema", "reach", "other-python")
#: The modules that programs import.
PUBLIC = ("hybridrelay", *(f"hybridrelay.{name}" for name in ("abc", "aio", "errors", "events", "http", "testing")))
#: What another version of Python is most likely to break: values and state machines, TLS, sockets, HTTP, SQLite,
#: asyncio, entry points, and the parsing of arguments. And a few tests of all three parts, also as programs.
QUICK = tuple(
    f"tests/{part}"
    for part in (
        "cli/test_config_file.py",
        "cli/test_help.py",
        "cli/test_log_writer.py",
        "cli/test_values.py",
        "client/embedding",
        "client/lifecycle",
        "connectivity/test_channels.py",
        "connectivity/test_commands.py",
        "connectivity/test_discovery.py",
        "endtoend/test_half_close.py",
        "endtoend/test_loaded_modules.py",
        "http",
        "mux",
        "protocol",
        "relay/core",
        "relay/store",
        "security",
        "streams",
        "system/test_whole_path.py",
        "test_check_type.py",
        "test_lazy.py",
        "transports",
    )
)
#: The tests of what the reactor serves, and of what uses it.
SERVED = tuple(
    f"tests/{part}" for part in ("endtoend", "client", "connectivity", "connector", "mux", "streams")
)  # fmt: skip
#: Makes tasks wait for sockets, as on systems without epoll.
TASKS_WAIT = {"HYBRIDRELAY_POLLING": "tasks"}


def interpreters() -> dict[int, str]:
    """The versions of Python on this machine that the project supports: minor version to path. The running
    interpreter is used for its own version.

    Looks on PATH and among the versions that pyenv has installed. An interpreter that does not run (a pyenv shim of a
    version that is not selected, a Python without ``venv``) is left out.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = {}
    for minor in VERSIONS:
        if minor == sys.version_info.minor:
            found[minor] = sys.executable
            continue
        on_path = shutil.which(f"python3.{minor}")
        candidates = [on_path] if on_path else []
        candidates += map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/python3")))
        if path := next((path for path in candidates if _runs(path, minor)), None):
            found[minor] = path
    return found


def _runs(path: str, minor: int) -> bool:
    check = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, {minor}))"
    return subprocess.run([path, "-c", check], check=False, capture_output=True, timeout=60).returncode == 0


PYTHONS = interpreters()
#: The newest of the other versions; None if there is none.
OTHER = max((minor for minor in PYTHONS if minor != sys.version_info.minor), default=None)


def group(session: nox.Session, name: str) -> None:
    """Install a dependency group of pyproject.toml."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, name))


def install_wheel(session: nox.Session) -> None:
    """Build the wheel and install it, so that what is tested is what users get.

    Tests run from the checkout. Neither a test nor a process that it starts may import the checkout's packages
    instead of the installed ones.
    """
    directory = Path(session.create_tmp()) / "wheel"
    shutil.rmtree(directory, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), ".")
    (wheel,) = directory.glob("*.whl")
    session.install("--quiet", str(wheel))
    session.install("--quiet", "--force-reinstall", "--no-deps", str(wheel))
    session.env["PYTHONSAFEPATH"] = "1"
    here = Path(__file__).parent
    check = f"import hybridrelay; assert not hybridrelay.__file__.startswith({str(here / 'hybridrelay')!r})"
    session.run("python", "-c", check)


def use_long_paths(session: nox.Session) -> None:
    """Make the paths of temporary directories longer than the address of a Unix socket.

    No test may depend on where the checkout is. A test that does fails everywhere, and not only below a long path.
    """
    directory = Path(session.create_tmp()) / "-".join(["long"] * 20)
    directory.mkdir(exist_ok=True)
    session.env["TMPDIR"] = str(directory)


def compile_tests(session: nox.Session) -> None:
    """Compile all tests once, and not in each of the workers, also where Python is told to store no bytecode."""
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    if not session.posargs:
        session.run("pytest", "--collect-only", "-qq", *LONGEST_FIRST, silent=True)


def run_tests(session: nox.Session, *arguments: str, env: Mapping[str, str | None] | None = None) -> None:
    """Run pytest with `WORKERS` and these arguments, and the few tests that fail once more, alone.

    Thousands of tests of processes and networks run in parallel. One that does not wait long enough, or whose port is
    taken, would stop a change that has nothing to do with it. A test that passes alone is reported, and has to be
    looked at: the fault may be in the test or in what it tests.
    """
    cache = Path(session.virtualenv.location).resolve() / "failed-tests"
    shutil.rmtree(cache, ignore_errors=True)
    pytest = ("pytest", "--override-ini", f"cache_dir={cache}", "-m", "not slow")
    try:
        session.run(*pytest, *WORKERS, *arguments, env=env)
    except nox.command.CommandFailed:
        written = cache / "v" / "cache" / "lastfailed"
        failed = json.loads(written.read_text()) if written.exists() else {}
        if not 0 < len(failed) <= MAX_AGAIN:
            raise
        session.run(*pytest, "--last-failed", "--last-failed-no-failures=none", *arguments, env=env)
        session.warn(f"passed only when they ran again, alone: {', '.join(failed)}")


@nox.session(python=False)
def check(session: nox.Session) -> None:
    """What a change has to pass: the session ``tests`` and, at the same time, the others one after another.

    The output of the tests is shown when the others have ended.
    """
    run = (sys.executable, "-m", "nox", "--noxfile", __file__, "--sessions")
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "tests.txt"
        with output.open("wb") as written, output.open("rb") as read:
            command = [*run, "tests"]
            tests = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT)
            try:
                session.run(*run, *BESIDE_TESTS, external=True)
            finally:
                show_until_it_ends(tests, read)
    if tests.returncode:
        session.error("the session tests has failed")


def show_until_it_ends(process: subprocess.Popen[bytes], output: BinaryIO) -> None:
    """Copy the process's output to standard output, from a file that the process writes."""
    has_ended = False
    while not has_ended:
        has_ended = process.poll() is not None
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
        time.sleep(0 if has_ended else 0.5)


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint."""
    group(session, "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict type checks of the packages, the benchmarks, the tests and the scripts."""
    group(session, "lint")
    group(session, "test")
    session.install("--quiet", "nox")
    session.install("--quiet", "--editable", ".")
    session.run("mypy")


@nox.session
def contracts(session: nox.Session) -> None:
    """Which packages may import which."""
    group(session, "lint")
    session.install("--quiet", "--editable", ".")
    session.run("lint-imports")


@nox.session
def reference(session: nox.Session) -> None:
    """The API reference of the public modules, as HTML in ``build/reference``, and whether ``docs/`` is current."""
    group(session, "docs")
    session.install("--quiet", "--editable", ".")
    session.run("python", "docs/generate.py", "--check")
    session.run("pdoc", "--docformat", "google", "--output-directory", "build/reference", *PUBLIC)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, against the built wheel, except slow ones. Arguments go to pytest: ``nox -s tests -- -k bulk``."""
    install_wheel(session)
    group(session, "test")
    group(session, "recipes")
    compile_tests(session)
    use_long_paths(session)
    run_tests(session, "--durations=60", *(session.posargs or LONGEST_FIRST))


@nox.session
def schema(session: nox.Session) -> None:
    """Test the management API of a running relay with Schemathesis, from the description that the relay serves.

    Takes a minute and a half. ``nox -s schema -- --max-examples 200`` takes an hour.
    """
    install_wheel(session)
    group(session, "schema")
    session.run("python", "tests/management/schema/run.py", *session.posargs)


@nox.session
def reach(session: nox.Session) -> None:
    """Programs in Java, PHP, Node and Go reach real servers under their own names, through ``forward`` and ``run``.
    So do those that ask systemd-resolved, and the members of a domain.

    Needs a JDK with Maven, Node with npm, and Go. The drivers come from Maven Central and the npm registry, and
    systemd-resolved, where it is not installed, from the package archive of Debian.
    """
    absent = [tool for tool in ("java", "mvn", "node", "npm", "go") if shutil.which(tool) is None]
    if absent and not os.environ.get("CI"):
        session.skip(f"not installed: {', '.join(absent)}")
    install_wheel(session)
    group(session, "test")
    directory = Path(session.create_tmp()).resolve() / "reach"
    directory.mkdir(exist_ok=True)
    shutil.copy("tests/reach/programs/package.json", directory)
    session.run("npm", "install", "--prefix", str(directory), "--no-audit", "--no-fund", "--silent", external=True)
    for driver in DRIVERS:
        options = (f"-Dartifact={driver}", f"-DoutputDirectory={directory / 'jars'}")
        session.run("mvn", "--batch-mode", "--quiet", COPY_DRIVER, *options, external=True)
    if shutil.which("apt-get") and not Path("/lib/systemd/systemd-resolved").exists():
        # Unpacked, and not installed: the package would make itself the name server of this machine.
        with session.chdir(directory):
            if session.run("apt-get", "download", "systemd-resolved", success_codes=[0, 100], external=True):
                for package in directory.glob("systemd-resolved_*.deb"):
                    session.run("dpkg-deb", "--extract", str(package), str(directory), external=True)
    env = {"HYBRIDRELAY_REACH": str(directory)}
    session.run("pytest", *(session.posargs or ("tests/reach",)), env=env)


@nox.session(name="other-python", python=PYTHONS[OTHER] if OTHER else None)
def other_python(session: nox.Session) -> None:
    """A quick part of the tests on the newest other Python of this machine, from 3.11 to 3.14, and without epoll.

    ``nox -s pythons`` runs all tests on each of them.
    """
    if OTHER is None:
        session.skip("this machine has only one Python between 3.11 and 3.14")
    install_wheel(session)
    group(session, "test")
    # Fewer examples: those of the session `tests` are the same. Without epoll, because that session uses it.
    env = {"HYPOTHESIS_PROFILE": "quick"} | TASKS_WAIT
    # Fewer workers: these tests keep processors busy, and each worker first has to collect all of them.
    run_tests(session, "--numprocesses=2", *(session.posargs or QUICK), env=env)


@nox.session(name="without-epoll")
def without_epoll(session: nox.Session) -> None:
    """The tests that use sockets, with tasks that wait for them, as on systems without epoll."""
    install_wheel(session)
    group(session, "test")
    use_long_paths(session)
    run_tests(session, *(session.posargs or SERVED), env=TASKS_WAIT)


@nox.session(python=list(PYTHONS.values()))
def pythons(session: nox.Session) -> None:
    """All tests, on every Python from 3.11 to 3.14 that this machine has (on PATH, or installed by pyenv)."""
    install_wheel(session)
    group(session, "test")
    group(session, "recipes")
    run_tests(session, *(session.posargs or LONGEST_FIRST))


@nox.session
def coverage(session: nox.Session) -> None:
    """Branch coverage, including the processes that tests start."""
    install_wheel(session)
    group(session, "test")
    group(session, "recipes")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def thorough(session: nox.Session) -> None:
    """All tests, with many more generated examples."""
    install_wheel(session)
    group(session, "test")
    group(session, "recipes")
    # The two models of a session take ten minutes each.
    session.run("pytest", "--timeout=3600", *session.posargs, env={"HYPOTHESIS_PROFILE": "thorough"})


@nox.session
def soak(session: nox.Session) -> None:
    """A gibibyte each way over every transport; twenty kills of the relay, and of a forward with local ports of every
    kind; two thousand clients that reconnect.

    Fifty streams run while the relay is killed, and the memory of all processes is checked afterwards.

    HYBRIDRELAY_BULK_BYTES, HYBRIDRELAY_ROUNDS and HYBRIDRELAY_STORM change these numbers.
    """
    install_wheel(session)
    group(session, "test")
    env = {
        "HYBRIDRELAY_BULK_BYTES": session.env.get("HYBRIDRELAY_BULK_BYTES") or str(BULK_BYTES),
        "HYBRIDRELAY_ROUNDS": session.env.get("HYBRIDRELAY_ROUNDS") or "20",
        "HYBRIDRELAY_STORM": session.env.get("HYBRIDRELAY_STORM") or "2000",
    }
    session.run(
        "pytest",
        "-k",
        "bulk or resumption or storm or listener_rounds",
        "-s",
        "--timeout=1800",
        "tests/endtoend",
        *session.posargs,
        env=env,
    )


@nox.session
def network(session: nox.Session) -> None:
    """All tests in network namespaces, with all 1024 combinations of what a firewall may do. Needs root."""
    install_wheel(session)
    group(session, "test")
    session.run("pytest", "tests/network", *session.posargs, env={"HYBRIDRELAY_EVERY_COMBINATION": "1", "CI": "true"})


@nox.session
def bench(session: nox.Session) -> None:
    """The full benchmark suite, on the installed wheel: more than an hour. Takes what ``hybridrelay bench`` takes."""
    install_wheel(session)
    group(session, "bench")
    directory = Path(session.create_tmp())
    results = ["--json", str(directory / "bench.json"), "--html", str(directory / "bench.html")]
    session.run("hybridrelay", "bench", "--full", *results, *session.posargs)


@nox.session
def strangers(session: nox.Session) -> None:
    """What unauthenticated connections cost the relay in memory, by port and phase, and with 1,024 in any mix; Linux.

    About four minutes. Arguments go to the benchmark, as in ``nox -s strangers -- mix --without-rate-limits`` or
    ``nox -s strangers -- memory --connections 820 --only https``.
    """
    session.install("--quiet", "--editable", ".")
    if session.posargs:
        session.run("python", "-m", "benchmarks.strangers", *session.posargs)
    else:
        session.run("python", "-m", "benchmarks.strangers", "memory", "--connections", "80")
        session.run("python", "-m", "benchmarks.strangers", "mix")


@nox.session
def datagrams(session: nox.Session) -> None:
    """What datagrams lose, and how late they are: flows alone, beside bulk data, and 10,000 of them; Linux.

    About three minutes. Fails if more is lost, or later, than docs/concepts.md says; on a busy machine, it may be.
    Takes what ``python -m benchmarks.datagrams`` takes, such as ``nox -s datagrams -- --many 0``.
    """
    session.install("--quiet", "--editable", ".")
    session.run("python", "-m", "benchmarks.datagrams", *session.posargs)


@nox.session
def administration(session: nox.Session) -> None:
    """What status, dashboard, metrics and followers of events cost a relay with 10,000 listeners; Linux.

    About ten minutes. Arguments go to the benchmark, as in ``nox -s administration -- --listeners 1000``.
    """
    session.install("--quiet", "--editable", ".")
    session.run("python", "-m", "benchmarks.administration", *session.posargs)


@nox.session(name="bench-check")
def bench_check(session: nox.Session) -> None:
    """The short benchmark suite: how our ratios to the baselines changed since ``benchmarks/baseline.json``.

    Fails if one became worse by more than the noise, or was not measured. ``nox -s bench-check -- FILE`` compares
    with another run, and ``--allow-skipped`` allows for servers that are not installed.
    """
    install_wheel(session)
    fresh = str(Path(session.create_tmp()) / "bench-check.json")
    options = [one for one in session.posargs if one.startswith("-")]
    files = [one for one in session.posargs if not one.startswith("-")]
    (baseline,) = files or [str(Path(__file__).parent / "benchmarks" / "baseline.json")]
    session.run("hybridrelay", "bench", "--json", fresh)
    session.run("hybridrelay", "bench", "check", baseline, fresh, *options)
