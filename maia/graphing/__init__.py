"""Keeping the knowledge graph: feeding it, what is derived of it, attention, and copies."""
