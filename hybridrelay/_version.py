"""The version, apart so that everybody can import it."""

__version__ = "0.1.0"
