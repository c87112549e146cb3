"""Learning: pure functions from arrays to arrays; no I/O, no clock, no globals."""
