"""Maia: the agents, their client and the command line. It contains no SQL and does not import Prefect."""
