"""Text files that people write, with everything that editors and shells add to them."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay._text_files import TextError, decode_text, numbered_lines, read_text, strip_value
from hybridrelay.errors import ConfigurationError

LIMIT = 4096
BLANK = "\u00a0"


@pytest.mark.parametrize(
    "data",
    [
        "a\nb\u00e9\n".encode(),
        "a\r\nb\u00e9\r\n".encode(),
        "a\rb\u00e9\r".encode(),
        "\ufeffa\r\nb\u00e9\r\n".encode(),
        "\ufeffa\r\nb\u00e9\r\n".encode("utf-16-le"),
        "\ufeffa\nb\u00e9\n".encode("utf-16-be"),
    ],
    ids=["plain", "CRLF", "CR", "mark", "UTF-16 of Windows", "UTF-16, big-endian"],
)
def test_what_editors_write_is_the_same_text(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)

    assert read_text(tmp_path / "file", what="the file", limit=LIMIT) == "a\nb\u00e9\n"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"one\r\ntwo\rsecret\xff\n", "line 3 is not text"),
        (b"\xef\xbb\xbfa\n\xff", "line 2 is not text"),
        (b"\xef\xbb\xbf\xff", "line 1 is not text"),
        ("\ufeffone\nsecret".encode("utf-16-le") + b"\x00", "line 2 is not text"),
        ("\ufeffa\n".encode("utf-16-be") + b"\xdc\x00", "line 2 is not text"),
        (b"\xff\xfe\x00\xd8s\x00", "line 1 is not text"),
        (b"one\nsecret\0", "line 2 contains a NUL"),
        ("one\nsecret".encode("utf-16-le"), "line 1 contains a NUL"),
        (b"secret" * 1000, "is larger than 4096 bytes"),
    ],
)
def test_the_error_about_what_is_not_text_names_file_and_line_and_repeats_nothing(
    data: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(data)

    with pytest.raises(TextError, match=problem) as caught:
        read_text(tmp_path / "file", what="the file", limit=LIMIT)

    assert str(tmp_path / "file") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.remedy is not None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    path = Path("/dev/zero")
    if not path.exists():
        pytest.skip("no /dev/zero here")

    with pytest.raises(TextError, match="larger than 4096 bytes"):
        read_text(path, what="the file", limit=LIMIT)


@pytest.mark.parametrize("name", ["missing", "", "nul\0"])
def test_what_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the file"):
        read_text(str(tmp_path / name), what="the file", limit=LIMIT)


def test_a_secret_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o644)
    read_text(tmp_path / "file", what="the file", limit=LIMIT)
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        read_text(tmp_path / "file", what="the file", limit=LIMIT, secret=True)

    assert "can be read by others" in caplog.text
    caplog.clear()


@pytest.mark.parametrize(
    "text",
    [
        "value",
        " value\t\n",
        f"{BLANK}value{BLANK}",
        "\ufeffvalue\u200b",
        '"value"',
        " 'value' \n",
        "\u201cvalue\u201d",
        f'{BLANK}" value "\r\n',
        "\u200e value\u200f",
    ],
)
def test_blanks_and_quotes_are_not_part_of_a_value(text: str) -> None:
    assert strip_value(text) == "value"


@pytest.mark.parametrize("text", ["'value\"", "va'lue'", '"', "''x", "v\u00a0alue"])
def test_quotes_that_are_not_a_pair_stay(text: str) -> None:
    assert strip_value(text) == text


def test_lines_are_numbered_as_editors_do() -> None:
    text = decode_text(b"\xef\xbb\xbfone \r\n\r\n\xc2\xa0three\x0b\xe2\x80\xa8\rfour", source="x", limit=LIMIT)

    assert list(numbered_lines(text)) == [(1, "one"), (2, ""), (3, "three"), (4, "four")]


@given(st.binary(max_size=64))
def test_any_bytes_are_text_or_an_error_of_ours(data: bytes) -> None:
    try:
        text = decode_text(data, source="x", limit=32)
    except TextError:
        return
    assert len(data) <= 32
    assert "\0" not in text
    assert "\r" not in text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_a_regular_file_and_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        read_text(pipe, what="the file", limit=LIMIT, regular=True)
    for other in (tmp_path, Path(os.devnull)):
        with pytest.raises(ConfigurationError):
            read_text(other, what="the file", limit=LIMIT, regular=True)
    (tmp_path / "file").write_text("text")
    assert read_text(tmp_path / "file", what="the file", limit=LIMIT, regular=True) == "text"


def test_utf_16_without_a_byte_order_mark_is_recognized() -> None:
    with pytest.raises(TextError, match="line 1 contains a NUL character, as in UTF-16 without a byte-order mark"):
        decode_text("application".encode("utf-16-le"), source="x", limit=100)
    with pytest.raises(TextError) as caught:
        decode_text(b"application\0", source="x", limit=100)
    assert str(caught.value) == "x: line 1 contains a NUL character"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes the owner of a file")
def test_the_owner_of_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("x")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigurationError) as caught:
        read_text(path, what="the file", limit=9)

    assert path.owner() in (caught.value.remedy or "")
