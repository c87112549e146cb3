"""The names by which the outside knows Atlas's tools."""

from atlas.keyring import KeyRing

__all__ = ["KeyRing"]
