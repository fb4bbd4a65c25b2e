"""A change that is meant to change no number changes none of these."""

from __future__ import annotations

import json

import pytest

from tests.golden.record import CASES, FILE, run_case

GOLDEN = json.loads(FILE.read_text())
TOLERANCE = 1e-8
"""Relative. On one machine the numbers repeat to the last bit; another one's matrix products round differently, and
the simulation and conjugate gradient enlarge that to some 1e-11."""


def test_every_case_is_recorded() -> None:
    assert list(GOLDEN) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_meta_iteration_gives_the_numbers_that_it_gave(name: str) -> None:
    found, golden = run_case(name), GOLDEN[name]
    assert len(found["metrics"]) == len(golden["metrics"])
    for iteration, (row, expected) in enumerate(zip(found["metrics"], golden["metrics"], strict=True)):
        assert row.keys() >= expected.keys()
        for metric, value in expected.items():
            assert row[metric] == pytest.approx(value, rel=TOLERANCE, abs=1e-12), f"{metric} of iteration {iteration}"
    ours, theirs = ([one["theta"], *one.get("step_sizes", [])] for one in (found, golden))
    for params, expected in zip(ours, theirs, strict=True):
        assert params.keys() == expected.keys()
        for leaf, sums in expected.items():
            assert params[leaf] == pytest.approx(sums, rel=TOLERANCE, abs=1e-12), leaf
