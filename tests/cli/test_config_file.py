"""Configuration files: the names of the options, and the command line wins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hybridrelay._defaults import RESUME_DEADLINE
from hybridrelay.cli.commands.relay import make_config
from hybridrelay.cli.config_file import apply_config_file
from hybridrelay.cli.parser import build_parser
from hybridrelay.errors import ConfigurationError
from hybridrelay.relay import Binding, RelayConfig

from .conftest import Created, Run


def _config(tmp_path: Path, text: str, *arguments: str) -> RelayConfig:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    args = build_parser().parse_args(["relay", "--config", str(path), *arguments])
    apply_config_file(args, path)
    return make_config(args)


WHOLE = """
state = "state"
host = ["192.0.2.1", "[::1]"]
public-ports = "http=off,https=443"
tls-certificate = "/etc/chain.pem"
tls-key = "key.pem"
log-level = "DEBUG"
log-json = true
max-pairs = 1000
max-pairs-per-connection = "200"
max-pairs-per-key = 100
[ports]
probe = 9350
control = "off"
data = "off"
http = "127.0.0.1:8080"
https = "0"
"""


def test_every_key_of_a_relays_file_is_used(tmp_path: Path) -> None:
    config = _config(tmp_path, WHOLE)

    assert config.state_dir == tmp_path / "state"
    assert config.bindings == {
        "probe": (Binding("192.0.2.1", 9350), Binding("::1", 9350)),
        "http": (Binding("127.0.0.1", 8080),),
        "https": (Binding("192.0.2.1", 0), Binding("::1", 0)),
    }
    assert config.public_ports == {"http": None, "https": 443}
    assert config.tls_certificate == Path("/etc/chain.pem")
    assert config.tls_key == tmp_path / "key.pem"
    assert (config.max_pairs, config.max_pairs_per_connection, config.max_pairs_per_key) == (1000, 200, 100)


def test_the_command_line_wins(tmp_path: Path) -> None:
    config = _config(tmp_path, WHOLE, "--state", "other", "--host", "::1", "--ports", "data=1")

    assert config.state_dir == Path("other")
    assert config.bindings["data"] == (Binding("::1", 1),)


def test_the_log_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(WHOLE)
    quiet = build_parser().parse_args(["--log-level", "error", "relay"])
    open_ = build_parser().parse_args(["relay"])
    for args in (quiet, open_):
        apply_config_file(args, path)

    assert (quiet.log_level, quiet.log_json) == ("error", True)
    assert (open_.log_level, open_.log_json) == ("debug", True)


def test_the_command_line_wins_for_each_port(tmp_path: Path) -> None:
    given = ("--ports", "data=1,https=off", "--public-ports", "http=81")

    config = _config(tmp_path, WHOLE, "--host", "::1", *given)

    assert config.bindings == {
        "probe": (Binding("::1", 9350),),
        "data": (Binding("::1", 1),),
        "http": (Binding("127.0.0.1", 8080),),
    }
    assert config.public_ports == {"http": 81, "https": 443}


def test_ports_that_are_given_several_times_are_merged(tmp_path: Path) -> None:
    given = ("--ports", "http=8080,data=1", "--ports", "https=off", "--ports", "data=2")
    public = ("--public-ports", "http=80", "--public-ports", "http=81,https=443")

    config = _config(tmp_path, WHOLE, *given, *public)

    assert [one.port for one in config.bindings["http"]] == [8080, 8080]
    assert [one.port for one in config.bindings["data"]] == [2, 2]
    assert "https" not in config.bindings
    assert config.public_ports == {"http": 81, "https": 443}


def test_ports_as_on_the_command_line(tmp_path: Path) -> None:
    config = _config(tmp_path, 'state = "s"\nports = "probe=off,control=off,data=off,https=off,http=[::1]:1"\n')

    assert config.bindings == {"http": (Binding("::1", 1),)}


@pytest.mark.parametrize(
    ("text", "says", "remedy"),
    [
        ("state = ", "is not TOML", None),
        ('prots = "probe=1"', "unknown key 'prots'", "did you mean ports?"),
        ('tls_key = "k"', "unknown key 'tls_key'", "did you mean tls-key?"),
        ("frobnicate = 1", "unknown key 'frobnicate'", "the known keys are: state, host"),
        ("state = 1", "state: expected a string", None),
        ("ports = 1", "ports: expected a string", None),
        ("[ports]\ndata = 1\nprobe = true", "line 3: ports.probe: expected numbers", None),
        ("[ports]\ndata = 1\nprobe = 70000", "line 3: ports.probe: expected a port number", None),
        ('[ports]\nprobe = "80,data=1"', "line 2: ports.probe: expected numbers", None),
        ("[ports]\ndata = 1\nhtttp = 80", "line 3: unknown port 'htttp'", "did you mean http?"),
        ("[public-ports]\nhttps = 1\npigeons = 80", "line 3: unknown port 'pigeons'", "control, data, http"),
        ("\npublic-ports = 'http=1,htttp=80'", "line 2: unknown port 'htttp'", "did you mean http?"),
        ('host = "a b"', "host: not a valid host name", None),
        ("state = 's'\nhost = []", "line 2: host: the list is empty: expected at least one value", None),
        ("management = []", "management: the list is empty", None),
        ('log-level = "loud"', "log-level: expected one of", None),
        (f"grace = {'1' * 5000}", "too many digits", None),
        (f"state = {'[' * 5000}", "nested too deeply", None),
        ('state = "a\\u0000b"', "state: a path contains no NUL", None),
        ('log-json = "yes"', "log-json: expected true or false", None),
    ],
)
def test_what_is_wrong_in_it(tmp_path: Path, text: str, says: str, remedy: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _config(tmp_path, text)

    assert says in str(caught.value)
    assert "relay.toml" in str(caught.value)
    assert remedy is None or remedy in (caught.value.remedy or "")


def test_the_line_of_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"relay\.toml: line 3: max-pairs: expected a number"):
        _config(tmp_path, "# comment\nstate = 's'\nmax-pairs = 'many'\n")
    with pytest.raises(ConfigurationError, match=r"relay\.toml: line 2: unknown key 'prots'"):
        _config(tmp_path, "state = 's'\n[prots]\nprobe = 1\n")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    args = build_parser().parse_args(["relay"])
    with pytest.raises(ConfigurationError, match="cannot read the configuration file"):
        apply_config_file(args, tmp_path / "missing.toml")


def _parsed(command: str, tmp_path: Path, text: str, *arguments: str) -> argparse.Namespace:
    path = tmp_path / "file.toml"
    path.write_bytes(text.encode())
    args = build_parser().parse_args([command, "--config", str(path), *arguments])
    apply_config_file(args, path)
    return args


CONNECTOR = """\ufeffconnection-string-file = ["one", "/etc/two", "-"]\r
deny-list = "out.txt"\r
instance-file = "instance"\r
mode = "tcp"\r
grace = 10\r
upgrade-interval = 0.5\r
proxy = "http://proxy:3128"\r
proxy-password-file = "password"\r
"""
FORWARD = """
connection-string-file = "one"
listen = ["127.0.0.1:5432", "[::1]:0"]
resume-deadline = 20
log-level = "debug"
"""


def test_a_connectors_file_is_used(tmp_path: Path) -> None:
    args = _parsed("connector", tmp_path, CONNECTOR)

    assert args.files == [str(tmp_path / "one"), "/etc/two", "-"]
    assert args.deny_list == tmp_path / "out.txt"
    assert args.instance_file == tmp_path / "instance"
    assert (args.mode, args.grace, args.upgrade_interval) == ("tcp", 10, 0.5)
    assert (args.proxy, args.proxy_password_file) == ("http://proxy:3128", tmp_path / "password")
    assert args.resume_deadline == RESUME_DEADLINE, "what is not in the file has its default"


def test_a_forwards_file_is_used(tmp_path: Path) -> None:
    args = _parsed("forward", tmp_path, FORWARD)

    assert args.files == [str(tmp_path / "one")]
    assert args.listen == [("127.0.0.1", 5432), ("::1", 0)]
    assert (args.resume_deadline, args.log_level) == (20, "debug")


def test_an_option_of_the_command_line_replaces_the_whole_list(tmp_path: Path) -> None:
    args = _parsed("forward", tmp_path, FORWARD, "--connection-string-file", "other", "--resume-deadline=25")

    assert args.files == ["other"]
    assert args.resume_deadline == 25, "even if it is the default"
    assert len(args.listen) == 2


@pytest.mark.parametrize("command", ["connector", "forward"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grace = -1", "grace: expected a number of seconds"),
        ("grace = true", "grace: expected a number"),
        ("grace = inf", "grace: expected a number of seconds"),
        ("grace = 86401", "grace: expected 0 to 86400 seconds"),
        ("mode = 1", "mode: expected a string"),
        ("connection-string-file = [1]", "connection-string-file: expected a string"),
        ("policy-dir = []", "policy-dir: the list is empty"),
        ("config = 'x'", "unknown key 'config'"),
        ("state = 'x'", "unknown key 'state'"),
        ("[grace]\nx = 1", "grace: expected a number"),
    ],
)
def test_what_is_wrong_in_the_others(tmp_path: Path, command: str, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        _parsed(command, tmp_path, text)


@pytest.mark.parametrize("command", ["connector", "forward", "relay"])
def test_every_option_is_possible_in_the_file(command: str, tmp_path: Path) -> None:
    """What argparse calls an option is one here."""
    parser = build_parser().parse_args([command]).parser
    names = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    with pytest.raises(ConfigurationError) as caught:
        _parsed(command, tmp_path, "\u0022no such key\u0022 = 1")
    known = (caught.value.remedy or "").removeprefix("the known keys are: ").split(", ")

    assert {f"--{name}" for name in known} == names - {"--help", "--version", "--config"}


@pytest.mark.parametrize("command", ["connector", "forward"])
@pytest.mark.parametrize("repeated", [False, True])
def test_an_option_may_be_repeated_or_have_several_values(command: str, repeated: bool) -> None:
    option = "--connection-string-file"
    arguments = [option, "a", option, "b"] if repeated else [option, "a", "b"]

    assert build_parser().parse_args([command, *arguments]).files == ["a", "b"]


@pytest.mark.parametrize("command", ["connector", "forward"])
def test_the_command_reads_its_file(run: Run, created: Created, command: str) -> None:
    """The file has the other side's string, so that the command ends."""
    other = "orders.application" if command == "connector" else "orders.connector"
    path = created.state.parent / "file.toml"
    path.write_text(f"connection-string-file = '{other}'\n")
    result = run(command, "--config", path)

    assert result.code == 2
    assert f"error: {created.state.parent / other}: " in result.err
