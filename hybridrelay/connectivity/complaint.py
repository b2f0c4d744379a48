"""Words for the log on what fails again and again."""

from __future__ import annotations

from ..errors import HybridRelayError


class Complaint:
    """One thing that is tried until it works: told in full at first and whenever the reason changes, else in short.

    What a prober found fills several lines, and stays the same for as long as a relay is down.
    """

    def __init__(self) -> None:
        self._told: str | None = None

    def about(self, error: HybridRelayError) -> str:
        """What to log of this failure."""
        text = f"{error}; {error.remedy}" if error.remedy else str(error)
        if text != self._told:
            self._told = text
            return text
        return str(error) if error.brief is None else f"{error.brief}, as before"

    def over(self) -> None:
        """It works: the next failure is another one."""
        self._told = None
