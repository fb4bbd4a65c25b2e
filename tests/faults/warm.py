"""Imported by the server of `processes`: trains once, so that its forks find everything imported and made."""

from __future__ import annotations

import contextlib
import io
import tempfile

import torch

from mamlrl.train import main

from ..cli.conftest import SMALL

torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    flags = f"--iterations 1 --eval.every 1 --eval.tasks 2 --eval.rollouts 2 --eval.steps 1 --out {folder}/run"
    assert main([*SMALL, *flags.split()]) == 0
