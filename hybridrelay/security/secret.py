"""Secret texts that must not be shown or stored by accident."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn, Self

_SHOWN: Final = "Secret(...)"


class Secret:
    """A secret text. It cannot be printed, formatted or pickled, and is compared in constant time.

    This is deliberately not an attrs class: `attrs.asdict` would recurse into it and expose the text.
    """

    __slots__ = ("_text",)

    _text: str

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself. Search for calls of this method to see where secrets are used."""
        return self._text

    def __repr__(self) -> str:
        return _SHOWN

    def __str__(self) -> str:
        return _SHOWN

    def __format__(self, format_spec: str) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(
            self._text.encode("utf-8", "surrogatepass"), other._text.encode("utf-8", "surrogatepass")
        )

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")
