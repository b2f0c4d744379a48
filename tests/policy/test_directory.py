"""Which files of a directory are read, and who may have written them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybridrelay.errors import ConfigurationError
from hybridrelay.policy.directory import MAX_FILES, PolicyDirectory

OWNER = os.getuid()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "policy.d"
    path.mkdir(mode=0o755)
    (path / "10.toml").write_text("MaxStreams = 1\n")
    (path / "10.toml").chmod(0o644)
    return path


def test_files_are_read_in_the_order_of_their_names(directory: Path) -> None:
    for name in ("b.toml", "a.toml", "9.toml"):
        (directory / name).write_text("")
    for name in (".hidden.toml", "c.toml~", "d.TOML", "readme"):
        (directory / name).write_text("this would be an error")

    found = PolicyDirectory(directory, owner=OWNER)

    assert [Path(one.file).name for one in found.read()] == ["10.toml", "9.toml", "a.toml", "b.toml"]
    assert found.ignored() == (".hidden.toml", "c.toml~", "d.TOML", "readme")


def test_only_an_optional_directory_may_be_missing(tmp_path: Path) -> None:
    optional = PolicyDirectory(tmp_path / "none", is_optional=True)

    assert (optional.read(), optional.stamp(), optional.ignored()) == ((), (), ())
    with pytest.raises(ConfigurationError, match=r"cannot read the policy in .*none: No such file"):
        PolicyDirectory(tmp_path / "none").read()


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "policy.d").write_text("")

    with pytest.raises(ConfigurationError, match="Not a directory"):
        PolicyDirectory(tmp_path / "policy.d", is_optional=True).read()


@pytest.mark.parametrize("which", ["directory", "file", "above"])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_nobody_else_may_be_able_to_write(directory: Path, which: str, mode: int) -> None:
    path = {"directory": directory, "file": directory / "10.toml", "above": directory.parent}[which]
    path.chmod(mode)

    with pytest.raises(ConfigurationError, match=f"users other than root can write {path}") as caught:
        PolicyDirectory(directory, owner=OWNER).read()

    assert caught.value.remedy is not None
    assert f"chmod go-w {path}" in caught.value.remedy
    assert PolicyDirectory(directory).read()


def test_the_sticky_bit_protects_only_above_the_directory(directory: Path) -> None:
    directory.parent.chmod(0o1777)
    assert PolicyDirectory(directory, owner=OWNER).read()

    directory.chmod(0o1777)
    with pytest.raises(ConfigurationError, match="users other than root can write"):
        PolicyDirectory(directory, owner=OWNER).read()


@pytest.mark.parametrize("which", ["directory", "file", "above"])
def test_it_may_not_belong_to_another_user(directory: Path, which: str) -> None:
    path = {"directory": directory, "file": directory / "10.toml", "above": directory.parent}[which]
    if os.getuid() == 0:
        os.chown(path, 65534, -1)
        owner = 0
    else:
        owner, path = OWNER + 1, directory

    with pytest.raises(ConfigurationError, match=f"because {path} does not belong to root"):
        PolicyDirectory(directory, owner=owner).read()


def test_what_a_link_leads_to_is_checked(directory: Path, tmp_path: Path) -> None:
    """The files of a mounted ConfigMap of Kubernetes are such links."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "more.toml").write_text("MaxStreams = 2\n")
    (elsewhere / "more.toml").chmod(0o644)
    (directory / "20.toml").symlink_to(elsewhere / "more.toml")
    assert len(PolicyDirectory(directory, owner=OWNER).read()) == 2

    elsewhere.chmod(0o777)
    with pytest.raises(ConfigurationError, match=f"can write {elsewhere}"):
        PolicyDirectory(directory, owner=OWNER).read()


@pytest.mark.skipif(os.getuid() != 0, reason="gives a directory away")
@pytest.mark.parametrize("what", ["directory", "link"])
def test_who_could_change_a_link_on_the_way_is_checked(directory: Path, tmp_path: Path, what: str) -> None:
    """A link leads to a link of another user, which leads to a file of root for now."""
    real, theirs = tmp_path / "real.toml", tmp_path / "theirs"
    real.write_text("MaxStreams = 2\n")
    real.chmod(0o644)
    theirs.mkdir(mode=0o755)
    (theirs / "current.toml").symlink_to("../real.toml")
    (directory / "20.toml").symlink_to(theirs / "current.toml")
    assert len(PolicyDirectory(directory, owner=0).read()) == 2

    changed = theirs if what == "directory" else theirs / "current.toml"
    os.chown(changed, 65534, -1, follow_symlinks=False)
    with pytest.raises(ConfigurationError, match=f"because {changed} does not belong to root"):
        PolicyDirectory(directory, owner=0).read()


@pytest.mark.parametrize("link", ["etc/policy.d", "etc"])
def test_a_directory_that_is_a_link_to_nothing_is_not_optional(tmp_path: Path, link: str) -> None:
    """Perhaps what it leads to is not mounted yet."""
    path = tmp_path / "etc" / "policy.d"
    optional = PolicyDirectory(path, owner=OWNER, is_optional=True)
    assert (optional.read(), optional.stamp()) == ((), ())

    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "mount")
    for call in (optional.read, optional.stamp):
        with pytest.raises(ConfigurationError, match="cannot read the policy in"):
            call()


@pytest.mark.parametrize("kind", ["dangling", "circle", "directory", "pipe"])
@pytest.mark.parametrize("owner", [OWNER, None])
def test_what_cannot_be_read_is_an_error(directory: Path, kind: str, owner: int | None) -> None:
    path = directory / "20.toml"
    match kind:
        case "dangling":
            path.symlink_to("nothing")
        case "circle":
            path.symlink_to("20.toml")
        case "directory":
            path.mkdir(mode=0o755)
        case "pipe":
            os.mkfifo(path, 0o644)

    with pytest.raises(ConfigurationError, match=r"20\.toml"):
        PolicyDirectory(directory, owner=owner).read()


def test_an_error_names_file_and_line(directory: Path) -> None:
    (directory / "20.toml").write_bytes(b"\xef\xbb\xbf# a comment\r\nMaxStreams = 'x'\r\n")

    with pytest.raises(ConfigurationError) as caught:
        PolicyDirectory(directory).read()

    assert str(caught.value) == f"{directory}/20.toml:2: MaxStreams: expected a number from 0 to 1000000"


def test_there_may_not_be_too_many_files(directory: Path) -> None:
    for number in range(MAX_FILES):
        (directory / f"{number:04}.toml").touch()

    with pytest.raises(ConfigurationError, match="more than 1000 policy files"):
        PolicyDirectory(directory).read()


@pytest.mark.parametrize("change", ["content", "new", "removed", "renamed", "mode"])
def test_the_stamp_changes_with_every_change(directory: Path, change: str) -> None:
    found = PolicyDirectory(directory)
    before, path = found.stamp(), directory / "10.toml"
    assert found.stamp() == before
    match change:
        case "content":
            path.write_text("MaxStreams = 23\n")
        case "new":
            (directory / "20.toml").touch()
        case "removed":
            path.unlink()
        case "renamed":
            path.rename(directory / "30.toml")
        case "mode":
            path.chmod(0o600)

    assert found.stamp() != before
