"""The cells of the tables of RL^2, and the numbers that were published with them.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", tables 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium

from mamlrl.config import Config
from mamlrl.envs.making import registered_horizon
from mamlrl.errors import ConfigError, shown, suggestion


class Family(NamedTuple):
    """A family of tasks with algorithms of its own."""

    env: str
    sizes: dict[str, int]
    """arguments of the environment that are its size, as in the paper; the first one tells cells of the table apart"""
    horizon: int
    episodes: tuple[int, ...]
    """n in the paper"""
    first_sizes: tuple[int, ...]
    """the first size in the paper"""
    other_horizons: Mapping[int, int] = {}
    """by the first size, where it is another"""

    def horizon_of(self, sizes: Mapping[str, Any]) -> int:
        """Time steps of an episode, of tasks of some sizes."""
        return self.other_horizons.get(sizes[next(iter(self.sizes))], self.horizon)


MAZE = "maze"
"""The family that nothing was designed for."""
FAMILIES = {
    "bandit": Family("mamlrl/Bandit-v0", {"arms": 5}, 1, (10, 100, 500), (5, 10, 50)),
    "tabular-mdp": Family("mamlrl/TabularMDP-v0", {"states": 10, "actions": 5}, 10, (10, 25, 50, 75, 100), (10,)),
    # The paper does not tell how long an episode may be in its large mazes.
    MAZE: Family("mamlrl/Maze-v0", {"size": 5}, 250, (2,), (5, 9), other_horizons={9: 1000}),
}


class Cell(NamedTuple):
    """A size of tasks, and a number of episodes in each."""

    family: str
    """a name in FAMILIES"""
    episodes: int
    """n"""
    kwargs: tuple[tuple[str, Any], ...]
    """arguments of the environment"""
    horizon: int

    @property
    def size(self) -> int:
        """Arms of a bandit (k), states of an MDP (S), cells along a side of a maze."""
        return dict(self.kwargs)[next(iter(FAMILIES[self.family].sizes))]

    @property
    def tasks(self) -> tuple[Any, ...]:
        """What cells that are played on the same tasks have in common."""
        return self.family, self.kwargs, self.horizon

    @property
    def name(self) -> str:
        """Its column in a table: n where there are several, and what differs from the paper, or tells cells apart."""
        family, given = FAMILIES[self.family], dict(self.kwargs)
        usual = {**family.sizes, "reward": "bernoulli"}
        parts = [f"n={self.episodes}"] if family.episodes != (self.episodes,) else []
        for name, value in given.items():
            if name == "arms":
                parts.append(f"k={value}")
            elif name == "size":
                parts.append(f"{value} x {value}")
            elif value != usual[name]:
                parts.append(f"{name}={value}")
        other = self.horizon != family.horizon_of(given)
        return ", ".join(parts + ([f"horizon={self.horizon}"] if other else []))


def published(cell: Cell) -> dict[str, float]:
    """Published means by method; empty where there are none for such a cell."""
    first, *others = FAMILIES[cell.family].sizes.items()
    values = dict(cell.kwargs)
    usual = all(values[name] == size for name, size in others) and values.get("reward", "bernoulli") == "bernoulli"
    if cell.family not in PUBLISHED or not usual or cell.horizon != FAMILIES[cell.family].horizon:
        return {}
    methods, rows = PUBLISHED[cell.family]
    return dict(zip(methods, rows.get((cell.episodes, values[first[0]]), ()), strict=False))


PUBLISHED: dict[str, tuple[tuple[str, ...], dict[tuple[int, int], tuple[float, ...]]]] = {
    "bandit": (
        ("random", "gittins", "thompson", "ots", "ucb1", "eps-greedy", "greedy", "rl2"),
        {
            (10, 5): (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6, 6.7),
            (10, 10): (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6, 6.7),
            (10, 50): (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5, 6.8),
            (100, 5): (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8, 78.7),
            (100, 10): (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1, 83.5),
            (100, 50): (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0, 84.9),
            (500, 5): (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6, 401.6),
            (500, 10): (249.0, 437.8, 429.5, 438.9, 437.1, 408.0, 395.0, 432.5),
            (500, 50): (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8, 438.9),
        },
    ),
    "tabular-mdp": (
        ("random", "psrl", "opsrl", "ucrl2", "beb", "eps-greedy", "greedy", "rl2"),
        {
            (10, 10): (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8, 156.2),
            (25, 10): (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8, 445.7),
            (50, 10): (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3, 936.1),
            (75, 10): (749.9, 1417.1, 1449.2, 1427.6, 1422.6, 1293.9, 1172.9, 1428.8),
            (100, 10): (999.4, 1939.5, 1973.9, 1942.1, 1935.1, 1778.2, 1578.5, 1913.7),
        },
    ),
}
"""Methods, and their means over 1000 instances by n and the first size."""


def paper_cells(family: str | None = None) -> list[Cell]:
    """Cells of a family in the paper's tables, or those of all that have algorithms of their own."""
    cells = []
    for name, row in FAMILIES.items():
        if name == family or (family is None and name != MAZE):
            sizes = [{**row.sizes, next(iter(row.sizes)): size} for size in row.first_sizes]
            cells += [Cell(name, n, tuple(one.items()), row.horizon_of(one)) for n in row.episodes for one in sizes]
    return cells


def parse_cell(text: str) -> list[Cell]:
    """`bandit:n=20,k=3`, `tabular-mdp:n=10,states=5`, `maze:size=7` as a cell; `bandit` alone as all of the paper's.

    `k` is short for `arms`; what is not given is as in the paper, but n, of which the paper has several.

    Raises:
        ConfigError: names what is wrong.
    """
    name, _, listed = text.partition(":")
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError(f"--cell {shown(text)}: there is no family {name!r}; it must be one of {known}")
    if not listed:
        return paper_cells(name)
    family = FAMILIES[name]
    values: dict[str, Any] = {}
    for pair in listed.split(","):
        key, equals, value = pair.partition("=")
        known = ["n", *family.sizes, "horizon", *(["k", "reward"] if name == "bandit" else [])]
        if key not in known or not equals:
            rule = f"must be one of {', '.join(known)} with = and a value{suggestion(key, known)}"
            raise ConfigError(f"--cell {shown(text)}: {shown(pair)} {rule}")
        values["arms" if key == "k" else key] = value if key == "reward" else _count(text, key, value)
    episodes = values.pop("n", family.episodes[0] if len(family.episodes) == 1 else None)
    horizon = values.pop("horizon", family.horizon_of({**family.sizes, **values}))
    if episodes is None:
        raise ConfigError(f"--cell {shown(text)}: n, the number of episodes, is missing")
    if values.get("reward") == "bernoulli":
        del values["reward"]
    cell = Cell(name, episodes, tuple({**family.sizes, **values}.items()), horizon)
    try:
        gymnasium.make_vec(family.env, 1, **dict(cell.kwargs)).close()
    except ValueError as error:
        raise ConfigError(f"--cell {shown(text)}: {error}") from error
    return [cell]


def _count(text: str, key: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"--cell {shown(text)}: {key} is {shown(value)}; it must be a whole number of at least 1")
    return number


def cell_of(config: Config) -> Cell | None:
    """The cell that a run was trained for, if its environment is one of FAMILIES."""
    for name, family in FAMILIES.items():
        if config.env == family.env:
            kwargs = {**family.sizes, **config.environment.kwargs}
            if name == MAZE:  # all play the same mazes, each with the pictures, steps and turns of its training
                kwargs = {size: kwargs[size] for size in family.sizes}
            if kwargs.get("reward") == "bernoulli":
                del kwargs["reward"]
            horizon = config.environment.horizon or registered_horizon(config.env)
            assert horizon
            return Cell(name, config.sampling.episodes, tuple(kwargs.items()), horizon)
    return None
