"""The key and the id of the newest file of an audit directory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridrelay.audit.chain import file_name
from hybridrelay.audit.reading import RecordFilter, log_id, newest_key, read_records
from hybridrelay.errors import ConfigurationError

_WHOLE = gzip.compress(b'{"seq":1}\n' * 100)


@pytest.mark.parametrize("find", [newest_key, log_id])
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (_WHOLE, "names no key"),
        (b"not compressed", "damaged"),
        (_WHOLE[:15], "damaged"),
        (_WHOLE[:10] + b"\xff" * 20, "damaged"),
        (b"", "names no key|damaged"),
    ],
    ids=["no key", "not compressed", "cut off", "another content", "empty"],
)
def test_a_copy_whose_newest_file_is_compressed(
    tmp_path: Path, find: Callable[[Path], object], data: bytes, problem: str
) -> None:
    (tmp_path / f"{file_name(1)}.gz").write_bytes(data)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        find(tmp_path)
    assert "audit verify" in (caught.value.remedy or "")
    assert len(list(read_records(tmp_path, RecordFilter()))) in (0, 100)


def test_the_damaged_contents_are_damaged_in_different_ways() -> None:
    for data, error in ((b"x", gzip.BadGzipFile), (_WHOLE[:15], EOFError), (_WHOLE[:10] + b"\xff" * 20, zlib.error)):
        with pytest.raises(error):
            gzip.decompress(data)
