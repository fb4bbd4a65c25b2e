# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""Bodies that carry a load that they do not know: an ant that runs, an arm that lifts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from .ant import AntVectorEnv
from .argument_checks import check_positive, check_range
from .base import Array, Infos, Mask, TaskEnv
from .mujoco_vector import Camera, MujocoTaskVectorEnv, load_model
from .task_table import Ids, TaskTable, Variation


class Load(Variation):
    """The mass of a ball, kg, the model's body and geom `payload`, of a kilogram there. Its density stays that.

    Args:
        mass_range: of the mass.
    """

    def __init__(self, mass_range: tuple[float, float]):
        self.low, self.high = np.array(check_range("mass_range", mass_range, above=0))[:, None]

    def describe(self, name: str, numbers: Array) -> str:
        """The mass, in words."""
        return f"{name} {numbers[0]:.2f} kg"

    def fields(self, model: mujoco.MjModel) -> dict[str, Ids]:
        """Mass and inertia of the body, size of the geom."""
        body, geom = (np.array([one.id]) for one in (model.body("payload"), model.geom("payload")))
        return {"body_mass": body, "body_inertia": body, "geom_size": geom}

    def values(self, model: mujoco.MjModel, numbers: Array) -> dict[str, Array]:
        """Those of a solid ball."""
        mass, zero = numbers[:, 0], np.zeros(len(numbers))
        radius = float(model.geom("payload").size[0]) * np.cbrt(mass)
        return {
            "body_mass": mass[:, None],
            "body_inertia": np.repeat(0.4 * mass * radius**2, 3).reshape(-1, 1, 3),
            "geom_size": np.stack([radius, zero, zero], axis=1)[:, None],
        }


class Payload(Load):
    """A ball on the torso: its mass (kg) and how far forward and to the left of the middle it lies (m).

    It touches nothing.

    Args:
        mass_range: of the mass.
        offset: the largest distance from the middle along either axis.
    """

    RADIUS_OF_A_KILOGRAM, HEIGHT = 0.17, 0.25  # m; above the middle of the torso

    def __init__(self, mass_range: tuple[float, float], offset: float):
        super().__init__(mass_range)
        check_positive("offset", offset)
        self.low = np.append(self.low, [-offset, -offset])
        self.high = np.append(self.high, [offset, offset])

    @classmethod
    def add(cls, specification: mujoco.MjSpec) -> None:
        """Add a ball of 1 kg to the torso of a model."""
        body = specification.body("torso").add_body(name="payload", pos=[0, 0, cls.HEIGHT])
        body.add_geom(
            name="payload",
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[cls.RADIUS_OF_A_KILOGRAM, 0, 0],
            mass=1.0,
            contype=0,
            conaffinity=0,
            rgba=[0.85, 0.15, 0.2, 1],
        )

    def describe(self, name: str, numbers: Array) -> str:
        """Mass and place, in words."""
        return f"{super().describe(name, numbers)} at ({numbers[1]:+.2f}, {numbers[2]:+.2f})"

    def fields(self, model: mujoco.MjModel) -> dict[str, Ids]:
        """Those of a load, and the place of the body."""
        fields = super().fields(model)
        return fields | {"body_pos": fields["body_mass"]}

    def values(self, model: mujoco.MjModel, numbers: Array) -> dict[str, Array]:
        """Those of a solid ball, there."""
        height = np.full(len(numbers), self.HEIGHT)
        place = np.stack([numbers[:, 1], numbers[:, 2], height], axis=1)[:, None]
        return super().values(model, numbers) | {"body_pos": place}


class AntPayloadVectorEnv(AntVectorEnv):
    """N ants, each with its own load; see `AntPayloadEnv` for the environment."""

    edits = (Payload.add,)

    def __init__(
        self,
        *args: Any,
        mass_range: tuple[float, float] = (0.05, 0.5),
        offset: float = 0.2,
        healthy_reward: float = 0.05,
        **kwargs: Any,
    ):
        super().__init__(TaskTable({"payload": Payload(mass_range, offset)}), healthy_reward, *args, **kwargs)


class ArmPayloadVectorEnv(MujocoTaskVectorEnv):
    """N arms, each with its own load; see `ArmPayloadEnv` for the environment."""

    camera = Camera(distance=2.7, elevation=-8.0, height=0.95)

    REST = (-2.2, 0.1)  # rad: it hangs
    CLOSE, HOLD = 0.05, 0.5  # m and s: so near the mark, and for so long, is success

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,
        *,
        frame_skip: int = 10,
        mass_range: tuple[float, float] = (0.1, 3.0),
        **kwargs: Any,
    ):
        model = load_model(Path(__file__).with_name("arm.xml"))
        super().__init__(
            model=model,
            frame_skip=frame_skip,
            stage=mujoco.mjtStage.mjSTAGE_POS,
            observation_dim=model.nu,
            task_space=TaskTable({"payload": Load(mass_range)}),
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            num_threads=num_threads,
            **kwargs,
        )
        self._told, self._close_steps = np.tile(self.REST, (num_envs, 1)), np.zeros(num_envs, int)
        self._hold_steps = math.ceil(round(self.HOLD / self.dt, 6))
        self._payload = self._batch.bind("xpos")[:, model.body("payload").id]
        self._mark = model.site("mark").pos

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        return self.REST + generator.uniform(-0.1, 0.1, self._model.nq), 0.1 * generator.standard_normal(self._model.nv)

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        super()._start_rows(rows)
        self._told[rows], self._close_steps[rows] = self.REST, 0

    def _move(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        self._simulate(actions, rows)
        told = slice(None) if rows is None else rows
        self._told[told] = actions[told]
        distance = np.linalg.norm(self._payload - self._mark, axis=1)
        self._close_steps = np.where(distance < self.CLOSE, self._close_steps + 1, 0)
        held = self._close_steps >= self._hold_steps
        infos = {"distance": distance, "success": held.astype(np.float64)}
        return -distance, np.zeros(self.num_envs, bool), infos

    def _observe(self) -> Array:
        return self._told.copy()


class AntPayloadEnv(TaskEnv):
    """The ant has to run forward with a load that only its movements tell of.

    ## Description
    Gymnasium's four-legged ant (Ant-v5), which weighs 0.91 kg, with a ball fixed on top of its torso. Tasks differ in
    the ball's mass and place. The policy does not observe them. The ball touches nothing; pictures show its mass as its
    size.

    ## Action Space
    That of `AntVelEnv`.

    ## Observation Space
    That of `AntVelEnv`. The load is a 14th body, after the 13 others, for `contact_forces`; it feels none.

    ## Rewards
    `reward = v + healthy_reward * healthy - ctrl_cost_weight * sum(a^2)`; terms and infos as of `AntVelEnv`.
    `info["diverged"]` is 1 where the simulation broke down, which ends the episode, else 0.

    ## Starting State
    That of `AntVelEnv`.

    ## Episode End
    That of `AntVelEnv`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `mass_range` | tuple[float, float] | (0.05, 0.5) | range of the mass (kg) |
    | `offset` | float | 0.2 | largest distance from the torso's middle along x and along y (m) |
    | `healthy_reward` | float | 0.05 | reward per healthy time step |
    | `change_at` | int or None | None | as of `HalfCheetahDynamicsEnv` |
    | `change_in` | str | "episode" | as of `HalfCheetahDynamicsEnv` |

    The others are those of `AntDirEnv`. The task is mass and place [3] (kg, m, m), uniform in these ranges, given by
    `reset(options={"task": [mass, x, y]})`.

    ## Version History
    * v0: first version.
    """

    vector_class = AntPayloadVectorEnv


class ArmPayloadEnv(TaskEnv):
    """The arm has to lift a load to a mark and hold it there; how heavy it is only the reward tells.

    ## Description
    An arm of two links, 0.5 and 0.45 m long, which weighs 1.6 kg and moves in a vertical plane, with a ball in its hand
    that weighs up to almost twice as much. Its servos turn to the angles that they are told, and sag below them the
    more the heavier the ball is; as cheap servos do, they do not tell where they are. Tasks differ in the ball's mass.
    The policy does not observe it, nor what it would show in, so that it cannot put right what it does not see: one
    that does not learn from its reward aims for a middling load. The heaviest one then hangs 0.2 m below the mark, and
    the lightest one rises as far above it. Nothing touches; pictures show the mass as the ball's size.

    ## Action Space
    `Box(-0.6, 0.6, (2,), float64)`; larger actions are clipped. Angles (rad) that shoulder and elbow are told, upward
    where positive, counted from those that hold a load of 1.55 kg at the mark.

    ## Observation Space
    `Box(-inf, inf, (2,), float64)`: the angles that the servos were told last; before they are told any, where they
    hang.

    ## Rewards
    `reward = -distance`, the distance (m) of the ball's centre to the mark, which `info["distance"]` is.
    `info["success"]` is 1 where it has been below 0.05 m for 0.5 s. `info["diverged"]` is 1 where the simulation broke
    down, which ends the episode, else 0.

    ## Starting State
    It hangs: angles within +-0.1 rad of (-2.2, 0.1), uniform; velocities normal with std 0.1 rad/s.

    ## Episode End
    Not terminated, unless the simulation breaks down. Truncated after 40 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `frame_skip` | int | 10 | simulation steps of 0.01 s per time step |
    | `mass_range` | tuple[float, float] | (0.1, 3) | range of the mass (kg) |
    | `change_at` | int or None | None | as of `HalfCheetahDynamicsEnv` |
    | `change_in` | str | "episode" | as of `HalfCheetahDynamicsEnv` |

    The task is the mass [1] (kg), uniform in this range, given by `reset(options={"task": [mass]})`.

    ## Version History
    * v0: first version.
    """

    vector_class = ArmPayloadVectorEnv
