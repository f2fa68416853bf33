"""Whom we talk to and how: clients, plain calls, the registry's records, and what an answer must be."""
