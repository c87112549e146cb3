"""Prefect flows: thin wrappers around maia's cycles, and everything that a Prefect server needs for them."""
