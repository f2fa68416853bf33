"""The server process of a local workspace."""
