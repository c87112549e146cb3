"""The categories of suggestions and comments; apart, as commands name them before they need a database."""

from __future__ import annotations

from typing import Final, Literal, get_args

Category = Literal[
    "schedule",
    "quota",
    "performance",
    "reliability",
    "storage",
    "security",
    "discovery",
    "tracking",
    "updates",
    "configuration",
]
CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
