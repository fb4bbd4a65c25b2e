"""Seconds per 1000 meta-updates: ours, and the same mathematics in other ways, in one run.

    python benchmarks/supervised.py --steps 1,5 --json supervised.json     # sinusoids
    python benchmarks/supervised.py --images --updates 3                   # images
    python benchmarks/supervised.py --images --updates 3 --threads 2       # on two threads, by the clock

Sinusoids: 25 tasks, 10 support and 10 query points, a network 1-40-40-1 with ReLU. Images: 32 tasks of 5 glyphs, one
support and one query image of each, four layers of 64 filters with stride 2. Adam on the meta-gradient.

- `mamlrl`: the learner `maml` as it trains, `evaluate` after an update left out as in configs/sinusoid.yaml;
- `autograd`: double backward through stacked parameters, of images by torch's grouped convolution;
- `vmap`: torch.func.vmap over torch.func.grad (of sinusoids);
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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.experiment import SupervisedExperiment, initial_state, make_supervised
from mamlrl.seeding import Stream
from mamlrl.structs import MetaBatch, Params
from mamlrl.training.examples import draw_meta_batch
from mamlrl.training.memory import keep_freed_memory

Gradient = Callable[[Params, MetaBatch], list[Tensor]]
Points = tuple[Tensor, Tensor]


class Workload(NamedTuple):
    """A network, written once more, and what it is trained on."""

    settings: dict[str, Any]
    network: Callable[[Params, Tensor], Tensor]
    """one network on [N, O], or stacked ones on [M, N, O]"""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(outputs, targets) of any number of tasks -> mean over all"""
    ways: tuple[str, ...]


def mlp(params: Params, x: Tensor) -> Tensor:
    """One network [N, 1], or stacked ones [M, N, 1]."""
    layers = len(params) // 2
    for layer in range(layers):
        bias = params[f"bias_{layer}"]
        x = x @ params[f"weight_{layer}"] + (bias if bias.dim() == 1 else bias.unsqueeze(1))
        x = x.relu() if layer < layers - 1 else x
    return x


def conv_net(params: Params, x: Tensor) -> Tensor:
    """One network [N, 784], or stacked ones [M, N, 784], by torch's convolution in M groups."""
    if x.dim() == 2:
        return conv_net({name: leaf.unsqueeze(0) for name, leaf in params.items()}, x.unsqueeze(0)).squeeze(0)
    num_tasks = len(x)
    hidden = x.transpose(0, 1).unflatten(2, (28, 28))
    for layer in range((len(params) - 2) // 3):
        weight = params[f"weight_{layer}"].flatten(0, 1)
        hidden = torch.nn.functional.conv2d(hidden, weight, padding=1, stride=2, groups=num_tasks)
        scale, shift = (params[f"{name}_{layer}"].reshape(1, -1, 1, 1) for name in ("scale", "shift"))
        centred = hidden - hidden.mean((0, 2, 3), keepdim=True)
        factor = scale * (centred.square().mean((0, 2, 3), keepdim=True) + 1e-3).rsqrt()
        hidden = torch.addcmul(shift, centred, factor).relu()
    features = hidden.mean((2, 3)).unflatten(1, (num_tasks, -1)).transpose(0, 1)
    return torch.baddbmm(params["bias"].unsqueeze(1), features, params["weight"])


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over everything."""
    return (outputs - targets).square().mean()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over everything."""
    return torch.nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


SINUSOID = Workload(shipped_settings("sinusoid"), mlp, squared_error, ("autograd", "vmap", "loop"))
IMAGES = Workload(
    merge(
        shipped_settings("glyphs"),
        {
            "policy": {"network": "conv_stride", "hidden_sizes": [64] * 4},
            "sampling": {"tasks": 32},
            "data": {"shots": 1, "queries": 1},
        },
    ),
    conv_net,
    cross_entropy,
    ("autograd", "loop"),
)


def adapted(work: Workload, params: Params, x: Tensor, y: Tensor, size: float, steps: int, tasks: int = 1) -> Params:
    """Gradient steps by autograd, on one task or on stacked ones."""
    for _ in range(steps):
        loss = tasks * work.loss(work.network(params, x), y)
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {name: leaf - size * g for (name, leaf), g in zip(params.items(), gradients, strict=True)}
    return params


def by_autograd(work: Workload, params: Params, batch: MetaBatch, size: float, steps: int) -> list[Tensor]:
    """Double backward through stacked parameters."""
    (x, y), (query_x, query_y) = of(batch)
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    stacked = {name: leaf.expand(len(x), *leaf.shape) for name, leaf in leaves.items()}
    outputs = work.network(adapted(work, stacked, x, y, size, steps, len(x)), query_x)
    return list(torch.autograd.grad(work.loss(outputs, query_y), list(leaves.values())))


def by_loop(work: Workload, params: Params, batch: MetaBatch, size: float, steps: int) -> list[Tensor]:
    """One task after the other."""
    support, query = of(batch)
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    loss = torch.zeros(())
    for x, y, query_x, query_y in zip(*support, *query, strict=True):
        outputs = work.network(adapted(work, leaves, x, y, size, steps), query_x)
        loss = loss + work.loss(outputs, query_y)
    return list(torch.autograd.grad(loss / len(support[0]), list(leaves.values())))


def by_vmap(work: Workload, params: Params, batch: MetaBatch, size: float, steps: int) -> list[Tensor]:
    """torch.func, vectorised over tasks."""

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return work.loss(work.network(params, x), y)

    def task_loss(params: Params, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        for _ in range(steps):
            gradients = grad(loss)(params, x, y)
            params = {name: leaf - size * gradients[name] for name, leaf in params.items()}
        return loss(params, query_x, query_y)

    def meta_loss(params: Params) -> Tensor:
        support, query = of(batch)
        return vmap(task_loss, (None, 0, 0, 0, 0))(params, *support, *query).mean()

    return list(grad(meta_loss)(params).values())


def of(batch: MetaBatch) -> tuple[Points, Points]:
    """Support and query points, [M, N, ...] each."""
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
    return max(float((one.detach() - wanted).norm() / wanted.norm()) for one in found)


def main() -> None:
    """Time every way, in turns, and print the medians."""
    parser = argparse.ArgumentParser(description="Seconds per 1000 meta-updates.")
    parser.add_argument("--images", action="store_true", help="On images in place of sinusoids.")
    parser.add_argument("--steps", default="1", help="Numbers of inner steps.")
    parser.add_argument("--updates", type=int, default=100, help="Of each measurement; the loop makes a fifth.")
    parser.add_argument("--repeats", type=int, default=5, help="Measurements, of which the median counts.")
    parser.add_argument("--threads", type=int, default=1, help="With more than one, seconds are the clock's.")
    parser.add_argument("--json", type=Path, help="File for the figures.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock, unit = (time.process_time, "CPU seconds") if options.threads == 1 else (time.perf_counter, "seconds")
    keep_freed_memory()  # as the training does
    work, results = IMAGES if options.images else SINUSOID, {}
    for steps in map(int, options.steps.split(",")):
        changes = {"adaptation": {"steps": steps}, "adam": {"longest_gradient": 0.0}}
        experiment = make_supervised(make_config(merge(work.settings, changes)))
        size = experiment.config.adaptation.step_size
        gradients: dict[str, Gradient] = {
            name: lambda params, batch, way=WAYS[name], steps=steps: way(work, params, batch, size, steps)  # noqa: B023
            for name in work.ways
        }
        difference = check(experiment, gradients)
        medians = timed(experiment, gradients, options.updates, options.repeats, clock)
        results[steps] = medians
        told = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        print(f"{steps} inner steps: {unit} per 1000 updates: {told}; gradients differ by {difference:.1e}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def timed(
    experiment: SupervisedExperiment,
    gradients: dict[str, Gradient],
    count: int,
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Median of a clock's seconds per 1000 meta-updates, by way; all take turns."""
    updates = {"mamlrl": ours(experiment), **{name: theirs(experiment, one) for name, one in gradients.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for repeat in range(repeats + 1):
        for name, update in updates.items():
            number_of_updates = count if name != "loop" else max(count // 5, 1)
            start = clock()
            for number in range(number_of_updates):
                update(repeat * count + number)
            if repeat:  # the first one warms up
                seconds[name].append((clock() - start) * 1000 / number_of_updates)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
