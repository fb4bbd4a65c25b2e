"""Drawing on a machine without a display."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import sys


def has_no_display() -> bool:
    """Whether this is a Linux without a screen to draw on."""
    return sys.platform == "linux" and not os.environ.get("DISPLAY")


def use_headless_gl() -> None:
    """Let any MuJoCo environment of this process draw without a display: through EGL, unless `MUJOCO_GL` is set.

    To be called in the process that draws, since a graphics driver does not go through a fork.
    """
    if not has_no_display() or "MUJOCO_GL" in os.environ or ctypes.util.find_library("EGL") is None:
        return
    os.environ["MUJOCO_GL"] = "egl"
    try:
        for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):  # of MuJoCo 4, and before
            if name in sys.modules:  # it has looked at the variable, and would stay with what it took then
                sys.modules[name].GLContext = importlib.import_module("mujoco.egl").GLContext  # type: ignore[attr-defined]
    except Exception:  # a library without a driver: as if there were none
        del os.environ["MUJOCO_GL"]


def missing_library() -> str:
    """What to install, where MuJoCo has neither a display to draw on nor the library to do without; else empty."""
    if "mujoco" not in sys.modules or not has_no_display() or ctypes.util.find_library("EGL") is not None:
        return ""
    return (
        "MuJoCo draws without a display through the EGL library (package libegl1 on Debian and Ubuntu), or with"
        " libosmesa6 and MUJOCO_GL=osmesa"
    )
