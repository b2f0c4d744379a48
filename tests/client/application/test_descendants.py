"""Nothing is left of an application, whoever reaps its processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hybridrelay.client.application import descendants
from hybridrelay.client.application.descendants import end_descendants

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")


@linux_only
def test_a_child_that_somebody_else_has_reaped_does_not_protect_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when the children were listed, and is gone when it is to be killed."""
    gone = 2**30  # larger than any process id
    with subprocess.Popen(["sleep", "1000"]) as other:
        listed = iter([[gone, other.pid], []])
        monkeypatch.setattr(descendants, "children", lambda: next(listed))
        end_descendants()
        assert next(listed, None) is None, "it has ended without an error, and has looked again"
        other.wait(60)  # raises if it was not killed


_SCRIPT = """
import signal, subprocess
from hybridrelay.client.application import linux
from hybridrelay.client.application.descendants import children, end_descendants
linux.become_subreaper()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(30):
    subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000"])
end_descendants()
assert children() == []
"""


@linux_only
def test_children_that_the_kernel_reaps() -> None:
    """SIGCHLD is ignored, so children are gone as soon as they have ended."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
