"""Exchanges with a workspace, kept without anybody's names or secrets, and held against those of another."""
