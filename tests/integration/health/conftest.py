"""The settings of every test of health: a key, and a disk that is never too full."""

from __future__ import annotations

import pytest

from atlas.config import Settings
from atlas.testing import SettingsFactory
from tests.health_facts import ANY_DISK, KEYS


@pytest.fixture
def atlas_settings(settings_factory: SettingsFactory) -> Settings:
    return settings_factory(youtube_api_key_pool_json=KEYS, maintainer=ANY_DISK)
