"""What TensorBoard shows of a run besides its scalars: charts arranged by subject, settings, adaptation figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure
from tensorboard.plugins.hparams.plugin_data_pb2 import (  # generated code without types
    HParamsPluginData,  # type: ignore[attr-defined]
)
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mamlrl.config import Config
from mamlrl.config.files import flat_settings, to_yaml
from mamlrl.learners import evaluation_steps, find_learner, training_steps
from mamlrl.run_folder.figures import Comparison, Curve, figure, steps_name
from mamlrl.statistics import INTERVALS, Estimate, Estimates
from mamlrl.supervised import find_task_set, quantity_of

ADDRESS = "http://localhost:6006/#custom_scalars"
"""Where TensorBoard shows the arranged charts, unless it is given another port."""

COMPARED = ("name", "learner", "seed", "adaptation.step_size", "trust_region.max_kl")
"""Settings that TensorBoard's table of runs shows at once: the five that it has room for."""


def arrange(config: Config) -> dict[str, dict[str, list[Any]]]:
    """Layout of the custom scalars: charts by category.

    Where TensorBoard shows several runs it merges their layouts, equal charts into one: a chart is the same for every
    run that has it.
    """
    quantity = quantity_of(config.env)

    def by_steps(tag: str, steps: int) -> dict[str, list[Any]]:
        charts: dict[str, list[Any]] = {"by adaptation step": ["Multiline", [rf"{tag}/step_\d+$"]]}
        if find_learner(config.learner).recurrent:
            charts = {"by episode of a trial": ["Multiline", [rf"{tag}/episode_\d+$"]]}
        for step in reversed(range(steps + 1)):  # TensorBoard shows charts with bands last one first
            bounds = [f"{tag}_band/step_{step}/{bound}" for bound in ("lower", "upper")]
            charts[f"{steps_name(step)}, 95% interval over tasks"] = ["Margin", [f"{tag}/step_{step}", *bounds]]
        return charts

    def lines(**charts: str) -> dict[str, list[Any]]:
        return {title.replace("_", " "): ["Multiline", [pattern]] for title, pattern in charts.items()}

    title = quantity.words.capitalize()
    layout = {f"{title} on training tasks": by_steps(quantity.name, training_steps(config))}
    if config.eval.every:
        layout[f"{title} on held-out tasks"] = by_steps(f"eval/{quantity.name}", evaluation_steps(config))
    layout |= {
        "Meta-update": lines(
            KL_divergence="(trust_region|adam|sgd)/kl$",
            surrogate_improvement="(trust_region|adam|sgd)/surrogate_improvement$",
            conjugate_gradient_residual="trust_region/cg_residual$",
            line_search_backtracks="trust_region/backtracks$",
            learned_step_sizes="step_size/",
        ),
        "Time": lines(seconds_of_a_meta_iteration="time/"),
    }
    if find_task_set(config.env):
        return layout
    policy = lines(
        standard_deviation="policy/std$",
        entropy="policy/entropy$",
        explained_variance_of_the_baseline="baseline/explained_variance$",
    )
    return layout | {"Policy and baseline": policy}


def hyperparameters(config: Config) -> dict[str, bool | float | str]:
    """Every setting under its dotted name, as a number, a truth value or text."""
    settings = {**flat_settings(config), "name": config.name or config.env}
    return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in settings.items()}


def describe(writer: SummaryWriter, config: Config, iteration: int) -> None:
    """Write the settings as text, and at the start of a run its layout and hyperparameters."""
    writer.add_text("config", f"```yaml\n{to_yaml(config)}```", iteration)
    if iteration == 0 and writer.file_writer is not None:
        writer.add_custom_scalars(arrange(config))
        experiment, start, end = hparams(hyperparameters(config), dict.fromkeys(compared_returns(config), 0.0))
        plugin = experiment.value[0].metadata.plugin_data
        data = HParamsPluginData.FromString(plugin.content)
        for info in data.experiment.hparam_infos:
            info.differs = info.name in COMPARED
        plugin.content = data.SerializeToString()
        for summary in (experiment, start, end):
            writer.file_writer.add_summary(summary)


def compared_returns(config: Config) -> list[str]:
    """Metrics of the table of runs, the first of them shown at once: after adaptation, held-out if measured."""
    quantity = quantity_of(config.env).name
    training = [f"{quantity}/step_{step}" for step in reversed(range(training_steps(config) + 1))]
    held_out = [f"eval/{quantity}/step_{step}" for step in reversed(range(evaluation_steps(config) + 1))]
    return held_out + training if config.eval.every else training


def bands(estimates: Estimates, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Tags and values of the lower and upper bound of every mean that has an interval."""
    for quantity, by_step in estimates.items():
        for step, (mean, half_width) in enumerate(by_step):
            if not math.isnan(half_width):
                band = f"{prefix}{quantity}_band/step_{step}"
                yield f"{band}/lower", mean - half_width
                yield f"{band}/upper", mean + half_width


def adaptation_figure(quantity: str, estimates: Sequence[Estimate], iteration: int, used: Sequence[int] = ()) -> Figure:
    """A quantity on held-out tasks against gradient steps, or against the episodes that were used before."""
    bounds = [(mean - half_width, mean + half_width) for mean, half_width in estimates]
    curve = Curve("mean", "", [mean for mean, _ in estimates], bounds, "tasks", used=used)
    title = f"Held-out tasks after iteration {iteration}"
    return figure(Comparison(title, INTERVALS["student"], [curve], {}, quantity))
