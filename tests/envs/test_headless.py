"""Environments of others draw without a display; where they cannot, it is said in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from mamlrl.envs import rendering
from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.envs.making import make_task_envs


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("env_id", ["tests.envs.drawn:DrawnPendulum-v0", "tests.envs.drawn:DrawnBall-v0"])
def test_mujoco_environments_of_others_draw_without_a_display(env_id: str, mode: str) -> None:
    program = (
        "from mamlrl.envs.making import make_task_envs\n"
        "from mamlrl.envs.rendering import missing_library\n"
        f"envs = make_task_envs({env_id!r}, 2, 5, {{'render_mode': 'rgb_array'}}, {mode!r})\n"
        "envs.reset(seed=0, options={'task': [0.5]})\n"
        "import ctypes.util\n"
        "if ctypes.util.find_library('EGL') is None: raise SystemExit(77)\n"
        "print(envs.render_row(1).shape, envs.render_row(1).std() > 1)\n"
        "envs.close()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
    environment.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if done.returncode == 77 and not os.environ.get("CI"):
        pytest.skip("there is no EGL library")
    assert (done.returncode, done.stdout) == (0, "(24, 32, 3) True\n"), done.stderr
    assert "Error" not in done.stderr and "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "library", "expected"),
    [
        ({}, "libEGL.so", "egl"),
        ({"DISPLAY": ":0"}, "libEGL.so", None),
        ({"MUJOCO_GL": "osmesa"}, "libEGL.so", "osmesa"),
        ({}, None, None),
    ],
)
def test_egl_is_taken_only_where_it_is_needed_and_there(
    variables: dict[str, str], library: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: library)
    for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    rendering.use_headless_gl()
    assert os.environ.get("MUJOCO_GL") == expected


def drawn(env_id: str, mode: str, render_mode: str = "rgb_array") -> None:
    """Make environments and draw one."""
    envs: Any = make_task_envs(env_id, 2, 5, {"render_mode": render_mode}, mode)  # type: ignore[arg-type]
    try:
        envs.reset(seed=0, options={"task": np.full(envs.sample_tasks(1, np.random.default_rng(0)).shape[1], 1.0)})
        envs.render_row(0)
    finally:
        envs.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_is_missing_for_pictures_is_said_in_a_line(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.envs.third_party import Countdown

    # A library that draws.
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(EnvironmentFailure, match="render raised DependencyNotInstalled: pygame is not installed"):
        drawn("tests.envs.third_party:DrawnPole-v0", mode)
    # A render mode.
    with pytest.raises(ValueError, match="has no render mode 'human'; it has 'rgb_array'"):
        drawn("tests.envs.third_party:Countdown-v0", mode, "human")
    monkeypatch.setattr(Countdown, "metadata", {"render_modes": []})
    with pytest.raises(ValueError, match="has no render mode 'rgb_array'; it has none"):
        drawn("tests.envs.third_party:Countdown-v0", mode)
    with pytest.raises(ValueError, match="Inert-v0 cannot be drawn: its constructor takes no render_mode"):
        drawn("tests.envs.third_party:Inert-v0", mode)


def test_a_missing_opengl_library_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.envs.faulty as faulty

    gymnasium.registry["Faulty-v0"].kwargs = {"method": "render", "table": "RAISES", "fault": "RuntimeError"}
    assert faulty.RAISES
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setitem(sys.modules, "mujoco", sys)  # some environment of MuJoCo's
    monkeypatch.setenv("DISPLAY", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(faulty.RAISES, "RuntimeError", lambda: RuntimeError("gladLoadGL error"))
    with pytest.raises(EnvironmentFailure, match=r"render raised RuntimeError: gladLoadGL error\. MuJoCo draws"):
        drawn("Faulty-v0", "sync")
