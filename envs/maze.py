"""Mazes seen from within: find a target, and remember the way to it.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.3.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .argument_checks import check_choice, check_count, check_flag, check_number
from .base import Array, Infos, Mask, TaskEnv, TaskSpace, TaskVectorEnv
from .maze_layouts import distances, draw_layouts, is_test_layout, reachable, squares
from .maze_pictures import View, draw_maze

LEFT, RIGHT, FORWARD = range(3)
MARGIN = 0.15
"""How near one comes to a wall that is ahead, in cells."""
REACH = 0.4
"""How near one has to come to the target, in cells."""
SIDES = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
"""Where the cells next to one are, in x and y."""
STEP_REWARD = -0.04
AROUND = 4
"""Cells to each side of which `unseen` tells."""
ODOMETER = 0.25
"""What the odometer counts a cell."""
MOST_DRAWS = 200
"""A split of which so many layouts hold none is taken for empty."""

Split = Literal["all", "train", "test"]


class MazeSpace(TaskSpace):
    """Mazes with a target and a start, as task vectors.

    A vector holds whether there is a wall between cells that are next to each other, first in rows [S, S - 1], then in
    columns [S - 1, S]; row and column of the target; row and column of the start; and the direction at the start in
    quarter turns: 0 along the columns, 1 along the rows.

    Args:
        size: S, cells of a side.
        loops: probability that a wall which is not needed for a perfect maze is left out.
        split: of which layouts tasks are drawn.
        smallest: cells of a side of the smallest mazes that are drawn, which lie within the larger square; None for S.

    Raises:
        ValueError: no such layout is of the split, or hardly one.
    """

    def __init__(self, size: int, loops: float, split: Split, smallest: int | None = None):
        self.size, self._loops, self._split = size, loops, split
        self._smallest = size if smallest is None else smallest
        self.inner = 2 * size * (size - 1)
        last = size - 1
        super().__init__(np.zeros(self.inner + 5), np.concatenate([np.ones(self.inner), [last] * 4, [3]]))
        rng = np.random.default_rng(0)
        if not any(len(self._layouts(1, rng)[0]) for _ in range(MOST_DRAWS)):
            raise ValueError(
                f"split is {split!r}, of which there are no mazes with size {size} and loops {loops}; it must be "
                "'all', or size larger, or loops smaller"
            )

    def walls(self, tasks: Array) -> tuple[Mask, Mask]:
        """Where there are walls, the outer ones too.

        Returns:
            Of tasks [N, P] those that bound cells to the left and right, [N, S, S + 1], and above and below,
            [N, S + 1, S].
        """
        n, size = len(tasks), self.size
        upright, level = np.ones((n, size, size + 1), bool), np.ones((n, size + 1, size), bool)
        half = self.inner // 2
        upright[:, :, 1:-1] = tasks[:, :half].reshape(n, size, size - 1) > 0.5
        level[:, 1:-1] = tasks[:, half : self.inner].reshape(n, size - 1, size) > 0.5
        return upright, level

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks, [n, P]: a layout of the split, and two different cells and a direction, all equally likely."""
        layouts, inside = np.zeros((0, self.inner)), np.zeros((0, self.size**2), bool)
        while len(layouts) < n:
            walls, cells = self._layouts(2 * n, rng)
            layouts, inside = np.concatenate([layouts, walls.astype(np.float64)]), np.concatenate([inside, cells])
        order = np.where(inside[:n], rng.random((n, self.size**2)), 2.0).argsort(axis=1)
        target, start = order[:, 0], order[:, 1]
        places = np.stack([*divmod(target, self.size), *divmod(start, self.size), rng.integers(4, size=n)], axis=1)
        return np.concatenate([layouts[:n], places.astype(np.float64)], axis=1)

    def _layouts(self, n: int, rng: np.random.Generator) -> tuple[Mask, Mask]:
        """Those of n layouts that are of the split: walls [at most n, 2 S (S - 1)], and cells that they hold."""
        cells = squares(n, self.size, self._smallest, rng)
        walls = draw_layouts(cells, self._loops, rng)
        test = is_test_layout(walls)
        wanted = {"all": test | ~test, "train": ~test, "test": test}[self._split]
        return walls[wanted], cells[wanted]

    def accepts(self, tasks: Array) -> Mask:
        """Which of the tasks [N, P] are mazes whose target can be reached from another cell, the start, [N]."""
        whole = super().accepts(tasks) & (tasks == np.floor(tasks)).all(axis=1)
        usable = np.where(whole[:, None], tasks, 0.0)
        places = usable[:, self.inner :].astype(np.intp)
        from_start = reachable(*self.walls(usable), places[:, 2], places[:, 3])
        apart = (places[:, 0] != places[:, 2]) | (places[:, 1] != places[:, 3])
        return whole & apart & from_start[np.arange(len(tasks)), places[:, 0], places[:, 1]]

    def describe(self, task: ArrayLike) -> str:
        """Where the target and the start are, in rows and columns from 0."""
        row, column, start_row, start_column, _ = np.ravel(task)[self.inner :].astype(int)
        return f"target ({row}, {column}), start ({start_row}, {start_column})"

    def __repr__(self) -> str:
        return f"MazeSpace({self.size} x {self.size})"


class MazeVectorEnv(TaskVectorEnv):
    """N mazes in lock step; see `MazeEnv` for the environment."""

    task_space: MazeSpace

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,  # of a simulator; numpy needs none
        *,
        size: int = 5,
        loops: float = 0.2,
        split: Split = "train",
        height: int = 15,
        width: int = 20,
        move: float = 0.5,
        turn: float = 30.0,
        smallest: int | None = None,
        odometry: bool = False,
        crumbs: bool = False,
        unseen: bool = False,
    ):
        for name, value, least in (("size", size, 2), ("height", height, 1), ("width", width, 2)):
            check_count(name, value, least)
        if smallest is not None:
            check_count("smallest", smallest, 2)
            if smallest > size:
                raise ValueError(f"smallest is {smallest}; it must be at most size, {size}")
        for name, number in (("loops", loops), ("move", move), ("turn", turn)):
            check_number(name, number)
        for name, flag in (("odometry", odometry), ("crumbs", crumbs), ("unseen", unseen)):
            check_flag(name, flag)
        if not 0 <= loops <= 1:
            raise ValueError(f"loops is {loops}; it must be a probability, between 0 and 1")
        check_choice("split", split, get_args(Split))
        if not 0 < move <= 0.5:
            raise ValueError(f"move is {move}; it must be above 0 and at most 0.5 cells")
        if not 0 < turn <= 180:
            raise ValueError(f"turn is {turn}; it must be above 0 and at most 180 degrees")
        self.picture_shape = height, width, 3
        pixels, most = height * width * 3, ODOMETER * (size - 1) * np.sqrt(2.0)
        marks = 4 * crumbs + (2 * AROUND + 1) ** 2 * unseen
        low = np.concatenate([np.zeros(pixels), [-most, -most, -1.0, -1.0] * odometry, np.zeros(marks)])
        high = np.concatenate([np.ones(pixels), [most, most, 1.0, 1.0] * odometry, np.ones(marks)])
        super().__init__(
            observation_space=spaces.Box(low, high, dtype=np.float64),
            action_space=spaces.Discrete(3),
            task_space=MazeSpace(size, loops, split, smallest),
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
        )
        self._move, self._turn, self._view = move, np.deg2rad(turn), View(height, width)
        self._upright, self._level = self.task_space.walls(np.zeros((num_envs, self.task_space.inner + 5)))
        self._targets, self._positions = np.zeros((2, num_envs, 2))  # x along the columns, y along the rows
        self._headings = np.zeros(num_envs)
        self._odometry, self._starts = odometry, np.zeros((num_envs, 3))  # x, y, heading
        self._crumbs, self._unseen = crumbs, unseen
        self._mapped = np.full((num_envs, self.task_space.inner + 5), np.nan)  # the tasks of these:
        self._distances = np.zeros((num_envs, size, size))
        self._left, self._way_angle = np.zeros((2, num_envs))
        self._entered = np.zeros((num_envs, size, size))
        wide = size + 2 * AROUND
        self._hidden = np.zeros((num_envs, wide, wide), bool)  # with AROUND cells more on each side, never marked
        self._pictures = np.zeros((num_envs, height * width * 3))
        self._paths: list[list[Array]] = [[] for _ in range(num_envs)]  # only kept to be drawn

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        tasks = self.tasks[rows]
        self._upright[rows], self._level[rows] = self.task_space.walls(tasks)
        row, column, start_row, start_column, quarter = tasks[:, self.task_space.inner :].T
        self._targets[rows] = np.stack([column, row], axis=1) + 0.5
        self._positions[rows] = np.stack([start_column, start_row], axis=1) + 0.5
        self._headings[rows] = quarter * np.pi / 2
        self._starts[rows] = np.column_stack([self._positions[rows], self._headings[rows]])
        new = rows[(self._mapped[rows] != tasks).any(axis=1)]  # and not where another episode of a trial begins
        if len(new):
            target_rows, target_columns = self._targets[new, ::-1].T.astype(np.intp)
            self._distances[new] = distances(self._upright[new], self._level[new], target_rows, target_columns)
            self._mapped[new] = self.tasks[new]
        self._left[rows], self._way_angle[rows] = self._way(rows)
        self._entered[rows] = 0.0
        self._enter(rows)
        self._hidden[rows, AROUND:-AROUND, AROUND:-AROUND] = np.isfinite(self._distances[rows])
        self._look(rows)
        if self.render_mode is not None:
            for one in rows:
                self._paths[one] = [self._positions[one].copy()]

    def _advance(self, actions: NDArray[Any], rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        some = np.arange(self.num_envs) if rows is None else rows
        hit, reached = np.zeros((2, self.num_envs), bool)
        self._headings[some] += self._turn * (1.0 * (actions[some] == RIGHT) - (actions[some] == LEFT))
        walking, before = some[actions[some] == FORWARD], self._positions.astype(np.intp)
        hit[walking] = self._walk(walking)
        self._enter(walking[(self._positions.astype(np.intp) != before).any(axis=1)[walking]])
        offsets = self._positions - self._targets
        reached[some] = (np.square(offsets).sum(axis=1) < REACH**2)[some]
        left = self._left.copy()
        self._left[some], self._way_angle[some] = self._way(some)
        self._left[reached] = 0.0
        self._look(some)
        if self.render_mode is not None:
            for one in some:
                self._paths[one].append(self._positions[one].copy())
        rewards = reached + STEP_REWARD - 0.001 * hit
        shaped = rewards - STEP_REWARD * (left - self._left)
        return rewards, reached, {"success": reached.astype(np.float64), "shaped_reward": shaped, **self._known()}

    def _walk(self, rows: NDArray[np.intp]) -> Mask:
        """Move rows [R] forward as far as walls let them, along x and then along y; whether they hit one, [R]."""
        heading = self._headings[rows]
        x, y = self._positions[rows].T
        wanted_x = x + self._move * np.cos(heading)
        new_x = _stopped(x, wanted_x, self._upright[rows, y.astype(np.intp)])
        wanted_y = y + self._move * np.sin(heading)
        columns = np.take_along_axis(self._level[rows], new_x.astype(np.intp)[:, None, None], axis=2)[:, :, 0]
        new_y = _stopped(y, wanted_y, columns)
        self._positions[rows] = np.stack([new_x, new_y], axis=1)
        return (new_x != wanted_x) | (new_y != wanted_y)

    def _enter(self, rows: NDArray[np.intp]) -> None:
        """Count that rows [R] have come into their cells."""
        column, row = self._positions[rows].T.astype(np.intp)
        self._entered[rows, row, column] += 1.0

    def _look(self, rows: NDArray[np.intp]) -> None:
        """Take pictures of rows [R], and cross off the cells that they show."""
        walls = self._upright[rows], self._level[rows]
        views = self._view.take(*walls, self._positions[rows], self._headings[rows], self._targets[rows])
        self._pictures[rows] = views.reshape(len(rows), self._pictures.shape[1])
        if self._unseen:
            self._cross_off(rows)

    def _cross_off(self, rows: NDArray[np.intp]) -> None:
        """Of rows [R] the cells where they are, and those whose middles are in their pictures, are hidden no more."""
        column, row = self._positions[rows].T.astype(np.intp)
        self._hidden[rows, row + AROUND, column + AROUND] = False
        which, row, column = np.nonzero(self._hidden[rows, AROUND:-AROUND, AROUND:-AROUND])
        one, middles = rows[which], np.stack([column, row], axis=1).astype(np.float64) + 0.5
        ahead = self._view.faces(self._positions[one], self._headings[one], middles)
        one, middles = one[ahead], middles[ahead]
        clear = self._view.reaches(self._upright[one], self._level[one], self._positions[one], middles)
        column, row = middles[clear].T.astype(np.intp) + AROUND
        self._hidden[one[clear], row, column] = False

    def _quarters(self) -> NDArray[np.intp]:
        """The quarter turn that is nearest to where one looks, [N]."""
        return np.rint(self._headings / (np.pi / 2)).astype(np.intp)

    def _been(self) -> Array:
        """How often cells ahead, on the right, behind and on the left have been entered, as 1 - 1 / (1 + n), [N, 4]."""
        rows = np.arange(self.num_envs)
        crumbs = np.where(self._walls_beside(rows), np.inf, self._beside(self._entered, rows))
        sides = (self._quarters()[:, None] + np.arange(4)) % 4
        return 1.0 - 1.0 / (1.0 + np.take_along_axis(crumbs, sides, axis=1))

    def _hidden_around(self) -> Array:
        """Which cells around are hidden, from the farthest ahead to behind and from the left to the right, [N, 81]."""
        ahead = SIDES[self._quarters() % 4][:, None, None]
        right = np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
        steps = np.arange(-AROUND, AROUND + 1)[:, None]
        cells = self._positions.astype(np.intp)[:, None, None] + AROUND - steps[:, None] * ahead + steps * right
        hidden = self._hidden[np.arange(self.num_envs)[:, None, None], cells[..., 1], cells[..., 0]]
        return hidden.reshape(self.num_envs, -1).astype(np.float64)

    def _walls_beside(self, rows: NDArray[np.intp]) -> Mask:
        """Whether there are walls on the four sides of where rows [R] are, [R, 4]."""
        column, row = self._positions[rows].T.astype(np.intp)
        upright, level = self._upright[rows, row], self._level[rows, :, column]
        some = np.arange(len(rows))
        return np.stack(
            [upright[some, column + 1], level[some, row + 1], upright[some, column], level[some, row]], axis=1
        )

    def _beside(self, numbers: Array, rows: NDArray[np.intp]) -> Array:
        """Numbers [N, S, S] of the cells on the four sides of where rows [R] are, [R, 4]; beyond the border, any."""
        cells = np.clip(self._positions[rows].astype(np.intp)[:, None] + SIDES, 0, self.task_space.size - 1)
        return numbers[rows[:, None], cells[..., 1], cells[..., 0]]

    def _known(self) -> Infos:
        """What one who knows the maze and remembers the way could tell, [N] each: numbers for a memory to predict."""
        ahead, aside = ODOMETER * _turned(self._targets - self._positions, self._headings)
        x, y = ODOMETER * _turned(self._targets - self._starts[:, :2], self._starts[:, 2])
        places = dict(zip(("been_ahead", "been_right", "been_behind", "been_left"), self._been().T, strict=True))
        way = {"way_ahead": np.cos(self._way_angle), "way_aside": np.sin(self._way_angle)}
        return {"target_ahead": ahead, "target_aside": aside, "target_x": x, "target_y": y, **way, **places}

    def _way(self, rows: NDArray[np.intp]) -> tuple[Array, Array]:
        """The way to the target for one who knows the maze, of rows [R].

        Returns:
            About how many time steps it takes, those of the shortest way from the middle of a cell to that of the next
            and of turning to the first of them, [R]; and how far that is to the right, in radians, [R].
        """
        column, row = self._positions[rows].T.astype(np.intp)
        further = np.where(self._walls_beside(rows), np.inf, self._beside(self._distances, rows))
        here = self._distances[rows, row, column] == 0
        side, some = further.argmin(axis=1), np.arange(len(rows))
        middles = np.stack([column, row], axis=1) + SIDES[side] + 0.5
        onward = np.where(here[:, None], self._targets[rows], middles) - self._positions[rows]
        cells = np.where(here, 0.0, further[some, side]) + np.hypot(*onward.T)
        angle = np.arctan2(onward[:, 1], onward[:, 0]) - self._headings[rows]
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        return np.maximum(cells - REACH, 0.0) / self._move + np.abs(angle) / self._turn, angle

    def _observe(self) -> Array:
        seen = [self._pictures]
        if self._odometry:
            seen.append(self._walked())
        if self._crumbs:
            seen.append(self._been())
        if self._unseen:
            seen.append(self._hidden_around())
        return np.concatenate(seen, axis=1)

    def _walked(self) -> Array:
        """Where one is, and which way one looks, as seen from the start, [N, 4]."""
        start = self._starts[:, 2]
        ahead, aside = ODOMETER * _turned(self._positions - self._starts[:, :2], start)
        turned = self._headings - start
        return np.stack([ahead, aside, np.cos(turned), np.sin(turned)], axis=1)

    def _draw_row(self, row: int) -> NDArray[np.uint8]:
        return draw_maze(
            self._pictures[row].reshape(self.picture_shape),
            (self._upright[row], self._level[row]),
            np.array(self._paths[row]),
            float(self._headings[row]),
            self._targets[row],
        )


def _turned(vectors: Array, headings: Array) -> Array:
    """How far vectors [R, 2] go along headings [R], and how far to the right of them, [2, R]."""
    (x, y), cos, sin = vectors.T, np.cos(headings), np.sin(headings)
    return np.stack([cos * x + sin * y, cos * y - sin * x])


def _stopped(start: Array, wanted: Array, walls: Mask) -> Array:
    """Where moves of less than a cell along an axis end, [R].

    Args:
        start: before the move, [R].
        wanted: after it, if nothing is in the way, [R].
        walls: at each of the lines between cells along the axis, [R, S + 1].
    """
    rows, cell = np.arange(len(start)), start.astype(np.intp)
    ahead = walls[rows, cell + 1] & (wanted > start)
    behind = walls[rows, cell] & (wanted < start)
    # One who has come along a wall may be nearer to it already.
    wanted = np.where(ahead, np.minimum(wanted, np.maximum(cell + 1 - MARGIN, start)), wanted)
    return np.where(behind, np.maximum(wanted, np.minimum(cell + MARGIN, start)), wanted)


class MazeEnv(TaskEnv):
    """Find a target in a maze that is seen from within.

    ## Description
    One stands in a maze of square cells and sees a small picture of what is ahead: walls, whose colours tell places
    apart, and a green pillar, the target, if no wall hides it. Tasks differ in the layout, and in where target and
    start are. In the RL^2 paper a trial has two episodes: who remembers the way is faster in the second.

    ## Action Space
    `Discrete(3)`

    | Num | Action |
    |---|---|
    | 0 | turn left |
    | 1 | turn right |
    | 2 | walk ahead, as far as walls let one; along a wall one slides |

    ## Observation Space
    `Box(0, 1, (height * width * 3,), float64)`: a picture [height, width, 3], row by row, of red, green and blue. With
    `odometry` four numbers follow, as seen from the start: how far ahead and to the right of it one is, a quarter for a
    cell, and the cosine and sine of how far one has turned since. With `crumbs` the next four tell how often one has
    come into the cells ahead, on the right, behind and on the left in this episode, as 1 - 1 / (1 + n), and 1 where a
    wall is in between: as if one dropped crumbs, and saw them from nearby. With `unseen` 81 numbers follow, of the
    9 x 9 cells around one, from ahead to behind and from the left to the right: 1 for a cell of the maze that one has
    not been in, and whose middle has not been in a picture, in this episode, else 0. It is a map of the maze's outline
    on which one crosses off what one has seen. Both go by the quarter turn that is nearest to where one looks.

    ## Rewards
    -0.04 in each time step, another -0.001 for hitting a wall, and 1 for reaching the target.
    `info["success"]` is 1 when it is reached. `info["shaped_reward"]` is the reward, and 0.04 for each time step by
    which the target has come nearer for one who knows the maze: a difference of potentials, which changes no optimal
    policy (Ng, Harada, Russell 1999), so that `rl2` may learn from it (`sampling.reward_info`).

    Further numbers of the info are for a memory to learn to tell (`sampling.predicted_infos`), of each time step after
    the move: `target_ahead` and `target_aside`, how far ahead and to the right the target is, `target_x` and `target_y`
    the same as seen from the start, a quarter for a cell as with the odometer; `way_ahead` and `way_aside`, cosine and
    sine of how far to the right the shortest way to it goes on; and `been_ahead`, `been_right`, `been_behind` and
    `been_left`, as `crumbs` tell.

    ## Starting State
    The middle of the start's cell, in the direction of the task.

    ## Episode End
    Terminated within 0.4 cells of the target. Truncated after 250 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `size` | int | 5 | cells of a side (S) |
    | `loops` | float | 0.2 | probability that a wall which a perfect maze has is left out; 0 for perfect mazes |
    | `split` | str | `"train"` | layouts that tasks are drawn of: `"train"`, `"test"` (a fifth of all) or `"all"` |
    | `height`, `width` | int | 15, 20 | of the picture (pixels) |
    | `move` | float | 0.5 | length of a step (cells) |
    | `turn` | float | 30 | angle of a turn (degrees) |
    | `smallest` | int or None | None | cells of a side of the smallest mazes; None for `size` alone |
    | `odometry` | bool | False | the observation tells where one is as seen from the start, too |
    | `crumbs` | bool | False | the observation tells how often the cells around have been entered, too |
    | `unseen` | bool | False | the observation tells which of the cells around have not been seen, too |

    With `smallest` the side is uniform between that and `size`, and a smaller maze lies anywhere within the square.

    The task is a vector [2 S (S - 1) + 5], given by `reset(options={"task": task})`, as `MazeSpace` describes it. Any
    layout is accepted in which the target can be reached.

    ## Version History
    * v0: first version.
    """

    vector_class = MazeVectorEnv
