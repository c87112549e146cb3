from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas.testing import ThrowAwayServer, throw_away_server


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


@pytest.fixture(scope="module")
def still_server() -> Iterator[ThrowAwayServer]:
    """A server of one module's tests: a long transaction of others, in any database, holds up pruning."""
    with throw_away_server() as server:
        yield server


@pytest.fixture
def still_database_url(still_server: ThrowAwayServer) -> Iterator[str]:
    """A migrated database on a server where nothing else is done."""
    name = still_server.create_database(still_server.migrated_template())
    yield still_server.dsn_of(name)
    still_server.drop_database(name)
