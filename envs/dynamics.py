# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""Runners whose bodies, and not whose goals, differ between tasks; all of them have to run forward.

Sources: Rothfuss et al. (2019), "ProMP: Proximal Meta-Policy Search" (random parameters); Nagabandi et al. (2019),
"Learning to Adapt in Dynamic, Real-World Environments through Meta-Reinforcement Learning" (dead joints and legs,
slope).
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from .ant import AntVectorEnv
from .argument_checks import check_number, check_positive
from .base import Array, Mask, TaskEnv
from .half_cheetah import HalfCheetahVectorEnv
from .runners import HOPPER, WALKER, RunnerVectorEnv
from .task_table import Factor, Ids, TaskTable, Variation, find_objects

DEAD_COLOR = (0.25, 0.25, 0.28, 1.0)


def factors(bodies: str, joints: str, geoms: str, span: float) -> TaskTable:
    """Factors on each body's mass and inertia and each joint's damping, and one on the friction of everything.

    A contact has the larger friction of its two sides: a factor for each geom would rarely be felt.

    Args:
        bodies: names, with spaces between.
        joints: likewise.
        geoms: likewise.
        span: of the exponents; 3 in ProMP's and PEARL's random parameters.
    """
    check_positive("span", span)
    return TaskTable(
        {
            "mass": Factor("body_mass", tuple(bodies.split()), span=span),
            "inertia": Factor("body_inertia", tuple(bodies.split()), span=span),
            "damping": Factor("dof_damping", tuple(joints.split()), base=1.3, span=span),
            "friction": Factor("geom_friction", tuple(geoms.split()), span=span, shared=True),
        }
    )


class HalfCheetahDynamicsVectorEnv(HalfCheetahVectorEnv):
    """N half-cheetahs, each with its own body; see `HalfCheetahDynamicsEnv` for the environment."""

    def __init__(self, *args: Any, span: float = 1.0, **kwargs: Any):
        legs = "bthigh bshin bfoot fthigh fshin ffoot"
        super().__init__(factors(f"torso {legs}", legs, f"floor torso head {legs}", span), *args, **kwargs)


class HopperDynamicsVectorEnv(RunnerVectorEnv):
    """N hoppers, each with its own body; see `HopperDynamicsEnv` for the environment."""

    body = HOPPER

    def __init__(self, *args: Any, span: float = 1.0, **kwargs: Any):
        geoms = "floor torso_geom thigh_geom leg_geom foot_geom"
        super().__init__(
            factors("torso thigh leg foot", "thigh_joint leg_joint foot_joint", geoms, span), *args, **kwargs
        )


class Walker2DDynamicsVectorEnv(RunnerVectorEnv):
    """N walkers, each with its own body; see `Walker2DDynamicsEnv` for the environment."""

    body = WALKER

    def __init__(self, *args: Any, span: float = 1.0, **kwargs: Any):
        legs = "thigh leg foot thigh_left leg_left foot_left".split()
        joints, geoms = (" ".join(f"{leg}_{kind}" for leg in legs) for kind in ("joint", "geom"))
        super().__init__(factors(f"torso {' '.join(legs)}", joints, f"floor torso_geom {geoms}", span), *args, **kwargs)


class DeadMotors(Variation):
    """Which of some groups of motors gives no force: a whole number, from 0. The group's geoms are drawn grey.

    Args:
        names: of the groups, for captions.
        motors: of each group, [groups][motors], as many in each.
        geoms: likewise.
    """

    def __init__(self, names: list[str], motors: list[list[str | int]], geoms: list[list[str]]):
        self._names, self._motors, self._geoms = names, motors, geoms
        self.low, self.high = np.zeros(1), np.full(1, len(names) - 1.0)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n groups, all equally likely, [n, 1]."""
        return rng.integers(len(self._names), size=(n, 1)).astype(np.float64)

    def accepts(self, numbers: Array) -> Mask:
        """Whether it is a whole number."""
        return (numbers == np.floor(numbers)).all(axis=1)

    def wanted(self) -> str:
        """What a number has to be."""
        return f"it must be a whole number: {', '.join(f'{i} ({name})' for i, name in enumerate(self._names))}"

    def describe(self, name: str, numbers: Array) -> str:
        """The group's name."""
        return f"{name} {self._names[int(numbers[0])]}"

    def fields(self, model: mujoco.MjModel) -> dict[str, Ids]:
        """Gears of all motors and colours of all geoms."""
        return {"actuator_gear": np.arange(model.nu), "geom_rgba": np.arange(model.ngeom)}

    def values(self, model: mujoco.MjModel, numbers: Array) -> dict[str, Array]:
        """No gear, and grey, for the group; the model's for the others."""
        group = numbers[:, 0].astype(np.intp)
        values: dict[str, Array] = {}
        for field, groups, dead in (
            ("actuator_gear", self._motors, 0.0),
            ("geom_rgba", self._geoms, np.array(DEAD_COLOR)),
        ):
            ids = np.array([find_objects(model, field, tuple(names)) for names in groups])
            values[field] = np.tile(np.asarray(getattr(model, field), np.float64), (len(group), 1, 1))
            values[field][np.arange(len(group))[:, None], ids[group]] = dead
        return values


class CheetahCrippledVectorEnv(HalfCheetahVectorEnv):
    """N half-cheetahs, each with a dead motor; see `CheetahCrippledEnv` for the environment."""

    def __init__(self, *args: Any, **kwargs: Any):
        motors = ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]
        names = ["back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot"]
        one_each: list[list[Any]] = [[motor] for motor in motors]
        super().__init__(TaskTable({"dead motor": DeadMotors(names, one_each, one_each)}), *args, **kwargs)


class Slope(Variation):
    """The slope of the ground, degrees, uphill forward: gravity is tilted, the floor stays where it is."""

    def __init__(self, largest: float):
        check_number("largest_slope", largest)
        if not 0 < largest < 90:
            raise ValueError(f"largest_slope is {largest}; it must be between 0 and 90 degrees")
        self.low, self.high = np.full(1, -float(largest)), np.full(1, float(largest))

    def describe(self, name: str, numbers: Array) -> str:
        """The angle, in words."""
        return f"{name} {numbers[0]:+.0f} degrees"

    def fields(self, model: mujoco.MjModel) -> dict[str, Ids]:
        """Gravity."""
        return {"opt.gravity": np.zeros(0, np.intp)}

    def values(self, model: mujoco.MjModel, numbers: Array) -> dict[str, Array]:
        """As strong as the model's, backward where it goes uphill."""
        angle = np.deg2rad(numbers[:, 0])
        direction = np.stack([-np.sin(angle), np.zeros_like(angle), -np.cos(angle)], axis=1)
        return {"opt.gravity": float(np.linalg.norm(model.opt.gravity)) * direction}


class CheetahSlopeVectorEnv(HalfCheetahVectorEnv):
    """N half-cheetahs, each on its own slope; see `CheetahSlopeEnv` for the environment."""

    def __init__(self, *args: Any, largest_slope: float = 15.0, **kwargs: Any):
        super().__init__(TaskTable({"slope": Slope(largest_slope)}), *args, **kwargs)


class AntCrippledVectorEnv(AntVectorEnv):
    """N ants, each with a dead leg; see `AntCrippledEnv` for the environment."""

    def __init__(self, *args: Any, healthy_reward: float = 0.05, **kwargs: Any):
        legs = ["front right", "front left", "back left", "back right"]  # x is forward, y to the left
        motors: list[list[Any]] = [[0, 1], [2, 3], [4, 5], [6, 7]]
        geoms = [
            ["aux_4_geom", "rightback_leg_geom", "fourth_ankle_geom"],
            ["aux_1_geom", "left_leg_geom", "left_ankle_geom"],
            ["aux_2_geom", "right_leg_geom", "right_ankle_geom"],
            ["aux_3_geom", "back_leg_geom", "third_ankle_geom"],
        ]
        super().__init__(TaskTable({"dead leg": DeadMotors(legs, motors, geoms)}), healthy_reward, *args, **kwargs)


class HalfCheetahDynamicsEnv(TaskEnv):
    """The half-cheetah has to run forward on a body that only its movements tell of.

    ## Description
    Gymnasium's planar half-cheetah (HalfCheetah-v5). Tasks differ in its masses, inertias, dampings and frictions: the
    task's numbers are factors on those of the model. The policy does not observe them.

    | Num | Factor on | Distribution |
    |---|---|---|
    | 0-6 | mass of torso, back thigh, shin and foot, front thigh, shin and foot | 1.5^U(-span, span) |
    | 7-13 | inertia of the same, about all three axes | 1.5^U(-span, span) |
    | 14-19 | damping of the joints of back thigh, shin and foot, front thigh, shin and foot | 1.3^U(-span, span) |
    | 20 | friction of everything, the floor too | 1.5^U(-span, span) |

    ## Action Space
    That of `HalfCheetahVelEnv`.

    ## Observation Space
    That of `HalfCheetahVelEnv`.

    ## Rewards
    `reward = v - ctrl_cost_weight * sum(a^2)`; terms and infos as of `HalfCheetahVelEnv`. `info["diverged"]` is 1 where
    the simulation broke down, which ends the episode, else 0.

    ## Starting State
    That of `HalfCheetahVelEnv`.

    ## Episode End
    Not terminated, unless the simulation breaks down. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    `span` (float, 1) is the largest exponent of a factor: 3 gives the random parameters of ProMP and PEARL, which are
    harsh. `change_at` (int or None, None) is the time step at which another task takes the given one's place,
    counted in an episode, or with `change_in="trial"` (str, "episode") in all episodes on the given task. The others
    are those of `HalfCheetahVelEnv` but for `goal_range`.

    The task is the factors [21], given by `reset(options={"task": factors})`.

    ## Version History
    * v0: first version.
    """

    vector_class = HalfCheetahDynamicsVectorEnv


class HopperDynamicsEnv(TaskEnv):
    """The hopper has to hop forward on a body that only its movements tell of.

    ## Description
    Gymnasium's planar hopper (Hopper-v5). Tasks differ as those of `HalfCheetahDynamicsEnv`: factors on masses (torso,
    thigh, leg, foot: 0-3), inertias of the same (4-7), damping of the three joints (8-10), friction (11).

    ## Action Space
    That of `mamlrl.envs.runners.HopperVelEnv`.

    ## Observation Space
    That of `HopperVelEnv`.

    ## Rewards
    `reward = v + healthy_reward * healthy - ctrl_cost_weight * sum(a^2)`; terms and infos as of `HopperVelEnv`.

    ## Starting State
    That of `HopperVelEnv`.

    ## Episode End
    That of `HopperVelEnv`.

    ## Arguments
    `span`, `change_at` and `change_in` as of `HalfCheetahDynamicsEnv`; the others are those of `HopperVelEnv` but for
    `goal_range`.

    The task is the factors [12], given by `reset(options={"task": factors})`.

    ## Version History
    * v0: first version.
    """

    vector_class = HopperDynamicsVectorEnv


class Walker2DDynamicsEnv(TaskEnv):
    """The walker has to walk forward on a body that only its movements tell of.

    ## Description
    Gymnasium's planar walker (Walker2d-v5). Tasks differ as those of `HalfCheetahDynamicsEnv`: factors on masses
    (torso, thigh, leg and foot of the right leg and of the left: 0-6), inertias of the same (7-13), damping of the six
    joints (14-19), friction (20).

    ## Action Space
    That of `mamlrl.envs.runners.Walker2DVelEnv`.

    ## Observation Space
    That of `Walker2DVelEnv`.

    ## Rewards
    `reward = v + healthy_reward * healthy - ctrl_cost_weight * sum(a^2)`; terms and infos as of `Walker2DVelEnv`.

    ## Starting State
    That of `Walker2DVelEnv`.

    ## Episode End
    That of `Walker2DVelEnv`.

    ## Arguments
    `span`, `change_at` and `change_in` as of `HalfCheetahDynamicsEnv`; the others are those of `Walker2DVelEnv` but for
    `goal_range`.

    The task is the factors [21], given by `reset(options={"task": factors})`.

    ## Version History
    * v0: first version.
    """

    vector_class = Walker2DDynamicsVectorEnv


class CheetahCrippledEnv(TaskEnv):
    """The half-cheetah has to run forward although one of its motors gives no force.

    ## Description
    Gymnasium's planar half-cheetah (HalfCheetah-v5). The six tasks differ in the motor that is dead: its joint is moved
    by its spring and by the rest of the body. The policy does not observe which it is. Pictures show that part in grey.

    ## Action Space
    That of `HalfCheetahVelEnv`; the number of the dead motor has no effect (but its share of the control cost).

    ## Observation Space
    That of `HalfCheetahVelEnv`.

    ## Rewards
    As of `HalfCheetahDynamicsEnv`.

    ## Starting State
    That of `HalfCheetahVelEnv`.

    ## Episode End
    As of `HalfCheetahDynamicsEnv`.

    ## Arguments
    `change_at` and `change_in` as of `HalfCheetahDynamicsEnv`; the others are those of `HalfCheetahVelEnv` but for
    `goal_range`.

    The task is the number of the motor [1], 0 to 5 in the order of the actions, given by
    `reset(options={"task": number})`.

    ## Version History
    * v0: first version.
    """

    vector_class = CheetahCrippledVectorEnv


class CheetahSlopeEnv(TaskEnv):
    """The half-cheetah has to run forward on a slope that only its movements tell of.

    ## Description
    Gymnasium's planar half-cheetah (HalfCheetah-v5) on ground that rises or falls in the direction of its run. Gravity
    is tilted, in place of the floor: pitch and height are relative to the ground, and the policy does not observe the
    slope. Pictures show the ground inclined.

    ## Action Space
    That of `HalfCheetahVelEnv`.

    ## Observation Space
    That of `HalfCheetahVelEnv`.

    ## Rewards
    As of `HalfCheetahDynamicsEnv`, with v along the slope.

    ## Starting State
    That of `HalfCheetahVelEnv`.

    ## Episode End
    As of `HalfCheetahDynamicsEnv`.

    ## Arguments
    `largest_slope` (float, 15), degrees: slopes are uniform between minus that and that. `change_at` and `change_in`
    as of `HalfCheetahDynamicsEnv`; the others are those of `HalfCheetahVelEnv` but for `goal_range`.

    The task is the slope [1] in degrees, uphill above 0, given by `reset(options={"task": slope})`.

    ## Version History
    * v0: first version.
    """

    vector_class = CheetahSlopeVectorEnv


class AntCrippledEnv(TaskEnv):
    """The ant has to run forward although both motors of one leg give no force.

    ## Description
    Gymnasium's four-legged ant (Ant-v5). The four tasks differ in the dead leg. The policy does not observe which it
    is. Pictures show it in grey.

    ## Action Space
    That of `AntVelEnv`; the numbers of the dead leg have no effect (but their share of the control cost).

    ## Observation Space
    That of `AntVelEnv`.

    ## Rewards
    As of `AntPayloadEnv`.

    ## Starting State
    That of `AntVelEnv`.

    ## Episode End
    That of `AntVelEnv`.

    ## Arguments
    `healthy_reward`, `change_at` and `change_in` as of `AntPayloadEnv`; the others are those of `AntDirEnv`.

    The task is the number of the leg [1], 0 to 3 in the order of the actions (front right, front left, back left, back
    right), given by `reset(options={"task": number})`.

    ## Version History
    * v0: first version.
    """

    vector_class = AntCrippledVectorEnv
