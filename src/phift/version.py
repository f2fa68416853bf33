"""Which version of phift this is."""

__version__ = "0.1.0"
