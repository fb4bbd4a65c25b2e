# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""What varies between the tasks of a MuJoCo family, as a table: factors on the model's fields, their values, goals.

Shapes: n tasks, k numbers of a row of the table, P numbers of a task, which holds those of all rows in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import ArrayLike, NDArray

from .argument_checks import check_flag, check_positive
from .base import Array, Mask, TaskSpace
from .errors import WrongArgument

Names = str | int | tuple[str | int, ...]
"""Objects of a model, by name or by number."""
Ids = NDArray[np.intp]
LARGEST_EXPONENT = np.log(1e100)
POSITIVE = ("body_mass", "body_inertia")
COMPUTED = (
    *("body_invweight0", "body_margin", "body_subtreemass", "dof_M0", "dof_invweight0", "dof_length", "geom_aabb"),
    *("geom_rbound", "actuator_acc0", "actuator_length0", "tendon_invweight0", "tendon_length0"),
)
"""Fields that `Batch.set_const` computes from others, whatever they were set to."""
NOT_NEGATIVE = (
    *("dof_damping", "dof_armature", "dof_frictionloss", "geom_friction", "jnt_stiffness", "geom_size"),
    *("tendon_damping", "tendon_frictionloss", "tendon_stiffness", "opt.density", "opt.viscosity"),
)
SAME_FOR_ALL = ("opt.timestep",)
"""Fields that are those of all simulations: a time step takes them all as far."""


class Variation:
    """A row of the table: k numbers of a task, how they are drawn, and what they make of the model.

    A subclass gives the bounds `low` and `high`, [k], and what differs from this: numbers that are uniform within them
    and that only the reward sees.
    """

    low: Array
    high: Array

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw the numbers of n tasks, [n, k]."""
        return rng.uniform(self.low, self.high, (n, len(self.low)))

    def accepts(self, numbers: Array) -> Mask:
        """Which of the numbers [n, k], all within the bounds, may be, [n]."""
        return np.ones(len(numbers), bool)

    def wanted(self) -> str:
        """What numbers within the bounds have to be in order to be accepted, as the end of a sentence."""
        return "it must be one that is accepted"

    def describe(self, name: str, numbers: Array) -> str:
        """The numbers [k] of the row of that name, in words."""
        return f"{name} {', '.join(f'{number:.2f}' for number in numbers)}"

    def fields(self, model: mujoco.MjModel) -> dict[str, Ids]:
        """Fields that it sets, each with the numbers of the objects where it does.

        Raises:
            KeyError: the model has no object of that name.
            ValueError: it has no such field.
        """
        return {}

    def values(self, model: mujoco.MjModel, numbers: Array) -> dict[str, Array]:
        """The values of these fields there, [n, objects, ...], for the numbers [n, k]."""
        return {}


@dataclass(frozen=True, eq=False)
class Goal(Variation):
    """Numbers that only the reward sees, uniform between two bounds (numbers, or vectors of k)."""

    low: ArrayLike  # type: ignore[assignment]
    high: ArrayLike  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _set_bounds(self, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Factor(Variation):
    """Factors on a field of the model at some objects, base^U(-span, span).

    On `body_inertia` it is one factor for a body's three moments, which keeps them those of a body.

    Args:
        field: of MjModel: `body_mass`, `body_inertia`, `dof_damping`, `geom_friction`, `actuator_gear`, ...
        of: names (or numbers) of the bodies, joints (of `dof_` and `jnt_` fields), geoms, actuators, ...; () for a
            field of the options, as `opt.gravity`.
        base: above 1.
        span: above 0.
        shared: whether all objects share one factor. Else each has its own.
    """

    field: str
    of: Names
    base: float = 1.5
    span: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        check_flag(f"Factor({self.field!r}): shared", self.shared)
        check_positive(f"Factor({self.field!r}): span", self.span)
        check_positive(f"Factor({self.field!r}): base", self.base)
        if not (self.base > 1 and self.span * np.log(self.base) < LARGEST_EXPONENT):
            raise ValueError(
                f"Factor({self.field!r}): base is {self.base} and span is {self.span}; base must be above 1, and"
                f" base^span at most {np.exp(LARGEST_EXPONENT):.0e}"
            )
        k = 1 if self.shared else max(len(_tuple(self.of)), 1)
        bound = np.full(k, self.base**self.span)
        _set_bounds(self, 1 / bound, bound)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n times k factors, [n, k]."""
        factors = self.base ** rng.uniform(-self.span, self.span, (n, len(self.low)))
        return np.clip(factors, self.low, self.high)  # which rounding may have left

    def describe(self, name: str, numbers: Array) -> str:
        """The factors, or from which to which they are."""
        if len(numbers) <= 2:
            return f"{name} x {', '.join(f'{number:.2f}' for number in numbers)}"
        return f"{name} x {numbers.min():.2f} to {numbers.max():.2f}"

    def fields(self, model: mujoco.MjModel) -> dict[str, Ids]:
        """The one field."""
        ids = find_objects(model, self.field, self.of)
        if self.field in POSITIVE and not _field_of(model, self.field)[ids].all():
            raise ValueError(f"{self.field} of {self.of} is 0, which no factor changes")
        return {self.field: ids}

    def values(self, model: mujoco.MjModel, numbers: Array) -> dict[str, Array]:
        """The model's values times the factors."""
        ids, base = find_objects(model, self.field, self.of), _field_of(model, self.field)
        if not ids.size:
            return {self.field: base * numbers}
        if not self.shared and len(ids) != len(_tuple(self.of)):  # a joint of several degrees of freedom
            per_name = [len(find_objects(model, self.field, name)) for name in _tuple(self.of)]
            numbers = np.repeat(numbers, per_name, axis=1)
        base = base[ids]
        return {self.field: base * numbers.reshape(*numbers.shape, *(1,) * (base.ndim - 1))}


@dataclass(frozen=True, eq=False)
class Value(Variation):
    """Values of a field, uniform between two bounds, the same at all of some objects.

    Args:
        field: of MjModel, or of its options as `opt.gravity`.
        of: names (or numbers) of the objects, as for `Factor`; () for an option: `Value("opt.gravity", (), [0, 0, -12],
            [0, 0, -3])`.
        low: a number, or a vector of as many as the field has at an object. A component that is the same in both stays.
        high: likewise.
    """

    field: str
    of: Names
    low: ArrayLike  # type: ignore[assignment]
    high: ArrayLike  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _set_bounds(self, self.low, self.high)

    def fields(self, model: mujoco.MjModel) -> dict[str, Ids]:
        """The one field."""
        ids, shape = find_objects(model, self.field, self.of), _field_of(model, self.field).shape
        numbers = int(np.prod(shape if self.field.startswith("opt.") else shape[1:]))
        if len(self.low) != numbers:  # type: ignore[arg-type]
            raise ValueError(f"low and high have {len(self.low)} numbers; {self.field} has {numbers}")  # type: ignore[arg-type]
        least = float(np.min(self.low))
        if self.field in POSITIVE and least <= 0:
            raise ValueError(f"low is {least:g}; {self.field} must be above 0")
        if self.field in NOT_NEGATIVE and least < 0:
            raise ValueError(f"low is {least:g}; {self.field} must be at least 0")
        return {self.field: ids}

    def values(self, model: mujoco.MjModel, numbers: Array) -> dict[str, Array]:
        """The numbers themselves."""
        if self.field.startswith("opt."):
            return {self.field: numbers}
        shape = getattr(model, self.field).shape[1:]
        ids = find_objects(model, self.field, self.of)
        return {self.field: np.repeat(numbers.reshape(len(numbers), 1, *shape), len(ids), axis=1)}


def _set_bounds(row: Variation, low: ArrayLike, high: ArrayLike) -> None:
    low, high = (np.atleast_1d(np.asarray(bound)) for bound in (low, high))
    name = type(row).__name__
    if any(bound.dtype.kind not in "fiu" or bound.ndim != 1 or not np.isfinite(bound).all() for bound in (low, high)):
        raise ValueError(f"{name}: low is {low} and high is {high}; they must be numbers, or vectors of numbers")
    low, high = low.astype(np.float64), high.astype(np.float64)
    if low.shape != high.shape:
        raise ValueError(f"{name}: low is {low} and high is {high}; they must have as many numbers")
    if (low > high).any() or (low == high).all():
        raise ValueError(f"{name}: low is {low} and high is {high}; low must be below high, in one number at least")
    object.__setattr__(row, "low", low)
    object.__setattr__(row, "high", high)


class TaskTable(TaskSpace):
    """The space of tasks that a table of variations spans.

    Args:
        rows: by name, which captions and complaints show.

    Raises:
        ValueError: there is no row, or one is no variation.
    """

    def __init__(self, rows: Mapping[str, Variation]):
        if not rows:
            raise ValueError("tasks is empty; it needs a row: something has to differ between tasks")
        for name, row in rows.items():
            if not isinstance(row, Variation):
                raise ValueError(f"tasks[{name!r}] is {row!r}; it must be a Factor, Value, Goal or other Variation")
            if not all(isinstance(getattr(row, bound, None), np.ndarray) for bound in ("low", "high")):
                raise ValueError(f"tasks[{name!r}] has no bounds; {type(row).__name__} must set arrays low and high")
        self.rows = dict(rows)
        super().__init__(*(np.concatenate([getattr(row, bound) for row in rows.values()]) for bound in ("low", "high")))

    def __repr__(self) -> str:
        told = []
        for name, row in self.rows.items():
            ranges = [f"[{low:.4g}, {high:.4g}]" for low, high in zip(row.low, row.high, strict=True)]
            alike = len(ranges) > 1 and len(set(ranges)) == 1
            told.append(f"{name} in {f'{len(ranges)} times {ranges[0]}' if alike else ' x '.join(ranges)}")
        return f"TaskTable({', '.join(told)})"

    def columns(self) -> Iterator[tuple[str, Variation, slice]]:
        """Name, row and place of its numbers in a task."""
        start = 0
        for name, row in self.rows.items():
            yield name, row, slice(start, start := start + len(row.low))

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks, [n, P]."""
        return np.concatenate([row.draw(n, rng) for row in self.rows.values()], axis=1)

    def describe(self, task: ArrayLike) -> str:
        """A task [P] in words."""
        numbers = np.ravel(task)
        return ", ".join(row.describe(name, numbers[place]) for name, row, place in self.columns())

    def accepts(self, tasks: Array) -> Mask:
        """Which of the tasks [n, P] are in the space, [n]."""
        accepted = super().accepts(tasks)
        for _, row, place in self.columns():
            accepted &= row.accepts(tasks[:, place])
        return accepted

    def complaint(self, task: Array) -> str:
        """Which row of the table it is, which of its numbers, and what would be right."""
        beginning = "is not in the task space: "
        for name, row, place in self.columns():
            numbers = task[place]
            for number, (value, low, high) in enumerate(zip(numbers, row.low, row.high, strict=True), start=1):
                if not low <= value <= high:
                    which = f"{name} ({number} of {len(numbers)})" if len(numbers) > 1 else name
                    return f"{beginning}{which} is {value:g}; it must be in [{low:.4g}, {high:.4g}]"
            if not row.accepts(numbers[None])[0]:
                return f"{beginning}{name} is {', '.join(f'{value:g}' for value in numbers)}; {row.wanted()}"
        return beginning.rstrip(": ")


class _Field(NamedTuple):
    """A field that a row of the table sets."""

    name: str
    ids: Ids
    values: Array
    """of all simulations, [N, ...]"""


class VariedModel:
    """The models of a batch's simulations, each with the values of its own task.

    Args:
        table: what varies.
        model: with the values that factors multiply.
        batch: simulations of it.

    Raises:
        ValueError: the model has no such field or object, MuJoCo does not vary the field, or two rows set one value.
    """

    def __init__(self, table: TaskTable, model: mujoco.MjModel, batch: Batch):
        self._table, self._model, self._batch = table, model, batch
        self._fields: dict[str, list[_Field]] = {}
        taken: dict[tuple[str, int], str] = {}
        for name, row, _ in table.columns():
            try:
                fields = row.fields(model)
                self._fields[name] = [_Field(field, ids, batch.expand(field)) for field, ids in fields.items()]
            except (KeyError, ValueError, IndexError) as error:
                raise ValueError(f"tasks[{name!r}]: {error.args[0]}") from error
            for field, ids in fields.items():
                for one in ids.tolist() if ids.size else [-1]:
                    if (field, one) in taken:
                        raise ValueError(
                            f"tasks[{name!r}] sets {_place(model, field, one)}, which tasks[{taken[field, one]!r}]"
                            " sets too"
                        )
                    taken[field, one] = name
        self.varies = bool(taken)

    def apply(self, rows: Ids, tasks: Array) -> None:
        """Give the simulations the values of their tasks, [len(rows), P].

        Raises:
            WrongArgument: a value can be none, such as a negative mass.
        """
        new = []
        for name, row, place in self._table.columns():
            values = row.values(self._model, tasks[:, place])
            for field in self._fields[name]:
                _check_shape(name, field, values, len(rows))
                self._check(name, field, values[field.name], rows, tasks)
                new.append((field, values[field.name]))
        for field, values in new:
            if field.ids.size:
                field.values[rows[:, None], field.ids] = values
            else:
                field.values[rows] = values.reshape(len(rows), *field.values.shape[1:])
        if self.varies:
            self._derive(rows, tasks)

    def _derive(self, rows: Ids, tasks: Array) -> None:
        """Compute what depends on the values that were set."""
        try:
            self._batch.set_const(rows)
        except SimulationError as error:
            row = int(error.ids[0])
            (task,) = tasks[rows == row]
            raise WrongArgument(f"the task {task} of row {row}: MuJoCo refuses it: {self._batch.error(row)}") from error

    def _check(self, name: str, field: _Field, values: Array, rows: Ids, tasks: Array) -> None:
        right, what = np.isfinite(values), "finite"
        if field.name in POSITIVE:
            right, what = right & (values > 0), "positive"
        elif field.name in NOT_NEGATIVE:
            right, what = right & (values >= 0), "at least 0"
        if field.name == "body_inertia" and right.all():
            right = values <= (0.5 + 1e-9) * values.sum(axis=-1, keepdims=True)
            what = "at most the sum of the body's two other moments"
        if right.all():
            return
        row, *where = np.argwhere(~right)[0]
        one = int(field.ids[where[0]]) if field.ids.size else -1
        raise WrongArgument(
            f"the task {tasks[row]} of row {rows[row]}: {name} makes {_place(self._model, field.name, one)}"
            f" {values[(row, *where)]:.4g}; it must be {what}"
        )


def _check_shape(name: str, field: _Field, values: Mapping[str, Array], rows: int) -> None:
    objects = field.ids.shape if field.ids.size else ()
    wanted = (rows, *objects, *field.values.shape[1 + len(objects) :])
    given = np.shape(values.get(field.name, ()))
    if given != wanted if objects else np.prod(given) != np.prod(wanted):
        raise ValueError(
            f"tasks[{name!r}]: values of {rows} tasks have shape {given} for {field.name}; it must be {wanted}"
        )


# Objects of a model.

_KINDS = {
    "body": "BODY",
    "geom": "GEOM",
    "jnt": "JOINT",
    "dof": "JOINT",
    "site": "SITE",
    "actuator": "ACTUATOR",
    "tendon": "TENDON",
}


def find_objects(model: mujoco.MjModel, field: str, of: Names) -> Ids:
    """Places of some objects in a field of the model; none for a field of its options.

    Raises:
        ValueError: there is no such field, or it is not one of objects that have names.
        KeyError: there is no such object.
    """
    _field_of(model, field)
    if any(isinstance(name, bool) or not isinstance(name, (str, int)) for name in _tuple(of)):
        raise ValueError(f"of is {of!r}; it must be a name, a number, or a tuple of these")
    if field.startswith("opt."):
        if _tuple(of):
            raise ValueError(f"{field} is one of all objects; it has none of its own for {of!r}")
        return np.zeros(0, np.intp)
    prefix = field.partition("_")[0]
    if prefix not in _KINDS:
        raise ValueError(f"{field} is none of bodies, geoms, joints, sites, actuators or tendons")
    if not _tuple(of):
        raise ValueError(f"of is empty; it must name the objects whose {field} varies")
    kind = "joint" if prefix in ("jnt", "dof") else prefix
    found: list[int] = []
    for name in _tuple(of):
        one = getattr(model, kind)(name).id
        if prefix == "dof":
            first = int(model.jnt_dofadr[one])
            found += range(first, first + int(np.sum(model.dof_jntid == one)))
        else:
            found.append(one)
    return np.array(found, np.intp)


def _field_of(model: mujoco.MjModel, field: str) -> Array:
    if not isinstance(field, str):
        raise ValueError(f"field is {field!r}; it must be the name of one, such as body_mass")
    if field in COMPUTED:
        raise ValueError(f"{field} is computed from other fields; vary those, such as body_mass")
    if field in SAME_FOR_ALL:
        raise ValueError(f"{field} is the same for all simulations; it cannot vary")
    owner, name = (model.opt, field[4:]) if field.startswith("opt.") else (model, field)
    values = getattr(owner, name, None)
    if not isinstance(values, (np.ndarray, float, int)):
        raise ValueError(f"{field!r} is no field of a MuJoCo model; such are body_mass, dof_damping, opt.gravity")
    values = np.atleast_1d(np.asarray(values))
    if values.dtype.kind != "f":  # how bodies hang together, kinds of objects: MuJoCo trusts them
        raise ValueError(f"{field} holds whole numbers that make the model what it is; it cannot vary")
    return values


def _place(model: mujoco.MjModel, field: str, one: int) -> str:
    kind = _KINDS.get(field.partition("_")[0])
    if one < 0 or kind is None:
        return field
    if field.startswith("dof_"):
        one = int(model.dof_jntid[one])
    name = mujoco.mj_id2name(model, getattr(mujoco.mjtObj, f"mjOBJ_{kind}"), one)
    return f"{field} of {name or one}"


def _tuple(of: Names) -> tuple[str | int, ...]:
    return of if isinstance(of, tuple) else (of,)
