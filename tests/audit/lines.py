"""Audit files in memory, as a program would have written them, and their verification."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import attrs

from hybridrelay.audit.chain import START, Chain, Checkpoint, FieldValue, Position, file_name, time_text
from hybridrelay.audit.keys import SigningKey, VerifyingKey
from hybridrelay.audit.verification import Verdict, Verifier

Files = dict[str, list[bytes]]


@attrs.define
class WrittenLog:
    """A log that is written in memory."""

    files: Files = attrs.field(factory=dict)
    keys: list[SigningKey] = attrs.field(factory=list)
    log_id: str = "0123456789abcdef"
    now: float = 1_700_000_000.0
    #: The chain of the file that is being written.
    chain: Chain = attrs.field(init=False)
    lines: list[bytes] = attrs.field(init=False)

    @classmethod
    def of(cls, *sizes: int) -> WrittenLog:
        """A log with a file for each number, which has so many records. Each file ends with a checkpoint."""
        log = cls()
        for number, size in enumerate(sizes):
            if number:
                log.rotate()
            else:
                log.begin_file()
            log.records(size)
            log.checkpoint()
        return log

    @property
    def key(self) -> SigningKey:
        return self.keys[-1]

    def begin_file(self, position: Position | None = None, key: SigningKey | None = None) -> None:
        self.keys.append(SigningKey.generate() if key is None else key)
        self.chain = Chain(self.key, START if position is None else position, self.log_id)
        self.lines = self.files[file_name(self.chain.position.seq + 1)] = []
        self.lines.append(self.chain.opened(self.at(), "hybridrelay"))

    def rotate(self) -> None:
        new = SigningKey.generate()
        self.lines.append(self.chain.continued(self.at(), new.public))
        self.begin_file(self.chain.position, new)

    def at(self) -> str:
        self.now += 1
        return time_text(self.now)

    def records(self, count: int) -> None:
        for number in range(count):
            fields: dict[str, FieldValue] = {"connection": "orders", "label": "billing", "bytes": number}
            self.lines.append(self.chain.record(self.at(), "stream.closed", fields))

    def checkpoint(self) -> None:
        self.lines.append(self.chain.checkpoint(self.at()))


def verify(
    files: Mapping[str, Iterable[bytes]],
    trusted: Collection[VerifyingKey] = (),
    witnessed: Collection[Checkpoint] = (),
) -> Verdict:
    """Verify files in the order of their names."""
    verifier = Verifier(trusted, witnessed)
    for name in sorted(files):
        verifier.begin_file(name)
        for line in files[name]:
            verifier.feed(line)
    return verifier.finish()
