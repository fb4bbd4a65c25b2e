"""The MAML paper's multi-task baselines on sinusoids: fine-tuning from the mean of many networks' parameters.

500 networks are trained, each on a sinusoid of its own; the mean of their parameters is adapted to 5 points of held-out
sinusoids, with the step size that is best on others (Finn et al. 2017, appendix C, table 2). What regularises a network
while it is trained: nothing, a penalty on its weights, or one on their distance to the mean of all. In the paper one
network was trained after the other, and the mean was that of those before; here all are trained at once.

    python benchmarks/averaged_networks.py
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.evaluation.examples import evaluate_supervised, held_out_tasks
from mamlrl.evaluation.protocols import SUPERVISED_PAPER
from mamlrl.evaluation.tables import markdown
from mamlrl.experiment import SupervisedExperiment, draw_examples, make_supervised
from mamlrl.outer.descent import cosine
from mamlrl.structs import MetaParams, Params

PUBLISHED = {"none": (4.19, 3.85, 3.69), "weights": (7.18, 5.69, 5.60), "mean": (2.91, 2.72, 2.71)}
"""Error after STEPS, by what is regularised."""
STEPS = (1, 5, 10)
STEP_SIZES = (0.001, 0.003, 0.01, 0.02)


def penalty(params: Params, kind: str) -> Tensor:
    """Half the squared length of each network's parameters, or of their distance to the mean of all; summed up."""
    if kind == "none":
        return torch.zeros(())
    centres = {name: leaf.detach().mean(0) if kind == "mean" else 0.0 for name, leaf in params.items()}
    return sum((0.5 * (leaf - centres[name]).square().sum() for name, leaf in params.items()), torch.zeros(()))


def trained(experiment: SupervisedExperiment, kind: str, strength: float, updates: int) -> tuple[Params, float]:
    """A network for each of `sampling.tasks` sinusoids, stacked, and their mean squared error."""
    config, policy = experiment.config, experiment.policy
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    tasks = experiment.tasks.sample_tasks(config.sampling.tasks, rng)
    starts = [policy.init_params(generator) for _ in tasks]
    params = {name: torch.stack([one[name] for one in starts]).requires_grad_() for name in starts[0]}
    adam = torch.optim.Adam(params.values())
    for update in range(updates):
        adam.param_groups[0]["lr"] = cosine(5e-3, 1e-5, updates, update)
        _, data = draw_examples(experiment, tasks, 1, config.data.queries, rng)
        errors = (policy.outputs(params, data.observations) - data.targets).square().mean((1, 2, 3))
        adam.zero_grad()
        (errors.sum() + strength * penalty(params, kind)).backward()
        adam.step()
    return {name: leaf.detach() for name, leaf in params.items()}, float(errors.detach().mean())


def errors_of(mean: Params, config: Config, step_size: float, seed: int) -> np.ndarray:
    """Error on held-out tasks by number of gradient steps."""
    adaptation = dataclasses.replace(config.adaptation, step_size=step_size)
    experiment = make_supervised(dataclasses.replace(config, adaptation=adaptation), "test")
    tasks, streams = held_out_tasks(experiment, seed)
    return evaluate_supervised(experiment, MetaParams(mean), tasks, streams)["error"].mean(1)


def main() -> None:
    """Train, average, fine-tune, and print the table."""
    parser = argparse.ArgumentParser(description="Fine-tuning from the mean of many networks.")
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--updates", type=int, default=3000, help="Of each network.")
    parser.add_argument("--strength", type=float, default=1e-3, help="Of the penalties.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    protocol = SUPERVISED_PAPER["mamlrl/Sinusoid-v0"]
    changes = {
        "learner": "multitask",
        "sampling": {"tasks": options.networks},
        "data": {"queries": 20},
        "eval": protocol.settings,
    }
    config = make_config(merge(shipped_settings("sinusoid"), changes))
    rows = [["regularised", "error of the networks", "step size", *(f"{step} steps" for step in STEPS), "published"]]
    for kind, published in PUBLISHED.items():
        params, error = trained(make_supervised(config), kind, options.strength, options.updates)
        mean = {name: leaf.mean(0) for name, leaf in params.items()}
        size = min(STEP_SIZES, key=lambda size, mean=mean: errors_of(mean, config, size, 2)[STEPS[-1]])  # type: ignore[misc]
        found = [f"{value:.2f}" for value in errors_of(mean, config, size, 1)[list(STEPS)]]
        rows.append([kind, f"{error:.3f}", str(size), *found, " / ".join(f"{value:.2f}" for value in published)])
        print(rows[-1], flush=True)
    print("\n" + markdown(rows))


if __name__ == "__main__":
    main()
