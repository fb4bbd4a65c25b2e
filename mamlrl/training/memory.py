"""Memory of large tensors that come and go every iteration."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt
DEFAULTS = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 * 1024}


def keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of handing it back to the system (glibc only).

    By default a tensor of tens of megabytes is mapped afresh each time, and every one of its pages is faulted in and
    zeroed again: that cost several times the arithmetic done on it. It sets the allocator of the whole process, so
    programs call it, never an import.
    """
    _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1})


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """`keep_freed_memory` for a block; after it the process has glibc's defaults, and what is free goes back."""
    keep_freed_memory()
    try:
        yield
    finally:
        _set(DEFAULTS)
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
        if trim is not None:
            trim(0)


def _set(parameters: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        for parameter, value in parameters.items():
            mallopt(parameter, value)
