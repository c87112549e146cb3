"""Regions and languages: what is accepted, and what is suggested instead of the rest."""

from __future__ import annotations

import pytest

from atlas.places import LANGUAGES, REGIONS, YOUTUBE_LANGUAGES, language_code, region_code


def test_the_tables_are_whole() -> None:
    assert (len(REGIONS), len(LANGUAGES)) == (249, 184)
    assert all(len(code) == 2 and code.isupper() for code in REGIONS)
    assert all(len(code) == 2 and code.islower() for code in LANGUAGES)
    assert all(name for names in (REGIONS, LANGUAGES, YOUTUBE_LANGUAGES) for name in names.values())


def test_every_region_is_accepted_in_any_case() -> None:
    assert [region_code(f" {code.lower()} ") for code in REGIONS] == list(REGIONS)


def test_every_language_is_accepted_in_any_case() -> None:
    known = [*LANGUAGES, *YOUTUBE_LANGUAGES]
    assert [language_code(code.upper().replace("-", "_")) for code in known] == known


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("zh-Hans", "zh-Hans"),
        ("ZH-HANT", "zh-Hant"),
        ("zh_TW", "zh-TW"),
        ("EN", "en"),
        ("es-419", "es-419"),
        ("iw", "iw"),
    ],
)
def test_a_language_is_written_as_the_api_writes_it(written: str, expected: str) -> None:
    assert language_code(written) == expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("UK", "did you mean GB (United Kingdom)?"),
        ("England", "did you mean GB (United Kingdom)?"),
        ("USA", "did you mean US (United States)?"),
        ("germany", "did you mean DE (Germany)?"),
        ("Swizerland", "did you mean CH (Switzerland)?"),
        ("XX", "write a code such as GB or DE"),
        ("", "write a code such as GB or DE"),
        ("XK", "write a code such as GB or DE"),
    ],
)
def test_a_region_that_is_none_is_named_with_what_was_meant(written: str, meant: str) -> None:
    with pytest.raises(ValueError, match="there is no region") as caught:
        region_code(written)
    assert str(caught.value).endswith(meant)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("jp", "did you mean ja (Japanese)?"),
        ("english", "did you mean en (English)?"),
        ("de-DE", "did you mean de (German)?"),
        ("zh-SG", "did you mean zh-Hans (Chinese (simplified))?"),
        ("cn", "did you mean zh-Hans (Chinese (simplified))?"),
        ("xx", "write a code such as en or de"),
    ],
)
def test_a_language_that_is_none_is_named_with_what_was_meant(written: str, meant: str) -> None:
    with pytest.raises(ValueError, match="there is no language") as caught:
        language_code(written)
    assert str(caught.value).endswith(meant)
