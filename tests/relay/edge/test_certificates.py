"""A certificate that is renewed while the relay runs: used completely, or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from hybridrelay.errors import ConfigurationError
from hybridrelay.relay.edge.certificates import CertificateFiles, RelayCertificates
from hybridrelay.relay.edge.renewal import SettledChange
from hybridrelay.security import relay_pin

from ...certificates import CertificateAuthority
from ...waiting import async_wait_until

AUTHORITY = CertificateAuthority()


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    made = CertificateFiles(tmp_path / "live" / "fullchain.pem", tmp_path / "live" / "privkey.pem")
    made.certificate.parent.mkdir()
    renew(made)
    return made


@pytest.fixture
def certificates(tmp_path: Path, files: CertificateFiles) -> RelayCertificates:
    return RelayCertificates.load(tmp_path, files, now=0.0, outer_needed=True)


def renew(files: CertificateFiles) -> str:
    """Write another certificate and its key; the certificate's pin."""
    certificate, key = AUTHORITY.issue("relay.example.com")
    assert files.key is not None
    files.key.write_bytes(key)
    files.certificate.write_bytes(certificate)
    return relay_pin(files.certificate)


def state(certificates: RelayCertificates) -> tuple[object, ...]:
    controls = [certificates.control_context(by_ca=wanted) for wanted in (False, True)]
    return certificates.outer_context, certificates.outer_pins, *controls


async def test_a_renewed_certificate_replaces_the_public_one_only(
    certificates: RelayCertificates, files: CertificateFiles
) -> None:
    (before,) = certificates.outer_pins
    context, own = certificates.outer_context, certificates.control_context(by_ca=False)
    public = certificates.control_context(by_ca=True)
    assert public is not own
    pin = renew(files)

    assert await certificates.reload()
    # A peer that made its handshake a moment ago has seen the other one.
    assert certificates.outer_pins == (pin, before)
    assert certificates.outer_context is not context
    assert certificates.control_context(by_ca=False) is own
    assert certificates.control_context(by_ca=True) is not public
    newest = renew(files)
    assert await certificates.reload()
    assert certificates.outer_pins == (newest, pin)


async def test_files_that_were_only_touched(certificates: RelayCertificates, files: CertificateFiles) -> None:
    os.utime(files.certificate, (1, 1))
    before = state(certificates)

    assert not await certificates.reload()
    assert state(certificates) == before


def _another_key(files: CertificateFiles) -> None:
    assert files.key is not None
    files.key.write_bytes(AUTHORITY.issue("relay.example.com")[1])


def _half_written(files: CertificateFiles) -> None:
    files.certificate.write_bytes(files.certificate.read_bytes()[:300])


def _empty(files: CertificateFiles) -> None:
    files.certificate.write_bytes(b"")


def _gone(files: CertificateFiles) -> None:
    files.certificate.unlink()


@pytest.mark.parametrize("spoil", [_another_key, _half_written, _empty, _gone])
async def test_what_cannot_be_used_changes_nothing(
    certificates: RelayCertificates, files: CertificateFiles, spoil: Callable[[CertificateFiles], None]
) -> None:
    before = state(certificates)
    spoil(files)
    with pytest.raises(ConfigurationError, match=r"fullchain\.pem|privkey\.pem"):
        await certificates.reload()

    assert state(certificates) == before
    (shown,) = certificates.snapshot()
    assert ".pem" in shown.failure
    assert shown.remedy
    renew(files)
    assert await certificates.reload()
    (shown,) = certificates.snapshot()
    assert (shown.failure, shown.remedy) == ("", "")


async def test_files_that_change_while_they_are_read(
    certificates: RelayCertificates, files: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts and pin must be of one and the same certificate."""
    before = state(certificates)
    renew(files)

    def renewed_in_between(path: Path) -> str:
        renew(files)
        return relay_pin(path)

    monkeypatch.setattr("hybridrelay.relay.edge.certificates.relay_pin", renewed_in_between)
    with pytest.raises(ConfigurationError, match="was changed while it was read"):
        await certificates.reload()
    assert state(certificates) == before


async def test_reloads_at_once(certificates: RelayCertificates, files: CertificateFiles) -> None:
    results: list[bool] = []
    pin = renew(files)

    async def reload() -> None:
        results.append(await certificates.reload())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(reload)
    assert sorted(results) == [False] * 4 + [True]
    assert certificates.outer_pins[0] == pin


async def test_a_cancelled_reload_changes_nothing(certificates: RelayCertificates, files: CertificateFiles) -> None:
    before = state(certificates)
    renew(files)
    with trio.CancelScope() as scope:
        scope.cancel()
        await certificates.reload()
    assert state(certificates) == before
    assert await certificates.reload()


async def test_a_relay_notices_by_itself(
    certificates: RelayCertificates,
    files: CertificateFiles,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This also holds if a link is changed, as certbot does."""
    monkeypatch.setattr("hybridrelay.relay.edge.renewal.POLL_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    live = files.certificate.parent
    archive = CertificateFiles(live / "fullchain2.pem", live / "privkey2.pem")
    assert files.key is not None
    pin = renew(archive)
    nursery.start_soon(certificates.watch)
    for link, renewed in ((files.certificate, "fullchain2.pem"), (files.key, "privkey2.pem")):
        link.unlink()
        link.symlink_to(renewed)

    async def is_in_force() -> bool:
        return certificates.outer_pins[0] == pin

    async def is_refused() -> bool:
        return "certificate cannot be used; the earlier one stays in force" in caplog.text

    await async_wait_until(is_in_force, seconds=20, what="the renewed certificate")
    caplog.clear()
    _another_key(archive)
    await async_wait_until(is_refused, seconds=20, what="the event about the wrong key")
    assert await is_in_force()
    nursery.cancel_scope.cancel()


async def test_a_certificate_that_cannot_be_used_is_tried_again(
    certificates: RelayCertificates,
    files: CertificateFiles,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was wrong with it does not show in the files' times and sizes. It is logged once."""
    pin = renew(files)
    attempts = 0

    def refuse(*_: object) -> object:
        nonlocal attempts
        attempts += 1
        raise ConfigurationError("permission denied")

    async def was_tried_often() -> bool:
        return attempts > 5

    async def is_in_force() -> bool:
        return certificates.outer_pins[0] == pin

    monkeypatch.setattr("hybridrelay.relay.edge.renewal.POLL_SECONDS", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr("hybridrelay.relay.edge.certificates.control_server_context", refuse)
        nursery.start_soon(certificates.watch)
        await async_wait_until(was_tried_often, seconds=20, what="more attempts")
        assert caplog.text.count("permission denied") == 1
        assert not await is_in_force()
    await async_wait_until(is_in_force, seconds=20, what="the renewed certificate")
    nursery.cancel_scope.cancel()


def test_a_change_counts_once_it_has_settled() -> None:
    a, b, c = (((number, 1, 1),) for number in range(3))
    change = SettledChange(a)
    looks = [change.look(stamp) for stamp in (a, b, c, c, c, b, a, a, (None,), (None,), a, a)]

    assert looks == [False, False, False, True, False, False, False, True, False, True, False, True]
    change.was_read(b)
    assert [change.look(stamp) for stamp in (b, b, c, b, b)] == [False] * 5


async def test_without_a_public_certificate(tmp_path: Path) -> None:
    certificates = RelayCertificates.load(tmp_path, None, now=0.0, outer_needed=True)
    before = state(certificates)

    assert not await certificates.reload()
    assert state(certificates) == before
    assert certificates.control_context(by_ca=True) is certificates.control_context(by_ca=False)
    assert RelayCertificates.load(tmp_path, None, now=0.0, outer_needed=False).outer_pins == ()
