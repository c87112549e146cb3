"""Running everything on one machine: supervised processes, preflight checks and metrics."""
