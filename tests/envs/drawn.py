"""MuJoCo environments of others that draw, one through Gymnasium's renderer and one through MuJoCo's own."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces


class Pendulum(gymnasium.Wrapper):
    """Gymnasium's pendulum, with tasks that mean nothing."""

    def __init__(self, render_mode: str | None = None):
        super().__init__(gymnasium.make("InvertedPendulum-v5", render_mode=render_mode, width=32, height=24))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.random((n, 1))


class Ball(gymnasium.Env):
    """A ball that hangs in the air."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Box(-1.0, 1.0, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(  # type: ignore[attr-defined]
            "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>"
        )
        self.data = mujoco.MjData(self.model)  # type: ignore[attr-defined]

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.random((n, 1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        mujoco.mj_forward(self.model, self.data)  # type: ignore[attr-defined]
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self) -> Any:
        with mujoco.Renderer(self.model, 24, 32) as renderer:  # type: ignore[attr-defined]
            renderer.update_scene(self.data)
            return renderer.render()


def pendulum(render_mode: str | None = None) -> gymnasium.Env:
    return Pendulum(render_mode)


gymnasium.register("DrawnPendulum-v0", entry_point=f"{__name__}:pendulum")
gymnasium.register("DrawnBall-v0", entry_point=f"{__name__}:Ball")
