"""Public import path of `KeyRing` for code outside Atlas."""

from atlas.keyring import KeyRing

__all__ = ["KeyRing"]
