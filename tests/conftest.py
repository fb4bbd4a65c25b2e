"""Tests use one math thread: their problems are small, and other processes may need the processors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_data_sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where glyphs are drawn once for all tests, of all processes that share them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMLRL_CACHE", str(shared / "cache"))
        yield
