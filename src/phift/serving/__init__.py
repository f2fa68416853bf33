"""Endpoints and deployments: made, asked, deleted, and whose they are."""
