"""The block of this program in a hosts file, and that nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.client.names.hosts_block import HostsLine, lines_in, other_lines, with_lines, without_lines

LINES = (HostsLine("127.64.3.7", "sql01.corp.example"), HostsLine("127.99.0.1", "web"))
USUAL = b"127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n\n# ours\n10.0.0.1 printer\n"


def test_the_block_is_at_the_end() -> None:
    content = with_lines(USUAL, LINES)
    assert content == USUAL + (
        b"# BEGIN hybridrelay: written by 'hybridrelay hosts apply', do not edit\n"
        b"127.64.3.7\tsql01.corp.example\t# hybridrelay\n"
        b"127.99.0.1\tweb\t# hybridrelay\n"
        b"# END hybridrelay\n"
    )
    assert lines_in(content) == LINES
    assert with_lines(content, LINES) == content
    assert without_lines(content) == USUAL
    assert with_lines(content, []) == USUAL


#: Bytes that a hosts file may have: also no text, and all kinds of line ends.
_CONTENT = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"10.0.0.1 a", b"# BEGIN", b"# END hybridrelay2", b"\xff\x00", b" "])
    | st.binary(max_size=4)
).map(b"".join)


@given(_CONTENT)
def test_whatever_a_file_has_comes_back(content: bytes) -> None:
    applied = with_lines(content, LINES)
    assert applied.startswith(content)
    assert lines_in(applied) == LINES
    assert with_lines(applied, LINES[:1]) == with_lines(content, LINES[:1])
    assert without_lines(applied) == content
    assert without_lines(content) == content


@given(_CONTENT, _CONTENT)
def test_lines_that_others_add_behind_the_block_stay(content: bytes, added: bytes) -> None:
    behind = b"10.0.0.2 b\n" + added
    removed = without_lines(with_lines(content, LINES) + behind)
    assert removed.startswith(content)
    assert removed.endswith(behind)
    between = removed[len(content) : len(removed) - len(behind)]
    assert between == b"" if content.endswith(b"\n") or not content else between in (b"\n", b"\r\n")


def test_line_ends_of_windows() -> None:
    content = USUAL.replace(b"\n", b"\r\n")
    applied = with_lines(content, LINES)
    assert b"# END hybridrelay\r\n" in applied
    assert b"\n" not in applied.replace(b"\r\n", b"")
    assert without_lines(applied) == content


@pytest.mark.parametrize("lost", [0, 1, 2, 3, (0, 3), (1, 2), (0, 1, 2, 3)])
def test_parts_of_a_block_are_removed(lost: int | tuple[int, ...]) -> None:
    block = with_lines(b"", LINES).splitlines(keepends=True)
    gone = {lost} if isinstance(lost, int) else set(lost)
    left = b"".join(line for number, line in enumerate(block) if number not in gone)
    for content in (USUAL + left, left + USUAL, USUAL + left + left):
        assert without_lines(content) == USUAL


def test_foreign_lines_inside_the_block_stay() -> None:
    block = with_lines(b"", LINES).splitlines(keepends=True)
    content = b"".join([USUAL, *block[:2], b"10.0.0.9 added # by hand\n", *block[2:]])
    assert without_lines(content) == USUAL + b"10.0.0.9 added # by hand\n"


def test_names_that_other_lines_have() -> None:
    content = with_lines(USUAL + b"10.0.0.5 db SQL01.Corp.Example. # x web\n#10.0.0.6 web\n", LINES)
    assert list(other_lines(content, {"sql01.corp.example", "web"})) == [(6, "sql01.corp.example")]
