"""Meta-learners. A new one is a new file and a row in LEARNERS; one from outside is named as module:Name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor

from mamlrl.advantages import make_batch, make_trial_batch
from mamlrl.config import Config, SamplingConfig
from mamlrl.errors import ConfigError
from mamlrl.external import load_external, unknown_name
from mamlrl.learners.base import Learner, with_anneal_iterations
from mamlrl.learners.context import ContextSettings, make_cavia, make_context
from mamlrl.learners.emaml import EMAMLSettings, make_emaml
from mamlrl.learners.imaml import IMAMLSettings, make_imaml
from mamlrl.learners.maml import (
    MAMLSettings,
    make_anil,
    make_fomaml,
    make_maml,
    make_metasgd,
    make_plain,
)
from mamlrl.learners.mamlpp import MAMLPPSettings, make_mamlpp
from mamlrl.learners.promp import ProMPSettings, make_promp
from mamlrl.learners.protonet import make_matching, make_protonet
from mamlrl.learners.reading import ReadingSettings, make_recurrent, make_set
from mamlrl.learners.reptile import make_reptile
from mamlrl.learners.rl2 import RL2Settings, make_rl2
from mamlrl.outer import OUTER_STEPS
from mamlrl.policies import POLICIES
from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, Rollouts


@dataclass(frozen=True)
class NoSettings:
    """Of a learner that has no settings of its own."""


class LearnerRow(NamedTuple):
    """A learner that can be chosen by name, and all that the rest needs to know of it."""

    make: Callable[[Policy, Config, Any], Learner]
    """(policy, settings of the run, its own settings) -> learner"""
    settings: type = NoSettings
    """dataclass of its own settings, the section `learner_settings`"""
    outers: tuple[str, ...] = ("trust_region", "adam", "sgd")
    """outer steps that it can take, the first by default; none for a learner whose outer step is its own"""
    reason: str = "it has an outer step of its own"
    """why it takes no other"""
    adapts_in_training: bool = True
    """else a meta-iteration samples the unadapted policy alone"""
    adapts_on_query: bool = False
    """whether training takes one inner step more, on the query rollouts"""
    observes_task: bool = False
    """its policy sees the task in the observation, and does not adapt in evaluation either"""
    trained: bool = True
    """else it is there to be compared with"""
    inner_loss: str = ""
    """what it adapts by, whatever is configured; empty for a learner that adapts by any"""
    complete: Callable[[Any, Config], Any] = lambda own, config: own
    """(its own settings, settings of the run) -> its own settings, with what they take from those of the run when it
    begins; a run stores them"""
    rollouts_only: str = ""
    """why it cannot learn from examples in place of rollouts; empty where it can"""
    examples_only: str = ""
    """why it cannot learn from rollouts; empty where it can"""
    recurrent: bool = False
    """whether its policy has a memory, which lasts through trials of several episodes"""

    def build(self, policy: Policy, config: Config, own: Any) -> Learner:
        """The learner, with the outer step that is configured or its default one.

        Raises:
            ConfigError: it cannot take that outer step, or such a policy.
        """
        check_remembers(policy.initial_state(1, 1) is not None, config, self.recurrent)
        return self.make(policy, self.resolved(config), own)

    def resolved(self, config: Config) -> Config:
        """The settings with the outer step and the inner loss that are taken.

        Raises:
            ConfigError: it cannot take the outer step that is configured.
        """
        adaptation = config.adaptation
        if self.inner_loss:
            adaptation = dataclasses.replace(adaptation, inner_loss=self.inner_loss)
        return dataclasses.replace(config, outer=self.outer(config), adaptation=adaptation)

    def outer(self, config: Config) -> str:
        """Name of the outer step, "auto" for a learner that has its own.

        Raises:
            ConfigError: it cannot take the one that is configured.
        """
        if config.outer == "auto":
            return self.outers[0] if self.outers else "auto"
        if config.outer not in self.outers:
            others = f"; it takes {' or '.join(self.outers)}" if self.outers else ""
            raise ConfigError(
                f"outer is {config.outer!r}, but not with learner {config.learner}: {self.reason}{others}"
            )
        return config.outer


def check_remembers(remembers: bool, config: Config, recurrent: bool) -> None:
    """The policy has a memory where the learner needs one, and none where not.

    Args:
        remembers: whether it has one.
        config: names policy and learner.
        recurrent: whether the learner needs one.

    Raises:
        ConfigError: it is otherwise.
    """
    if remembers != recurrent:
        has = "a memory, and" if remembers else "no memory, and"
        wants = "takes none" if remembers else "needs one"
        fitting = ", ".join(name for name, row in POLICIES.items() if row.recurrent == recurrent)
        raise ConfigError(
            f"policy.network is {config.policy.network!r}, which has {has} learner {config.learner} {wants}; it must "
            f"be auto or one of {fitting}"
        )


LEARNERS = {
    "maml": LearnerRow(make_maml, MAMLSettings),
    "fomaml": LearnerRow(make_fomaml),
    "emaml": LearnerRow(make_emaml, EMAMLSettings, rollouts_only="it credits rollouts with their returns"),
    # Foerster et al. 2018:
    "dice": LearnerRow(make_plain, inner_loss="dice", rollouts_only="its inner loss is one of rewards"),
    "promp": LearnerRow(
        make_promp,
        ProMPSettings,
        ("adam", "sgd"),
        "clipping and a penalty take the place of a trust region",
        rollouts_only="it takes ratios to the policies that sampled the data",
    ),
    "metasgd": LearnerRow(make_metasgd),
    "mamlpp": LearnerRow(
        make_mamlpp,
        MAMLPPSettings,
        ("adam", "sgd"),
        "the policies after earlier inner steps count too, which a trust region on the last does not bound",
        complete=with_anneal_iterations,
    ),
    "anil": LearnerRow(make_anil),
    "cavia": LearnerRow(make_cavia, ContextSettings),
    "context": LearnerRow(make_context, ContextSettings),
    "imaml": LearnerRow(make_imaml, IMAMLSettings, ("adam", "sgd", "trust_region")),
    "reptile": LearnerRow(
        make_reptile,
        outers=("sgd", "adam"),
        reason="what it follows is not the gradient of a loss with a curvature",
        adapts_on_query=True,
    ),
    "rl2": LearnerRow(
        make_rl2,
        RL2Settings,
        ("adam", "trust_region"),
        "one step on the data of an iteration is too little for a recurrent network",
        adapts_in_training=False,
        rollouts_only="it learns to learn from the rewards of episodes",
        complete=with_anneal_iterations,
        recurrent=True,
    ),
    "protonet": LearnerRow(
        make_protonet, outers=("adam", "sgd", "trust_region"), examples_only="it compares with examples of each class"
    ),
    "matching": LearnerRow(
        make_matching, outers=("adam", "sgd", "trust_region"), examples_only="it compares with examples of each class"
    ),
    # Networks that read the examples, and need no gradient to adapt ("black box"):
    "cnp": LearnerRow(
        make_set, ReadingSettings, ("adam", "sgd", "trust_region"), examples_only="it reads inputs with their targets"
    ),
    "recurrent": LearnerRow(
        make_recurrent,
        ReadingSettings,
        ("adam", "sgd", "trust_region"),
        examples_only="it reads inputs with their targets",
    ),
    # Baselines of Finn et al. (2017), section 5.3. One policy for all tasks ("pretrained" in the paper):
    "multitask": LearnerRow(make_plain, adapts_in_training=False),
    # The untrained policy:
    "random": LearnerRow(make_plain, trained=False),
    # One policy for all tasks that is told the task, what adaptation could reach at best:
    "oracle": LearnerRow(make_plain, adapts_in_training=False, observes_task=True),
}


def find_learner(name: str) -> LearnerRow:
    """The row of a learner: of LEARNERS, or of what ``module:Name`` names.

    That is a `LearnerRow`, or a class that is called as `LearnerRow.make` and may have a dataclass `Settings`.

    Raises:
        ConfigError: there is no such learner, or its settings are no dataclass.
    """
    if ":" in name:
        found = load_external("learner", name)
        own = getattr(found, "Settings", NoSettings)
        row = found if isinstance(found, LearnerRow) else LearnerRow(found, own, outers=())
        if not (isinstance(row.settings, type) and is_dataclass(row.settings)):
            raise ConfigError(f"learner is {name!r}, but its Settings are no dataclass")
        return row
    if name not in LEARNERS:
        raise unknown_name("learner", name, LEARNERS)
    return LEARNERS[name]


def check_outer_settings(config: Config, chosen: Set[str]) -> None:
    """The outer step that is taken reads the settings of outer steps that the user gave.

    Others may be there by default or in a shipped configuration, which serve all learners. What a learner with an outer
    step of its own reads, nothing says.

    Args:
        config: of the run.
        chosen: dotted names of what the user gave.

    Raises:
        ConfigError: it does not read one of them; says which outer step does.
    """
    row = find_learner(config.learner)
    taken = row.outer(config)
    for name in sorted(chosen) if taken != "auto" else ():
        section = name.partition(".")[0]
        if section in OUTER_STEPS and section != taken:
            reads = f"; --outer {section} reads it"
            cannot = "" if section in row.outers else f", but not with learner {config.learner}: {row.reason}"
            raise ConfigError(
                f"{name} is not read by the outer step of learner {config.learner}, {taken}{reads}{cannot}"
            )


def check_inner_loss(config: Config, chosen: Set[str]) -> None:
    """The inner loss, if the user gave one, is one that the learner adapts by.

    Args:
        config: of the run.
        chosen: dotted names of what the user gave.

    Raises:
        ConfigError: it is another one.
    """
    fixed, given = find_learner(config.learner).inner_loss, config.adaptation.inner_loss
    if fixed not in ("", given) and "adaptation.inner_loss" in chosen:
        raise ConfigError(f"adaptation.inner_loss is {given!r}; of learner {config.learner} it must be {fixed!r}")


def check_trial_settings(config: Config, chosen: Set[str]) -> None:
    """Settings of trials, if the user gave some, are those of a learner that has them; others are none of its own.

    Args:
        config: of the run.
        chosen: dotted names of what the user gave.

    Raises:
        ConfigError: the learner does not read one of them.
    """
    recurrent = find_learner(config.learner).recurrent
    for name in ("episodes", "curriculum", "curriculum_iterations", "reward_info", "predicted_infos"):
        if f"sampling.{name}" in chosen and not recurrent:
            readers = ", ".join(other for other, row in LEARNERS.items() if row.recurrent)
            raise ConfigError(f"sampling.{name} is not read by learner {config.learner}; learner {readers} reads it")
    steps = sorted(name for name in chosen if name.startswith("adaptation."))
    if recurrent and steps:
        raise ConfigError(
            f"{steps[0]} is not read by learner {config.learner}, which takes no gradient steps but has a memory"
        )


def check_names(where: str, names: Iterable[str]) -> None:
    """Learners exist, as far as can be said without importing one from outside.

    Args:
        where: they stand, for the message.
        names: of the learners.

    Raises:
        ConfigError: one does not.
    """
    for name in names:
        if name not in LEARNERS and ":" not in name:
            raise unknown_name(where, name, LEARNERS)


def training_steps(config: Config) -> int:
    """Inner steps of a meta-iteration before its query rollouts."""
    return config.adaptation.steps if find_learner(config.learner).adapts_in_training else 0


def batches_of(config: Config) -> Callable[[Rollouts, SamplingConfig], tuple[Batch, Tensor]]:
    """What a learner needs of rollouts: their advantages; or the returns of trials, which it compares itself."""
    return make_trial_batch if find_learner(config.learner).recurrent else make_batch


def evaluation_steps(config: Config) -> int:
    """Gradient steps on a held-out task."""
    row = find_learner(config.learner)
    return 0 if row.observes_task or row.recurrent else config.eval.steps


def step_scale(config: Config, step: int) -> float:
    """Factor on the step sizes of gradient step `step`, from 0, on a held-out task.

    A half beyond the steps of training (Finn et al. 2017, section 5.3), unless `eval.step_size_schedule` is constant.
    A learner that takes none in training has whole ones as maml has.
    """
    beyond_training = step >= config.adaptation.steps + find_learner(config.learner).adapts_on_query
    return 0.5 if beyond_training and config.eval.step_size_schedule == "halve" else 1.0
