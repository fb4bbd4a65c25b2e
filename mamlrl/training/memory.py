"""Memory of large tensors that come and go every iteration."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of handing it back to the system (glibc only).

    By default a tensor of tens of megabytes is mapped afresh each time, and every one of its pages is faulted in and
    zeroed again: that cost several times the arithmetic done on it. It sets the allocator of the whole process, so
    programs call it, never an import.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
