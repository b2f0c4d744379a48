"""``python -m hybridrelay.events`` prints the tables of docs/events.md."""

from .catalogue import reference

print(reference(), end="")
