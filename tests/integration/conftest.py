from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of this run, with a home of its own; yields its URL."""
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    updates = {
        settings.PREFECT_HOME: tmp_path_factory.mktemp("prefect"),
        settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,
    }
    with settings.temporary_settings(updates), prefect_test_harness(server_startup_timeout=90):
        url = settings.PREFECT_API_URL.value()
        assert url is not None
        yield url
