"""Data access objects: one class per group of tables that are locked and written together."""
