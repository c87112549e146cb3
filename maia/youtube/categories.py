"""YouTube's video categories. Their numbers and English names are the same in every region."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    """A video category. Uploaders can only choose assignable ones."""

    id: int
    title: str
    assignable: bool = False


CATEGORIES: dict[int, Category] = {
    category.id: category
    for category in (
        Category(1, "Film & Animation", True),
        Category(2, "Autos & Vehicles", True),
        Category(10, "Music", True),
        Category(15, "Pets & Animals", True),
        Category(17, "Sports", True),
        Category(18, "Short Movies"),
        Category(19, "Travel & Events", True),
        Category(20, "Gaming", True),
        Category(21, "Videoblogging"),
        Category(22, "People & Blogs", True),
        Category(23, "Comedy", True),
        Category(24, "Entertainment", True),
        Category(25, "News & Politics", True),
        Category(26, "Howto & Style", True),
        Category(27, "Education", True),
        Category(28, "Science & Technology", True),
        Category(29, "Nonprofits & Activism", True),
        Category(30, "Movies"),
        Category(31, "Anime/Animation"),
        Category(32, "Action/Adventure"),
        Category(33, "Classics"),
        Category(34, "Comedy"),
        Category(35, "Documentary"),
        Category(36, "Drama"),
        Category(37, "Family"),
        Category(38, "Foreign"),
        Category(39, "Horror"),
        Category(40, "Sci-Fi/Fantasy"),
        Category(41, "Thriller"),
        Category(42, "Shorts"),
        Category(43, "Shows"),
        Category(44, "Trailers"),
    )
}


def category_of(text: str) -> Category:
    """Find a category by its number, its name or a word of its name, such as "news".

    If several match, the only assignable one wins. ValueError lists the names if none matches or the text
    is ambiguous.
    """
    wanted = text.strip().casefold()
    if wanted.isascii() and wanted.isdecimal():
        found = [CATEGORIES[int(wanted)]] if len(wanted) < 4 and int(wanted) in CATEGORIES else []
    else:
        found = _named(wanted)
    if len(found) == 1:
        return found[0]
    offered = found or [category for category in CATEGORIES.values() if category.assignable]
    names = ", ".join(f"{category.title} ({category.id})" for category in offered)
    raise ValueError(f"{text!r} {'may mean one of' if found else 'is not a category; there are'} {names}")


def _named(wanted: str) -> list[Category]:
    """The categories with exactly that name, or else those with that word in their name."""
    whole = [category for category in CATEGORIES.values() if category.title.casefold() == wanted]
    words = whole or [
        category
        for category in CATEGORIES.values()
        if wanted in re.findall(r"[\w-]+", category.title.casefold())
    ]
    return [category for category in words if category.assignable] or words
