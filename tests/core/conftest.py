"""Core tests run in float64 on small random problems."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mamlrl.policies import linearization


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def built_sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every graph of a generic linearization that is built to be differentiated again."""
    built: list[int] = []
    original = linearization._ReverseSweep.__init__

    def spied(self, *args) -> None:
        built.append(1)
        original(self, *args)

    monkeypatch.setattr(linearization._ReverseSweep, "__init__", spied)
    return built
