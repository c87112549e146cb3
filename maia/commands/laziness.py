"""Loads expensive modules on first use, because short-lived containers pay for every start."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def load_lazily(name: str) -> None:
    """Make `import name` cost nothing until one of the module's attributes is used.

    importlib's LazyLoader does not work for modules that are imported inside functions: each later import
    statement reads `__spec__`, and so loads the module.
    """
    if name not in sys.modules:
        sys.modules[name] = _Unloaded(name)


class _Unloaded(ModuleType):
    """Stands in for a module, and loads it when an attribute is first used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        whole = import_module(name)
        self.__dict__.update(whole.__dict__)
        return getattr(whole, attribute)
