"""Learning without the collector of cycles, which must work again afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from maia.learner.collection import without_collection


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    """Lets the collector work before and after each test, whatever it does."""
    gc.enable()
    yield
    gc.enable()


def test_the_collector_rests_within_the_block_and_works_after_it() -> None:
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_after_an_error() -> None:
    with pytest.raises(RuntimeError), without_collection():
        raise RuntimeError
    assert gc.isenabled()


def test_blocks_within_blocks_leave_it_off_until_the_outer_one_ends() -> None:
    with without_collection():
        with without_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_where_it_was_off_it_stays_off() -> None:
    gc.disable()
    with without_collection():
        pass
    assert not gc.isenabled()
