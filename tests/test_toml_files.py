"""TOML files, and the lines in which things are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay import _toml_files
from hybridrelay._toml_files import TomlFile, read_toml
from hybridrelay._toml_lines import Place, lines_of
from hybridrelay.errors import ConfigurationError

TEXT = '''# a comment
grace = 10

[[connection]]
file = "orders"
listen = [
    "127.0.0.1:1",   # the first
    "127.0.0.1:2",
]

[[connection]]
text = """
[[connection]]
file = "not this one"
"""
file = "billing"
[ports]
data.number = 3
inline = {a = 1, b = [1,
2]}
mixed = [1.5, [2, 3],
    {x = "]"}, "four",
]
["a.b".'c']
"d" = 1
[[connection.more]]
x = 1
[[connection.more]]
x = 2
[connection.rest]
'''


def read(tmp_path: Path, text: str) -> TomlFile:
    path = tmp_path / "file.toml"
    path.write_text(text, encoding="utf-8")
    return read_toml(path, what="the file", limit=100_000)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("grace",), 2),
        (("connection",), 4),
        (("connection", 0), 4),
        (("connection", 0, "file"), 5),
        (("connection", 0, "listen"), 6),
        (("connection", 1), 11),
        (("connection", 1, "text"), 12),
        (("connection", 1, "file"), 16),
        (("ports",), 17),
        (("ports", "data", "number"), 18),
        (("ports", "inline"), 19),
        (("ports", "inline", "b", 1), 19),
        (("ports", "mixed", 0), 21),
        (("ports", "mixed", 1, 1), 21),
        (("ports", "mixed", 2, "x"), 22),
        (("ports", "mixed", 3), 22),
        (("connection", 0, "listen", 1), 8),
        (("a.b",), 24),
        (("a.b", "c", "d"), 25),
        (("connection", 1, "more", 0), 26),
        (("connection", 1, "more", 1, "x"), 29),
        (("connection", 1, "rest"), 30),
        ((), None),
        (("connection", 2), None),
        (("connection", 0, "missing"), None),
        (("grace", "x"), None),
    ],
)
def test_the_line_of_something(tmp_path: Path, place: tuple[str | int, ...], line: int | None) -> None:
    assert read(tmp_path, TEXT).line_of(*place) == line


def test_the_lines_of_many_things_are_found_in_one_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration file may have a thousand tables, and the line of each is noted."""
    scans: list[str] = []

    def scan(text: str) -> dict[Place, int]:
        scans.append(text)
        return lines_of(text)

    monkeypatch.setattr(_toml_files, "lines_of", scan)
    file = read(tmp_path, "[[connection]]\nfile = 'x'\n" * 50)
    assert [file.line_of("connection", number) for number in range(50)] == [*range(1, 100, 2)]
    assert len(scans) == 1


def test_a_message_names_the_nearest_thing_that_has_a_line(tmp_path: Path) -> None:
    file = read(tmp_path, TEXT)

    assert file.at("connection", 1, "missing") == f"{file.path}: line 11"
    assert file.at("missing") == file.path


@given(
    st.lists(
        st.lists(st.sampled_from(["", "# comment", "\t", 'text = """a\n[[connection]]\n"""', "list = [\n1,\n\n2]"])),
        max_size=8,
    )
)
def test_every_key_is_found_in_its_line(blocks: list[list[str]]) -> None:
    """Whatever stands between the keys, also what looks like them."""
    lines: list[str] = []
    places: dict[tuple[str | int, ...], int] = {}
    for number, block in enumerate(blocks):
        lines.append("[[connection]]")
        places["connection", number] = sum(line.count("\n") + 1 for line in lines)
        seen: set[str] = set()
        for line in block:
            if (key := line[:4]) not in seen or line.strip()[:1] in ("", "#"):
                seen.add(key)
                lines.append(line)
        lines.append(f"file = {number}")
        places["connection", number, "file"] = sum(line.count("\n") + 1 for line in lines)
    import tomllib

    text = "\n".join(lines)
    file = TomlFile("f", tomllib.loads(text), text)

    assert {place: file.line_of(*place) for place in places} == places


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = 1\nb = = 2", r"file\.toml is not TOML: .*line 2"),
        ("a = 1\na = 2", "is not TOML: .*line 2"),
        (f"a = {'1' * 5000}", "too many digits"),
        (f"a = {'[' * 5000}", "nested too deeply"),
    ],
)
def test_what_is_not_toml(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read(tmp_path, text)
