"""Settings: every source, and every way in which they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas import config
from atlas.config import Settings, load, parse_key_pool, unknown_variables
from atlas.errors import ConfigError, EmptyKeyRing

Environment = Callable[..., None]
POOL = "YOUTUBE_API_KEY_POOL_JSON"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    for name in [*config._FIXED_NAMES, *unknown_variables({}), "PLEIADES_CONFIG"]:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLEIADES_SECRETS_DIR", str(tmp_path / "no-secrets"))

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def refusal(**overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**overrides)
    return str(caught.value)


def test_defaults_need_nothing() -> None:
    settings = load()
    assert settings.database_url is None
    assert settings.hunter.batch_size == 10
    assert settings.vault_provider == "file"
    assert settings.key_pool == {"hunting": (), "tracking": (), "archeology": ()}


def test_environment_sets_fixed_and_grouped_names(environment: Environment) -> None:
    environment(DATABASE_URL="postgresql://u:hidden@h/d", PORT="9000", PLEIADES_HUNTER__BATCH_SIZE="7")
    settings = load()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:hidden@h/d"
    assert (settings.port, settings.hunter.batch_size) == (9000, 7)
    assert "hidden" not in repr(settings)


def test_precedence_is_environment_dotenv_secret_yaml(environment: Environment, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "PLEIADES_HUNTER__BATCH_SIZE").write_text("2\n")
    (secrets / "HF_TOKEN").write_text("from-secret\n")
    (tmp_path / "p.yaml").write_text("hunter: {batch_size: 1, lease_s: 99}\nhf_token: from-yaml\n")
    environment(PLEIADES_CONFIG=str(tmp_path / "p.yaml"))
    assert load().hunter.batch_size == 1
    environment(PLEIADES_SECRETS_DIR=str(secrets))
    assert load().hunter.batch_size == 2
    (tmp_path / ".env").write_text("PLEIADES_HUNTER__BATCH_SIZE=3\nUNRELATED=1\n")
    assert load().hunter.batch_size == 3
    environment(PLEIADES_HUNTER__BATCH_SIZE="4")
    settings = load()
    assert (settings.hunter.batch_size, settings.hunter.lease_s) == (4, 99)
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "from-secret"


def test_one_name_of_a_nested_group_leaves_its_other_defaults(environment: Environment) -> None:
    environment(PLEIADES_QUOTA__SHARES__HUNTING__SEARCH="0.5")
    hunting = load().quota.shares.hunting
    assert (hunting.search, hunting.general) == (0.5, 0.4)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PLEIADES_HUNTER__BATCH_SIZ", "1", "PLEIADES_HUNTER__BATCH_SIZ: there is no such setting"),
        ("PLEIADES_HUNTER__BATCH_SIZE", "0", "PLEIADES_HUNTER__BATCH_SIZE: Input should be greater"),
        ("PLEIADES_NOTIFIER__URLS", "json://x", "lists and objects are written as JSON"),
        ("PLEIADES_CLOCK__START", "2026-01-01T00:00:00Z", "needs both start and anchor"),
        ("PLEIADES_CLOCK__START", "2026-01-01T00:00:00", "an instant needs a time zone"),
        ("PLEIADES_QUOTA__SHARES__HUNTING__SEARCH", "1", "'search' add up to 1.1, more than 1"),
        ("VAULT_PROVIDER", "tape", "VAULT_PROVIDER: Input should be 'file', 'huggingface' or 's3'"),
        ("VAULT_PROVIDER", "s3", "PLEIADES_VAULT__URL required"),
        ("VAULT_PROVIDER", "huggingface", "HF_DATASET_ID required, HF_TOKEN required"),
        ("PORT", "seventy", "PORT: Input should be a valid integer"),
    ],
)
def test_wrong_values_are_named(environment: Environment, variable: str, value: str, expected: str) -> None:
    environment(**{variable: value})
    message = refusal()
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("huntr: {batch_size: 1}", "has no setting huntr"),
        ("hunter: {batch_siz: 1}", "PLEIADES_HUNTER__BATCH_SIZ: there is no such setting"),
        ("hunter: [", "is not YAML at line"),
        ("- a\n", "must hold"),
    ],
)
def test_wrong_yaml_is_named(environment: Environment, tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    environment(PLEIADES_CONFIG=str(tmp_path / "p.yaml"))
    assert expected in refusal()


def test_absent_yaml_is_an_error_and_empty_is_not(environment: Environment, tmp_path: Path) -> None:
    environment(PLEIADES_CONFIG=str(tmp_path / "absent.yaml"))
    assert "cannot be read" in refusal()
    (tmp_path / "absent.yaml").write_text("")
    assert load().hunter.batch_size == 10


def test_key_pool_by_ring_and_project(environment: Environment) -> None:
    environment(
        **{POOL: json.dumps({"hunting": [{"key": "k1", "project": "p"}, {"key": "k2", "project": "p"}]})}
    )
    settings = load()
    keys = settings.ring_keys("hunting")
    assert [(key.key.get_secret_value(), key.project) for key in keys] == [("k1", "p"), ("k2", "p")]
    with pytest.raises(EmptyKeyRing, match=r"^Empty KeyRing 'tracking': set YOUTUBE_API_KEY_POOL_JSON"):
        settings.ring_keys("tracking")


def test_flat_list_serves_every_ring_as_one_project() -> None:
    pool = parse_key_pool('["a", {"key": "b"}]')
    assert {ring: [key.project for key in keys] for ring, keys in pool.items()} == {
        "hunting": ["default", "default"],
        "tracking": ["default", "default"],
        "archeology": ["default", "default"],
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("AIza-not-json", "line 1, column 1: not JSON"),
        ('["AIza', "line 1, column 2: not JSON"),
        ('"AIza-text"', "top: expected"),
        ("7", "top: expected"),
        ('{"hunting": "AIza-text"}', "hunting: expected a list"),
        ('{"hunting": [7]}', "hunting[0]: expected"),
        ('{"hunting": ["ok", {"key": ""}]}', "hunting[1].key: "),
        ('{"hunting": [{"project": "p"}]}', "hunting[0].key: Field required"),
        ('{"hunting": [{"key": "k", "projct": "p"}]}', "hunting[0].projct: Extra"),
        ('{"hunting": [{"key": "k", "project": 7}]}', "hunting[0].project: "),
        ('{"hunting": ["a b"]}', "hunting[0].key: a key is plain ASCII"),
        ('{"hunting": ["k", "k"]}', "hunting[1]: this key stands here twice"),
        ('{"hunting": ["a"], "hunting": ["b"]}', "hunting: this name stands here twice"),
        ('{"hunitng": ["a"]}', "hunitng: no such ring"),
        ('[["a"]]', "[0]: expected"),
    ],
)
def test_malformed_key_pools_name_the_place_and_no_key(
    environment: Environment, text: str, place: str
) -> None:
    environment(**{POOL: text})
    message = refusal()
    assert place in message
    assert "AIza" not in message


def test_several_projects_need_a_statement(environment: Environment) -> None:
    environment(
        **{POOL: '{"hunting": [{"key": "a", "project": "p"}], "tracking": [{"key": "b", "project": "q"}]}'}
    )
    assert "III.D.1.c" in refusal()
    environment(PLEIADES_QUOTA__SEPARATE_PROJECTS_PERMITTED="true")
    assert load().ring_keys("tracking")[0].project == "q"


def test_fingerprints_identify_without_giving_away() -> None:
    first, second = parse_key_pool('["secret-one", "secret-two"]')["hunting"]
    assert first.fingerprint != second.fingerprint
    assert "secret" not in f"{first!r} {first} {first.fingerprint}"
    assert first.fingerprint == parse_key_pool('["secret-one"]')["tracking"][0].fingerprint


def test_unknown_variables_are_found_at_every_depth() -> None:
    names = [
        "PLEIADES_CONFIG",
        "PLEIADES_DATA_DIR",
        "PLEIADES_HUNTER__BATCH_SIZE",
        "PLEIADES_QUOTA__PROJECTS__MINE__SEARCH",
        "PLEIADES_HUNTER__NOPE",
        "PLEIADES_QUOTA__SHARES__HUNTING__NOPE",
        "PLEIADES_NOPE",
        "PLEIADES_HOST",
        "OTHER",
    ]
    unknown = unknown_variables(dict.fromkeys(names, ""))
    assert unknown == [
        "PLEIADES_HOST",
        "PLEIADES_HUNTER__NOPE",
        "PLEIADES_NOPE",
        "PLEIADES_QUOTA__SHARES__HUNTING__NOPE",
    ]


def test_settings_are_frozen() -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    undescribed = [
        f"{name}.{inner}"
        for name, field in Settings.model_fields.items()
        for inner, nested in getattr(field.annotation, "model_fields", {"": field}).items()
        if not nested.description
    ]
    assert undescribed == []


def test_the_singleton_loads_late(environment: Environment) -> None:
    environment(PORT="not-a-number")
    config._loaded.cache_clear()
    with pytest.raises(ConfigError):
        _ = config.settings.port
    environment(PORT="8123")
    assert config.settings.port == 8123
    config._loaded.cache_clear()
