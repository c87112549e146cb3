"""The classes of failure templates, each with who said so."""

from __future__ import annotations

from typing import Final, NamedTuple, Self

from maia.learning.states import pack, unpack
from maia.learning.templates import FailureClass

BY_REASON: Final = "reason"
"""The cycle itself gave the reason of the failure."""
_NAME: Final = "failure_classes"
_VERSION: Final = 1


class Said(NamedTuple):
    """A class, and who said it: the failure's own reason, or the back end that classified its text."""

    failure_class: FailureClass
    by: str


class FailureClasses:
    """Remembers the class of each template's text; the least recently told are forgotten first."""

    def __init__(self, most: int = 1_000) -> None:
        self.most = most
        self._said: dict[str, Said] = {}

    def tell(self, text: str, failure_class: FailureClass, by: str) -> None:
        """Keep a class; what a failure's own reason said is not replaced by what a back end thinks."""
        known = self._said.pop(text, None)
        new = Said(failure_class, by)
        self._said[text] = known if known is not None and known.by == BY_REASON != by else new
        while len(self._said) > self.most:
            del self._said[next(iter(self._said))]

    def of(self, text: str) -> Said | None:
        """The class of a template's text, if somebody said it."""
        return self._said.get(text)

    def examples(self, most: int) -> list[tuple[str, FailureClass]]:
        """The latest texts whose class is known by reason, the newest last."""
        known = [(text, said.failure_class) for text, said in self._said.items() if said.by == BY_REASON]
        return known[-most:]

    def state(self) -> bytes:
        """Everything needed to go on elsewhere, with a version."""
        said = {text: [each.failure_class.value, each.by] for text, each in self._said.items()}
        return pack(_NAME, _VERSION, {"most": self.most, "said": said})

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """The classes that `state` described; StateError if this version can't read it."""
        saved = unpack(_NAME, _VERSION, state)
        classes = cls(saved["most"])
        classes._said = {
            text: Said(FailureClass(failure_class), by) for text, (failure_class, by) in saved["said"].items()
        }
        return classes
