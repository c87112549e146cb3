"""Maintenance: how Pleiades watches the machine that it runs on."""
