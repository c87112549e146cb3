"""Data access objects: one class per aggregate, what is locked and written together."""
