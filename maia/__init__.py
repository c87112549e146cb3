"""Maia: the agents. What to do; no SQL, no Prefect."""
