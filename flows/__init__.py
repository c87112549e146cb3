"""Prefect flows: thin wrappers over the cycles of maia."""
