"""Two meta-iterations of every learner in small settings, in float64, and the numbers that they once gave.

    python -m tests.golden.record [NAME ...]

writes the numbers of the code as it is into golden.json: of all cases, or of those named. Only a change that is meant
to change numbers does so, and its message says which and why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.experiment import initial_state, make_experiment
from mamlrl.learners import LEARNERS
from mamlrl.structs import Params
from mamlrl.training.iteration import meta_iteration

FILE = Path(__file__).with_name("golden.json")
ITERATIONS = 2
COMMON = {
    "sampling": {"tasks": 3, "rollouts": 4},
    "policy": {"hidden_sizes": [8, 8]},
    "threads": 1,
    "seed": 7,
    "trust_region": {"curvature_fraction": 1.0, "max_kl": 0.01, "cg_iterations": 5, "cg_damping": 1e-5},
    "eval": {"every": 0},
}
WALK = "tests.golden.walk:golden/Walk-v0"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "maml": ("navigation", {"adaptation": {"steps": 2}, "environment": {"horizon": 20}}),
    "maml_log_prob_cheetah": (
        "cheetah-vel",
        {"adaptation": {"inner_loss": "log_prob"}, "environment": {"horizon": 15}},
    ),
    "maml_relu": ("navigation", {"policy": {"activation": "relu"}, "environment": {"horizon": 20}}),
    "maml_half_curvature": (
        "navigation",
        {"trust_region": {"curvature_fraction": 0.5}, "environment": {"horizon": 20}},
    ),
    "maml_discrete": (WALK, {"adaptation": {"steps": 2}, "environment": {"horizon": 20}}),
    "fomaml": ("navigation", {"learner": "fomaml", "environment": {"horizon": 20}}),
    "context": ("navigation", {"learner": "context", "environment": {"horizon": 20}}),
    "multitask": ("navigation", {"learner": "multitask", "environment": {"horizon": 20}}),
    "oracle": (
        "cheetah-dir",
        {"learner": "oracle", "trust_region": {"preconditioner": "none"}, "environment": {"horizon": 15}},
    ),
    # with an inner loss and a step size at which the proximal problems have solutions, so that updates are taken
    "imaml": (
        "navigation",
        {
            "learner": "imaml",
            "adaptation": {"step_size": 0.05, "inner_loss": "log_prob"},
            "environment": {"horizon": 20},
        },
    ),
}
"""By name: the environment, and the settings in which a case differs from it and from COMMON."""
CASES |= {
    learner: ("navigation", {"learner": learner, "adaptation": {"steps": 2}, "environment": {"horizon": 20}})
    for learner, row in LEARNERS.items()
    if row.trained and not row.examples_only and learner not in CASES
}


def double(params: Params) -> Params:
    """In float64."""
    return {name: leaf.double() for name, leaf in params.items()}


def sums_of(params: Params) -> dict[str, list[float]]:
    """Sum and sum of squares of every leaf."""
    return {name: [float(leaf.sum()), float(leaf.square().sum())] for name, leaf in params.items()}


def run_case(name: str) -> dict[str, Any]:
    """Metrics of each meta-iteration without times, and sums over what is meta-learned at the end.

    Of learned step sizes too, where there are some.
    """
    env, changes = CASES[name]
    base = {"env": env} if ":" in env else shipped_settings(env)
    experiment = make_experiment(make_config(merge(base, COMMON, changes)))
    try:
        # made anew, so that step sizes and moments are in float64 too
        state, metrics = experiment.learner.init(double(initial_state(experiment).meta.init)), []
        for iteration in range(ITERATIONS):
            state, outcome = meta_iteration(experiment, state, iteration)
            row = {**outcome.metrics, "env_steps": outcome.env_steps}
            metrics.append({name: value for name, value in row.items() if not name.startswith("time/")})
    finally:
        experiment.envs.close()
    theta, *sizes = (sums_of(params) for params in (state.meta.init, *state.meta.step_sizes))
    return {"metrics": metrics, "theta": theta} | ({"step_sizes": sizes} if sizes else {})


def main(names: list[str]) -> None:
    """Record the named cases, or all of them."""
    torch.set_num_threads(1)
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    recorded |= {name: run_case(name) for name in names or CASES}
    FILE.write_text(json.dumps({name: recorded[name] for name in CASES if name in recorded}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
