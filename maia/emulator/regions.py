"""How well videos suit a region, judged by their channel's country and their language (an assumption)."""

from __future__ import annotations

from collections.abc import Mapping

HOME, SAME_LANGUAGE, UNKNOWN, WORLD_LANGUAGE, FOREIGN = 1.0, 0.3, 0.3, 0.08, 0.02
_WORLD_LANGUAGE = "en"

_REGIONS: Mapping[str, str] = {
    "ar": "AE BH DZ EG IQ JO KW LB LY MA OM QA SA TN YE",
    "de": "AT CH DE LI",
    "en": "AU CA GB GH IE IN JM KE NG NZ PH SG UG US ZA ZW",
    "es": "AR BO CL CO CR DO EC ES GT HN MX NI PA PE PR PY SV UY VE",
    "fr": "BE CA CH FR LU SN",
    "hi": "IN",
    "it": "CH IT",
    "ja": "JP",
    "ko": "KR",
    "nl": "BE NL",
    "pt": "BR PT",
    "ru": "BY KZ RU UA",
    "zh": "HK SG TW",
}


def primary(language: str) -> str:
    """The language without its script and region: `zh` for zh-Hans."""
    return language.partition("-")[0].lower()


def affinity(region: str, country: str | None, language: str | None) -> float:
    """The part of a video's appeal that is left in a region, from 0.02 to 1 at home."""
    if country == region:
        return HOME
    if country is None and language is None:
        return UNKNOWN
    spoken = None if language is None else primary(language)
    if spoken is not None and region in _REGIONS.get(spoken, "").split():
        return SAME_LANGUAGE
    return WORLD_LANGUAGE if spoken == _WORLD_LANGUAGE else FOREIGN
