"""The audit log: what is recorded of a program, where it goes, and how it is checked.

- `record.py` decides which events are recorded, and `source_limit.py` what is left out at a relay. `log.py` passes
  their records to `writer.py`, which writes them to a sink (`sinks/`) in a thread.
- `chain.py`, `keys.py` and `verification.py` are the format of tamper-evident files. `directory.py` writes these
  files with the operations in `disk.py`, and `ended.py` handles those that have ended.

docs/audit.md describes the audit log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_used

if TYPE_CHECKING:
    from .log import AuditLog as AuditLog
    from .record import NotRecordedError as NotRecordedError

__getattr__, __dir__ = load_when_used(__name__, {"log": ("AuditLog",), "record": ("NotRecordedError",)})
