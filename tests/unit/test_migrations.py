"""The folder of migrations: its names, numbers and order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from atlas import migrations
from atlas.errors import MigrationError


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("0002_b", "0001_a", "0010_c"):
        (tmp_path / f"{name}.sql").write_text(f"SELECT '{name}';")
    found = migrations.known(tmp_path)
    assert [migration.number for migration in found] == [1, 2, 10]
    assert found[0].digest == hashlib.sha256(b"SELECT '0001_a';").hexdigest()


def test_two_files_of_one_number_are_an_error(tmp_path: Path) -> None:
    for name in ("0001_a", "0001_b"):
        (tmp_path / f"{name}.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="two migrations have the number 0001: 0001_a and 0001_b"):
        migrations.known(tmp_path)


@pytest.mark.parametrize("name", ["1_a", "0001-a", "0001_A", "notes", "0001_"])
def test_another_kind_of_name_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="not named like 0001_what_it_does"):
        migrations.known(tmp_path)


def test_the_product_numbers_its_migrations_without_gaps() -> None:
    numbers = [migration.number for migration in migrations.known()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers
