"""Tests of single modules, with fakes and without a network."""
