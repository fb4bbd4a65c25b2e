"""Tests use one math thread: their problems are small, and other processes may need the processors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_data_sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where glyphs are drawn once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMLRL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
