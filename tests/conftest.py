"""Tests use one math thread: their problems are small, and other processes may need the processors."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
