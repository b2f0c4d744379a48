"""Files with the users of fronts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridrelay.client.ingress.users import load_front_users
from hybridrelay.errors import ConfigurationError


def test_users_are_checked_with_their_passwords(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("# who may\n\nann:se:cr\u00e9t\nbob:x\n", encoding="utf-8")
    path.chmod(0o600)
    users = load_front_users(path)
    assert users == load_front_users(path)
    assert users.check(b"ann", "se:cr\u00e9t".encode())
    assert users.check(b"bob", b"x")
    for name, password in ((b"ann", b"x"), (b"bob", b""), (b"", b""), (b"# who may", b""), (b"\xff", b"x")):
        assert not users.check(name, password)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no user"),
        ("# only this\n", "has no user"),
        ("ann:secret\nbob\n", "line 2 is not user:password"),
        (":secret\n", "line 1 is not user:password"),
        ("ann:\n", "line 1 is not user:password"),
        ("ann:" + "x" * 256, "line 1 is not user:password"),
        ("ann:a\nann:b\n", "line 2: this user occurs twice"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        load_front_users(path)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value).removeprefix(str(path))
