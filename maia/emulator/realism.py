"""How far the emulator's answers are from a perfect catalogue: parameters, each an assumption, and presets.

Nobody outside YouTube knows how its search fills, ranks and ends its results, or how old its counts and feeds
are. None of these parameters claims to. They let strategies be tried in worlds that are kind, plausible, or
set against what works best elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, get_args

from maia.emulator.catalogue import MOST_RESULTS
from maia.youtube.methods import Order

RealismName = Literal["none", "realistic", "worst"]

_MOST = 1_000_000_000

_parameter = partial(field, kw_only=True)


def _share(assumption: str, default: float = 0.0) -> float:
    value: float = _parameter(default=default, metadata={"assumes": assumption, "most": 1.0})
    return value


def _amount(assumption: str, default: float = 0.0) -> float:
    value: float = _parameter(default=default, metadata={"assumes": assumption})
    return value


def _count(assumption: str, default: int, least: int = 0) -> int:
    value: int = _parameter(default=default, metadata={"assumes": assumption, "least": least})
    return value


@dataclass(frozen=True, slots=True)
class Realism:
    """Parameters of a world; the defaults are the kind world in which everything is shown at once.

    `seed` fixes every random choice: the same catalogue, question and instant give the same answer.
    """

    seed: int = _count("Decides which videos, channels and answers are hit.", 0)

    unindexed_small: float = _share(
        "Share of the videos of channels of up to 1,000 subscribers that search never shows."
    )
    unindexed_large: float = _share(
        "The same for channels of 1,000,000 or more; in between it changes with the logarithm of the size."
    )
    index_delay_h: float = _amount(
        "Median hours until search shows a new video; a few take several times that."
    )
    counts_lag_h: float = _amount(
        "Mean age in hours of the views by which search ranks; each video's own, up to twice the mean."
    )

    popularity_weight: float = _amount("How much relevance grows with each tenfold of the views.")
    ranking_noise: float = _amount(
        "Standard deviation of the logarithm of a random factor in relevance and views, new every hour."
    )
    crowding: float = _share("Share of the results that move up behind a better one of their channel.")
    repeats: float = _share("Share of the results that come again some places later, often on the next page.")
    region_weight: float = _amount(
        "How much relevance grows for videos that belong to the region asked for, if one is.", 1.0
    )
    language_weight: float = _amount(
        "How much relevance grows for videos in the language asked for, if one is.", 1.0
    )

    totals_error: float = _amount("Standard deviation of the logarithm of the error of totalResults.")
    early_end: float = _share("Share of the searches whose results end after one to five pages of 50.")
    short_pages: float = _share("Share of the results that are missing from their page.")

    empty_share: float = _share("Share of the videos that a search without a query can show.", 1.0)
    empty_most: int = _count("Results after which a search without a query ends.", MOST_RESULTS)
    or_words: int = _count("Alternatives of an OR that are used; the others are ignored.", 1000, 1)
    query_words: int = _count("Words of a query that are used; the others are ignored.", 1000)
    ignored_orders: tuple[Order, ...] = _parameter(
        default=(), metadata={"assumes": "Orders that are answered by relevance; several are joined by +."}
    )
    window_ignored: bool = _parameter(
        default=False, metadata={"assumes": "Whether publishedAfter and publishedBefore are ignored."}
    )

    feed_cache_min: float = _amount("Minutes for which the same copy of a feed is served.")
    feed_stale: float = _share("Share of these copies that are older than that.")
    feed_stale_h: float = _amount("Hours by which an older copy is older, at most.")
    feed_missing: float = _share("Share of these copies that are 404, although the channel exists.")
    uploads_delay_min: float = _amount("Minutes until an upload is in its channel's playlist, at most.")
    uploads_disorder: float = _share("Share of the uploads that stand behind the next older one.")
    chart_every_h: float = _amount("Hours for which a chart stays as it is.", 1.0)

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value, limits = getattr(self, parameter.name), parameter.metadata
            least, most = limits.get("least", 0), limits.get("most", _MOST)
            if isinstance(value, (int, float)) and not least <= value <= most:
                bound = f"{least:g} or more" if most == _MOST else f"from {least:g} to {most:g}"
                raise ValueError(f"{parameter.name} is {bound}, not {value:g}")
        if self.chart_every_h == 0:
            raise ValueError("chart_every_h is more than 0")

    @property
    def name(self) -> str:
        """The preset, or the word for none of them."""
        return next((name for name, preset in PRESETS.items() if preset == self), "customized")

    @classmethod
    def named(cls, name: str, settings: Iterable[str] = ()) -> Realism:
        """A preset with single parameters set by `NAME=VALUE`; ValueError says what is wrong."""
        if name not in PRESETS:
            raise ValueError(f"{name!r} is not a realism: choose {', '.join(PRESETS)}")
        changed = dict(_parsed(setting) for setting in settings)
        return replace(PRESETS[name], **changed)

    def parameters(self) -> Mapping[str, Any]:
        """Each parameter's value by its name."""
        return {parameter.name: getattr(self, parameter.name) for parameter in fields(self)}


def assumptions() -> Mapping[str, str]:
    """What each parameter assumes."""
    return {parameter.name: parameter.metadata["assumes"] for parameter in fields(Realism)}


def written(value: Any) -> str:
    """A parameter's value as `NAME=VALUE` has it."""
    if isinstance(value, tuple):
        return "+".join(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _parsed(setting: str) -> tuple[str, Any]:
    name, separator, text = setting.partition("=")
    known = {parameter.name: parameter for parameter in fields(Realism)}
    if not separator or name not in known:
        raise ValueError(
            f"{setting!r} is not NAME=VALUE with one of these names: {', '.join(known)}; "
            "such as unindexed_small=0.4"
        )
    return name, _value(known[name], text.strip())


def _value(parameter: Field[Any], text: str) -> Any:
    if parameter.name == "ignored_orders":
        orders = tuple(filter(None, text.split("+")))
        if unknown := set(orders) - set(get_args(Order)):
            raise ValueError(
                f"{', '.join(sorted(unknown))} is not an order: the orders are {', '.join(get_args(Order))}"
            )
        return orders
    assert parameter.default is not MISSING
    kind = type(parameter.default)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{parameter.name} is true or false, not {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        sort = "a whole number" if kind is int else "a number"
        raise ValueError(f"{parameter.name} is {sort}, not {text!r}") from error


NONE = Realism()
REALISTIC = Realism(
    unindexed_small=0.6,
    unindexed_large=0.1,
    index_delay_h=0.5,
    counts_lag_h=3.0,
    popularity_weight=0.25,
    ranking_noise=0.35,
    crowding=0.15,
    repeats=0.04,
    totals_error=0.7,
    early_end=0.2,
    short_pages=0.05,
    empty_share=0.35,
    empty_most=150,
    or_words=12,
    query_words=32,
    feed_cache_min=12.0,
    feed_stale=0.05,
    feed_stale_h=6.0,
    feed_missing=0.01,
    uploads_delay_min=20.0,
    uploads_disorder=0.05,
    chart_every_h=3.0,
)
WORST = replace(
    REALISTIC,
    unindexed_small=0.7,
    unindexed_large=0.2,
    index_delay_h=1.0,
    counts_lag_h=6.0,
    ranking_noise=0.6,
    early_end=0.5,
    empty_share=0.02,
    empty_most=20,
    or_words=1,
    query_words=8,
    ignored_orders=("viewCount",),
    feed_cache_min=60.0,
    feed_stale=0.2,
    feed_missing=0.05,
    uploads_delay_min=60.0,
    chart_every_h=12.0,
)
"""What works best elsewhere fails here: questions without a query, those joined by OR, the order of views."""

PRESETS: Mapping[str, Realism] = {"none": NONE, "realistic": REALISTIC, "worst": WORST}
