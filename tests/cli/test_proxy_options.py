"""``--proxy`` and what belongs to it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hybridrelay._defaults import PROXY_PASSWORD_VARIABLE
from hybridrelay.cli.arguments.options import add_how_reached
from hybridrelay.cli.option_places import note_place
from hybridrelay.cli.proxies import make_dialer, read_dial_options
from hybridrelay.connectivity import ProxyDial
from hybridrelay.errors import ConfigurationError

from .conftest import Run


def parse(*arguments: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_how_reached(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def password_of(args: argparse.Namespace) -> str | None:
    dialer = make_dialer(args)
    assert dialer is not None
    dial = dialer.tcp
    assert isinstance(dial, ProxyDial)
    assert dial.settings.proxy is not None
    password = dial.settings.proxy.password
    return None if password is None else password.reveal()


def test_without_options_the_environment_counts() -> None:
    assert make_dialer(parse()) is None


@pytest.mark.parametrize("text", ["hunter2", "hunter2\n", "hunter2\r\n", "\ufeffhunter2\r\n", "hunter2\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_password_comes_from_a_file(tmp_path: Path, text: str, encoding: str) -> None:
    file = tmp_path / "password"
    # UTF-16 begins with a mark of its own.
    file.write_text(text.removeprefix("\ufeff") if encoding == "utf-16" else text, encoding=encoding, newline="")
    assert password_of(parse("--proxy", "http://me@proxy:1", "--proxy-password-file", file)) == "hunter2"


@pytest.mark.parametrize("password", ['"hunter2"', " hunter2", "hunter2 "])
def test_blanks_and_quotes_may_be_part_of_a_password(
    tmp_path: Path, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    file.chmod(0o600)

    assert password_of(parse("--proxy", "http://me@proxy:1", "--proxy-password-file", file)) == password
    assert "spaces or quotes around it, which are used as part of it" in caplog.text
    assert "hunter2" not in caplog.text
    caplog.clear()


def test_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROXY_PASSWORD_VARIABLE, "hunter2\n")
    assert password_of(parse("--proxy", "http://me@proxy:1")) == "hunter2"
    assert password_of(parse("--proxy", "http://proxy:1")) is None


def test_no_proxy_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy")
    dialer = make_dialer(parse("--proxy", "none"))
    assert dialer is not None
    dial = dialer.tcp
    assert isinstance(dial, ProxyDial)
    assert dial.settings.proxy_for("relay.example.com", 443) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("--proxy", "http://me:hunter2@proxy"),
        ("--proxy", "me:hunter2@proxy:1"),
        ("--proxy", "gopher://hunter2"),
        ("--proxy", "http://me@proxy", "--proxy-password-file", "missing"),
        ("--proxy", "http://me@proxy", "--proxy-password-file", "empty"),
        ("--proxy", "http://me@proxy", "--proxy-password-file", "binary"),
        ("--proxy", "http://me@proxy", "--proxy-password-file", "lines"),
        ("--proxy", "http://me@proxy", "--proxy-password-file", "long"),
        ("--proxy", "http://proxy", "--proxy-password-file", "good"),
        ("--proxy-password-file", "good"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"empty": b"\n", "binary": b"hunter2\xff", "lines": b"hunter2\nhunter2\n", "long": b"hunter2" * 999}
    for name, content in {**contents, "good": b"hunter2"}.items():
        Path(name).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        make_dialer(parse(*arguments))
    assert "hunter2" not in f"{caught.value} {caught.value.remedy} {caught.value.__cause__}"


@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_every_command_that_dials_has_it(run: Run, command: str) -> None:
    result = run(command, "--proxy", "http://me:hunter2@proxy")
    assert result.code == 2
    assert "--proxy has a password in it" in result.err
    assert "hunter2" not in result.err


def test_header_fields_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text(
        "# for the access proxy\n\nCF-Access-Client-Id: abc.access\r\nCF-Access-Client-Secret:  s3: cret \n"
    )
    file.chmod(0o600)
    dialer = make_dialer(parse("--websocket-headers-file", file, "--websocket-path-prefix", "/edge/relay/"))
    assert dialer is not None
    assert dialer.http.path_prefix == "/edge/relay"
    assert dialer.http.headers == (("CF-Access-Client-Id", "abc.access"), ("CF-Access-Client-Secret", "s3: cret"))
    assert "s3" not in repr(dialer)
    dialer = make_dialer(parse("--websocket-path-prefix", "/edge", "--proxy", "none"))
    assert dialer is not None
    assert (dialer.http.path_prefix, dialer.http.headers) == ("/edge", ())


@pytest.mark.parametrize(
    "content",
    ["", "# nothing\n", "s3cret", "X-Token s3cret", ": s3cret", "Host: s3cret", "Content-Length: s3cret",
     "X: s3cretä", "X: s3cret\0", "X: a\nx: s3cret",
     "X y: s3cret", "X: " + "s3cret" * 2000, "X:", "Sec-WebSocket-Key: s3cret"],
)  # fmt: skip
def test_a_file_without_usable_header_fields_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    file = tmp_path / "headers"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        make_dialer(parse("--websocket-headers-file", file))
    assert caught.value.remedy
    assert str(file) in str(caught.value)
    assert "s3cret" not in f"{caught.value}{caught.value.remedy}"


def test_a_value_from_a_configuration_file_is_named_with_its_line(tmp_path: Path) -> None:
    args = parse("--proxy", "http://nope:99999")
    note_place(args, "proxy", "connector.toml: line 3")
    with pytest.raises(ConfigurationError, match=r"^connector\.toml: line 3: .*a port is a number from 1 to 65535"):
        read_dial_options(args)
    args = parse("--websocket-headers-file", tmp_path / "missing")
    note_place(args, "websocket_headers_file", "connector.toml: line 4")
    with pytest.raises(ConfigurationError, match=r"^connector\.toml: line 4: "):
        read_dial_options(args)
