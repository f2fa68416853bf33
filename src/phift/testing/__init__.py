"""Doubles of Azure ML for tests."""
