"""Baselines that are not trained to adapt: one policy for all tasks, or none at all (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from mamlrl.learners.maml import MAML


class MultiTask(MAML):
    """One policy trained by TRPO on the mean return over all tasks ("pretrained" in the MAML paper).

    MAML without an inner loop: a meta-iteration has no support batches, so the surrogate is that of the unadapted
    policy and J = I. At evaluation the policy is fine-tuned by the same inner step as MAML's.
    """


class Random(MAML):
    """The untrained initialisation, fine-tuned by the same inner step: for evaluation only."""


class Oracle(MultiTask):
    """One policy for all tasks that sees the task in its observation: what adaptation could reach at best.

    `mamlrl.envs.observe_task` appends the task; the policy is not fine-tuned.
    """
