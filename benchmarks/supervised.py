"""Seconds per 1000 meta-updates on sinusoids: ours, and the same mathematics in other ways, in one run.

25 tasks, 10 support and 10 query points, a network 1-40-40-1 with ReLU, Adam on the meta-gradient through the steps.

    python benchmarks/supervised.py --steps 1,5 --json supervised.json

- `mamlrl`: the learner `maml` as it trains, `evaluate` after an update left out as in configs/sinusoid.yaml;
- `autograd`: double backward through stacked parameters;
- `vmap`: torch.func.vmap over torch.func.grad;
- `loop`: one task after the other.

Every way draws its data as the training does, and takes the same Adam. Meta-gradients are compared first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.func import grad, vmap

from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.experiment import SupervisedExperiment, initial_state, make_supervised
from mamlrl.seeding import Stream
from mamlrl.structs import MetaBatch, Params
from mamlrl.training.examples import draw_meta_batch

Gradient = Callable[[Params, MetaBatch], list[Tensor]]


def network(params: Params, x: Tensor) -> Tensor:
    """One network [N, 1], or stacked ones [M, N, 1]."""
    layers = len(params) // 2
    for layer in range(layers):
        bias = params[f"bias_{layer}"]
        x = x @ params[f"weight_{layer}"] + (bias if bias.dim() == 1 else bias.unsqueeze(1))
        x = x.relu() if layer < layers - 1 else x
    return x


def adapted(params: Params, x: Tensor, y: Tensor, size: float, steps: int) -> Params:
    """Gradient steps by autograd, on one task or on stacked ones."""
    for _ in range(steps):
        loss = (network(params, x) - y).square().mean((-2, -1)).sum()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {name: leaf - size * g for (name, leaf), g in zip(params.items(), gradients, strict=True)}
    return params


def by_autograd(params: Params, batch: MetaBatch, size: float, steps: int) -> list[Tensor]:
    """Double backward through stacked parameters."""
    (x, y), (query_x, query_y) = of(batch)
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    stacked = {name: leaf.expand(len(x), *leaf.shape) for name, leaf in leaves.items()}
    outputs = network(adapted(stacked, x, y, size, steps), query_x)
    return list(torch.autograd.grad((outputs - query_y).square().mean(), list(leaves.values())))


def by_loop(params: Params, batch: MetaBatch, size: float, steps: int) -> list[Tensor]:
    """One task after the other."""
    support, query = of(batch)
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    loss = torch.zeros(())
    for x, y, query_x, query_y in zip(*support, *query, strict=True):
        outputs = network(adapted(leaves, x, y, size, steps), query_x)
        loss = loss + (outputs - query_y).square().mean()
    return list(torch.autograd.grad(loss / len(support[0]), list(leaves.values())))


def by_vmap(params: Params, batch: MetaBatch, size: float, steps: int) -> list[Tensor]:
    """torch.func, vectorised over tasks."""

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return (network(params, x) - y).square().mean()

    def task_loss(params: Params, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        for _ in range(steps):
            gradients = grad(loss)(params, x, y)
            params = {name: leaf - size * gradients[name] for name, leaf in params.items()}
        return loss(params, query_x, query_y)

    def meta_loss(params: Params) -> Tensor:
        support, query = of(batch)
        return vmap(task_loss, (None, 0, 0, 0, 0))(params, *support, *query).mean()

    return list(grad(meta_loss)(params).values())


def of(batch: MetaBatch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Support and query points, [M, N, 1] each."""
    return tuple((data.observations[:, :, 0], data.targets[:, :, 0]) for data in (batch.support[0], batch.query))  # type: ignore[return-value]


WAYS = {"autograd": by_autograd, "vmap": by_vmap, "loop": by_loop}


def ours(experiment: SupervisedExperiment) -> Callable[[int], None]:
    """A meta-update of the learner, by its number."""
    state = initial_state(experiment)

    def update(number: int) -> None:
        nonlocal state
        generator = experiment.streams.torch(Stream.CURVATURE, number)
        state, _ = experiment.learner.meta_step(state, draw_meta_batch(experiment, number), generator)

    return update


def theirs(experiment: SupervisedExperiment, gradient: Gradient) -> Callable[[int], None]:
    """A meta-update with Adam on another meta-gradient."""
    params = {name: leaf.clone().requires_grad_() for name, leaf in initial_state(experiment).meta.init.items()}
    optimiser = torch.optim.Adam(params.values(), lr=experiment.config.adam.rate)

    def update(number: int) -> None:
        for leaf, one in zip(params.values(), gradient(params, draw_meta_batch(experiment, number)), strict=True):
            leaf.grad = one.detach()
        optimiser.step()

    return update


def check(experiment: SupervisedExperiment, gradients: dict[str, Gradient]) -> float:
    """Largest relative difference of the meta-gradients."""
    state, batch = initial_state(experiment), draw_meta_batch(experiment, 0)
    wanted = experiment.learner.objective(state, batch).loss_and_gradient()[1]  # type: ignore[attr-defined]
    found = [torch.cat([leaf.reshape(-1) for leaf in one(dict(state.meta.init), batch)]) for one in gradients.values()]
    return max(float((one - wanted).norm() / wanted.norm()) for one in found)


def main() -> None:
    """Time every way, in turns, and print the medians."""
    parser = argparse.ArgumentParser(description="Seconds per 1000 meta-updates on sinusoids.")
    parser.add_argument("--steps", default="1,5", help="Numbers of inner steps.")
    parser.add_argument("--updates", type=int, default=100, help="Of each measurement.")
    parser.add_argument("--repeats", type=int, default=5, help="Measurements, of which the median counts.")
    parser.add_argument("--json", type=Path, help="File for the figures.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for steps in map(int, options.steps.split(",")):
        changes = {"adaptation": {"steps": steps}, "adam": {"longest_gradient": 0.0}}
        experiment = make_supervised(make_config(merge(shipped_settings("sinusoid"), changes)))
        size = experiment.config.adaptation.step_size
        gradients: dict[str, Gradient] = {
            name: lambda params, batch, way=way, steps=steps: way(params, batch, size, steps)  # noqa: B023
            for name, way in WAYS.items()
        }
        difference = check(experiment, gradients)
        updates = {"mamlrl": ours(experiment), **{name: theirs(experiment, one) for name, one in gradients.items()}}
        seconds: dict[str, list[float]] = {name: [] for name in updates}
        for repeat in range(options.repeats + 1):
            for name, update in updates.items():
                count = options.updates if name != "loop" else max(options.updates // 5, 1)
                start = time.process_time()
                for number in range(count):
                    update(repeat * options.updates + number)
                if repeat:  # the first one warms up
                    seconds[name].append((time.process_time() - start) * 1000 / count)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        results[steps] = medians
        told = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        print(f"{steps} inner steps: CPU seconds per 1000 updates: {told}; gradients differ by {difference:.1e}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
