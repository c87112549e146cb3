"""Settings: every source, and every way in which they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atlas import config
from atlas.config import Settings, load, unknown_variables
from atlas.errors import ConfigError, EmptyKeyRing
from atlas.keypool import parse_key_pool
from atlas.sources import fixed_names, group_of

Environment = Callable[..., None]
POOL = "YOUTUBE_API_KEY_POOL_JSON"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    for name in [*fixed_names(Settings), *unknown_variables({}), "PLEIADES_CONFIG"]:
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
        (
            "PLEIADES_HUNTER__BATCH_SIZ",
            "1",
            "PLEIADES_HUNTER__BATCH_SIZ: there is no such setting; did you mean PLEIADES_HUNTER__BATCH_SIZE?",
        ),
        (
            "PLEIADES_HUNTER__BATCH_SIZE",
            "0",
            "PLEIADES_HUNTER__BATCH_SIZE: must be at least 1, such as PLEIADES_HUNTER__BATCH_SIZE=10",
        ),
        ("PLEIADES_HUNTER__BATCH_SIZE", "1001", "must be at most 1,000, such as"),
        ("PLEIADES_MAINTAINER__HEALTH__GRACE_S", "1e300", "must be at most 31,622,400, such as"),
        ("PLEIADES_HUNTER__BATCH_SIZE", "many", "must be a whole number, such as"),
        ("PLEIADES_HUNTER__LEASE_S", "0", "must be more than 0, such as PLEIADES_HUNTER__LEASE_S=300"),
        ("PLEIADES_HUNTER", "quick", "PLEIADES_HUNTER: is a group: set its names one by one"),
        ("PLEIADES_HUNTER", '{"batch_size": 5', "PLEIADES_HUNTER: is not JSON at line 1, column 17"),
        ("PLEIADES_HUNTER", '{"batch_size": 0}', "PLEIADES_HUNTER__BATCH_SIZE: must be at least 1"),
        (
            "PLEIADES_HUNTER__ORDER",
            "newest",
            "must be date, rating, relevance, title, videoCount or viewCount",
        ),
        (
            "PLEIADES_HUNTER__REGION_CODE",
            "UK",
            "there is no region 'UK' in ISO 3166-1: did you mean GB (United",
        ),
        ("PLEIADES_HUNTER__RELEVANCE_LANGUAGE", "jp", "did you mean ja (Japanese)?"),
        ("PLEIADES_HUNTER__TAG_STOP_LIST", '["a", "b', "__TAG_STOP_LIST: is not JSON at line 1, column 7"),
        (
            "PLEIADES_HUNTER__TAG_STOP_LIST",
            "[" * 100_000,
            "PLEIADES_HUNTER__TAG_STOP_LIST: is nested too deeply",
        ),
        ("PLEIADES_QUOTA__PACING", "perhaps", "must be true or false, such as PLEIADES_QUOTA__PACING=true"),
        (
            "PLEIADES_QUOTA__PROJECTS__MINE__SERCH",
            "1",
            "did you mean PLEIADES_QUOTA__PROJECTS__MINE__SEARCH?",
        ),
        ("PLEIADES_QUOTA__PROJECTS", "mine", "PLEIADES_QUOTA__PROJECTS: is a group"),
        ("PLEIADES_AGENTS__INTERVALS_S", "hunter", "must be written as name=value,name=value or as JSON"),
        (
            "PLEIADES_AGENTS__INTERVALS_S",
            "hunter=0",
            "PLEIADES_AGENTS__INTERVALS_S__HUNTER: must be at least 1",
        ),
        ("PLEIADES_YOUTUBE__BASE_URL", "localhost:8780", "must be a URL such as https://host"),
        ("PLEIADES_YOUTUBE__BASE_URL", "http://[::1", "must be a URL such as https://host"),
        ("NODE_ID", "n" * 101, "NODE_ID: must be no longer than 100 characters"),
        ("NODE_ID", "a\nNext: b", "NODE_ID: is not of the right form"),
        ("PLEIADES_CLOCK__START", "2026-01-01T00:00:00Z", "needs both start and anchor"),
        ("PLEIADES_CLOCK__START", "2026-01-01T00:00:00", "an instant needs a time zone"),
        ("PLEIADES_QUOTA__SHARES__ARCHEOLOGY__SEARCH", "0.1", "'search' add up to 1.1, more than 1"),
        (
            "VAULT_PROVIDER",
            "tape",
            "VAULT_PROVIDER: must be file, huggingface or s3, such as VAULT_PROVIDER=file",
        ),
        ("VAULT_PROVIDER", "s3", "PLEIADES_VAULT__URL required"),
        ("VAULT_PROVIDER", "huggingface", "HF_DATASET_ID required, HF_TOKEN required"),
        ("PORT", "seventy", "PORT: must be a whole number, such as PORT=8080"),
    ],
)
def test_wrong_values_are_named(environment: Environment, variable: str, value: str, expected: str) -> None:
    environment(**{variable: value})
    message = refusal()
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("huntr: {batch_size: 1}", "has no setting huntr; did you mean hunter?"),
        ("hunter: 5", "PLEIADES_HUNTER: is a group"),
        ("hunter: {lease_s: .inf}", "PLEIADES_HUNTER__LEASE_S: must be a finite number"),
        ("hunter: {tag_deny: {a: 1}}", "PLEIADES_HUNTER__TAG_DENY: must be a list, such as a,b"),
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


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_path_is_none_and_not_the_working_folder(
    environment: Environment, tmp_path: Path, empty: str
) -> None:
    default = load().data_folder
    (tmp_path / "p.yaml").write_text(f"data_dir: '{empty}'\nvault: {{path: '{empty}'}}\n")
    environment(PLEIADES_CONFIG=str(tmp_path / "p.yaml"))
    assert (load().data_folder, load().vault.path) == (default, None)
    environment(PLEIADES_DATA_DIR=empty, PLEIADES_MAINTAINER__BACKUPS__PATH=empty)
    settings = load()
    assert (settings.data_folder, settings.maintainer.backups.path) == (default, None)
    assert load(data_dir=empty).data_folder == default


def test_an_empty_folder_of_secrets_is_not_the_working_folder(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf_dataset_id").write_text("from the working folder")
    environment(PLEIADES_SECRETS_DIR="")
    assert load().hf_dataset_id is None


def test_key_pool_by_ring_and_project(environment: Environment) -> None:
    environment(
        **{POOL: json.dumps({"hunting": [{"key": "k1", "project": "p"}, {"key": "k2", "project": "p"}]})}
    )
    settings = load()
    keys = settings.ring_keys("hunting")
    assert [(key.key.get_secret_value(), key.project) for key in keys] == [("k1", "p"), ("k2", "p")]
    with pytest.raises(
        EmptyKeyRing, match=r"^no API key is configured for tracking: set YOUTUBE_API_KEY_POOL_JSON"
    ):
        settings.ring_keys("tracking")


def test_an_empty_ring_says_what_to_set_and_no_more_than_is_needed(environment: Environment) -> None:
    environment(**{POOL: ""})
    with pytest.raises(EmptyKeyRing, match=r"JSON to your API key, or practise without one: maia demo$"):
        load().ring_keys("hunting")
    environment(**{POOL: '{"hunting": ["k"]}'})
    with pytest.raises(EmptyKeyRing, match=r'keys for it too \(\{"tracking": .*one list for every ring$'):
        load().ring_keys("tracking")


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
        ("[{'key': 'AIza'}]", "line 1, column 3: not JSON"),
        ("AIza not: json", "line 1, column 1: not JSON"),
        ('["AIza', "line 1, column 2: not JSON"),
        ("7", "top: expected"),
        ("null", "top: expected"),
        ("[" * 100_000, "top: the JSON is nested too deeply"),
        ('{"hunting": 7}', "hunting: expected a list"),
        ('{"hunting": [7]}', "hunting[0]: expected"),
        ('{"hunting": ["ok", {"key": ""}]}', "hunting[1].key: "),
        ('{"hunting": [{"project": "p"}]}', "hunting[0].key: is missing"),
        ('{"hunting": [{"key": "k", "projct": "p"}]}', "hunting[0].projct: there is no such field"),
        ('{"hunting": [{"key": "k", "project": 7}]}', "hunting[0].project: "),
        ('{"hunting": ["a b"]}', "hunting[0].key: a key must be ASCII"),
        ('{"hunting": ["k", "k"]}', "hunting[1]: this key appears twice"),
        ('{"hunting": ["a"], "hunting": ["b"]}', "hunting: this name appears twice"),
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
    assert message.startswith(POOL)
    assert message.endswith(
        'write KEY, or KEY1,KEY2, or {"hunting": [{"key": "KEY", "project": "PROJECT"}]} by ring'
    )
    assert "AIza" not in message


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("AIza-one", ["AIza-one"]),
        (" AIza-one\n", ["AIza-one"]),
        ("AIza-one,AIza_two", ["AIza-one", "AIza_two"]),
        ("AIza-one, AIza_two,", ["AIza-one", "AIza_two"]),
        ('"AIza-one"', ["AIza-one"]),
        ("'[\"AIza-one\"]'", ["AIza-one"]),
        ('{"hunting": "AIza-one,AIza-two", "tracking": ["AIza-three"]}', ["AIza-one", "AIza-two"]),
    ],
)
def test_bare_keys_need_no_json(environment: Environment, text: str, keys: list[str]) -> None:
    environment(**{POOL: text})
    assert [key.key.get_secret_value() for key in load().ring_keys("hunting")] == keys


@pytest.mark.parametrize("where", ["environment", ".env", "secret", "yaml"])
@pytest.mark.parametrize(
    ("name", "text", "items"),
    [
        ("tag_stop_list", "a,b c", ("a", "b c")),
        ("tag_stop_list", "a", ("a",)),
        ("tag_stop_list", '["a,b", "c"]', ("a,b", "c")),
        ("tag_deny", "^vlog,[a-z]{2,3}$", ("^vlog", "[a-z]{2,3}$")),
        ("tag_deny", "[ab]+", ("[ab]+",)),
        ("tag_deny", '["a,b"]', ("a,b",)),
    ],
)
def test_lists_are_written_with_commas_wherever(
    environment: Environment, tmp_path: Path, where: str, name: str, text: str, items: tuple[str, ...]
) -> None:
    variable = f"PLEIADES_HUNTER__{name.upper()}"
    match where:
        case "environment":
            environment(**{variable: text})
        case ".env":
            (tmp_path / ".env").write_text(f"{variable}='{text}'\n")
        case "secret":
            (tmp_path / variable).write_text(f"{text}\n")
            environment(PLEIADES_SECRETS_DIR=str(tmp_path))
        case "yaml":
            (tmp_path / "p.yaml").write_text(json.dumps({"hunter": {name: text}}))
            environment(PLEIADES_CONFIG=str(tmp_path / "p.yaml"))
    assert getattr(load().hunter, name) == items


def test_urls_keep_their_own_commas(environment: Environment) -> None:
    environment(PLEIADES_NOTIFIER__URLS="mailto://u:p@h?to=a@x.org,b@x.org, json://h/p json://i")
    urls = [url.get_secret_value() for url in load().notifier.urls]
    assert urls == ["mailto://u:p@h?to=a@x.org,b@x.org", "json://h/p", "json://i"]


@pytest.mark.parametrize("text", ["hunter=300,tracker=60.5", '{"hunter": 300, "tracker": 60.5}'])
def test_objects_are_written_with_equals_signs_too(environment: Environment, text: str) -> None:
    environment(PLEIADES_AGENTS__INTERVALS_S=text)
    assert load().agents.intervals_s == {"hunter": 300, "tracker": 60.5}


def numbers() -> list[str]:
    every = {".".join(path): field for path, field in leaves(Settings, ())}
    return [name for name, field in every.items() if "float" in str(field.annotation)]


def leaves(model: type[BaseModel], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], FieldInfo]]:
    found = []
    for name, field in model.model_fields.items():
        inner = group_of(field)
        found += leaves(inner, (*path, name)) if inner else [((*path, name), field)]
    return found


def test_there_are_numbers_to_check() -> None:
    assert len(numbers()) > 30


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e999"])
def test_no_number_is_without_end(environment: Environment, number: str) -> None:
    for name in numbers():
        one = {"intervals_s": f'{{"hunter": {number}}}'}.get(name.rpartition(".")[2], number)
        group, *rest = name.split(".")
        nested: object = one
        for part in reversed(rest):
            nested = {part: nested}
        with pytest.raises(ConfigError, match=r"must be|not JSON") as caught:
            load(**{group: nested})
        assert "PLEIADES_" + name.replace(".", "__").upper() in str(caught.value), name


@pytest.mark.parametrize("name", ["statement_timeout_s", "lock_timeout_s", "shared_buffers_mb"])
def test_no_number_is_larger_than_postgresql_takes(environment: Environment, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"PLEIADES_DATABASE__{name.upper()}: must be at most"):
        load(database={name: 3_000_000_000})


@pytest.mark.parametrize("where", [".env", "secrets", "p.yaml"])
def test_the_file_of_a_wrong_value_is_named(environment: Environment, tmp_path: Path, where: str) -> None:
    (tmp_path / "secrets").mkdir()
    environment(PLEIADES_SECRETS_DIR=str(tmp_path / "secrets"))
    match where:
        case ".env":
            (tmp_path / ".env").write_text("PLEIADES_HUNTER__BATCH_SIZE=0\n")
        case "secrets":
            (tmp_path / "secrets" / "pleiades_hunter__batch_size").write_text("0")
        case "p.yaml":
            (tmp_path / "p.yaml").write_text("hunter: {batch_size: 0}")
            environment(PLEIADES_CONFIG=str(tmp_path / "p.yaml"))
    assert refusal().endswith(f"(set in {where if where == '.env' else tmp_path / where})")


def test_a_value_of_the_environment_is_named_by_its_variable_alone(environment: Environment) -> None:
    environment(PLEIADES_HUNTER__BATCH_SIZE="0")
    assert "(set in" not in refusal()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PORT=1\nthis is no setting\n", ".env, line 2: write NAME=value"),
        (b"PORT=\xff\n", ".env cannot be read: 'utf-8' codec"),
    ],
)
def test_an_env_file_that_is_none_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert problem in refusal()


def test_an_empty_secret_sets_nothing(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "database_url").write_text("\n")
    environment(PLEIADES_SECRETS_DIR=str(tmp_path))
    assert load().database_url is None


def test_a_secret_that_is_no_text_is_named(environment: Environment, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "PORT").write_bytes(b"\xff")
    environment(PLEIADES_SECRETS_DIR=str(secrets))
    assert f"a secret file in {secrets} cannot be read" in refusal()


@pytest.mark.parametrize(
    "content",
    [
        "hunter: " + "[" * 20_000,
        "hunter: !!timestamp x",
        "hunter: " + "{a: " * 20_000,
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)),
        "hunter: &a [*a]",
        "x" * (2 << 20),
    ],
    ids=["brackets", "type", "braces", "merge bomb", "cycle", "long"],
)
@pytest.mark.timeout(20)
def test_yaml_is_bounded(environment: Environment, tmp_path: Path, content: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    environment(PLEIADES_CONFIG=str(tmp_path / "p.yaml"))
    message = refusal()
    assert message.startswith(f"PLEIADES_CONFIG: {tmp_path / 'p.yaml'} ")
    assert len(message) < 300


def test_yaml_may_repeat_itself_by_anchors(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("hunter: &one {batch_size: 7}\ntracker: {<<: *one}\n")
    environment(PLEIADES_CONFIG=str(tmp_path / "p.yaml"))
    assert (load().hunter.batch_size, load().tracker.batch_size) == (7, 7)


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
