"""Mazes: layouts, walking, and what is seen, against slow computations."""

from __future__ import annotations

import numpy as np
import pytest

from mamlrl.envs.maze import FORWARD, LEFT, MARGIN, REACH, RIGHT, MazeSpace
from mamlrl.envs.maze_layouts import distances, is_test_layout, reachable, spanning_trees
from mamlrl.envs.maze_pictures import CEILING, FLOOR, GREEN, View, nearest_walls
from tests.envs.making import make, make_vec

OPEN = np.zeros(12)
"""No walls within 3 x 3 cells."""


def maze(walls: np.ndarray, target: tuple[int, int], start: tuple[int, int], quarter: int = 0) -> np.ndarray:
    return np.concatenate([walls, target, start, [quarter]])


def walled(*numbers: int) -> np.ndarray:
    """Some of the walls within 3 x 3 cells: 0 to 5 to the right of (0, 0), (0, 1), (1, 0), ..., 6 to 11 below cells."""
    walls = OPEN.copy()
    walls[list(numbers)] = 1.0
    return walls


def started(task: np.ndarray, **kwargs: object):
    env = make("mamlrl/Maze-v0", size=3, **kwargs).unwrapped
    env.reset(seed=0, options={"task": task})
    return env


def place(env) -> list[float]:
    return env._rows._positions[0].tolist()


@pytest.mark.parametrize("size", [2, 5, 9])
def test_perfect_mazes_have_one_way_between_any_two_cells(size):
    walls = spanning_trees(np.random.default_rng(0).random((50, 2 * size * (size - 1))), size)
    assert ((~walls).sum(axis=1) == size**2 - 1).all()  # a graph that is connected with as few edges is a tree
    tasks = np.concatenate([walls.astype(np.float64), np.zeros((50, 5))], axis=1)
    upright, level = MazeSpace(size, 0.0, "all").walls(tasks)
    assert reachable(upright, level, np.zeros(50, int), np.zeros(50, int)).all()
    assert len(np.unique(walls, axis=0)) > (30 if size > 2 else 3)


def test_loops_are_walls_left_out():
    rng = np.random.default_rng(0)
    space = MazeSpace(5, 0.25, "all")
    kept = space.draw(400, rng)[:, : space.inner].sum(axis=1)
    assert kept.mean() == pytest.approx(0.75 * (40 - 24), abs=0.3)
    assert not MazeSpace(5, 1.0, "all").draw(5, rng)[:, :40].any()


def test_smaller_mazes_lie_within_larger_squares():
    rng = np.random.default_rng(0)
    space = MazeSpace(4, 0.0, "all", smallest=2)
    tasks = space.draw(600, rng)
    assert space.accepts(tasks).all()
    places = tasks[:, space.inner :].astype(int)
    found = reachable(*space.walls(tasks), places[:, 2], places[:, 3])
    assert set(found.sum(axis=(1, 2))) == {4, 9, 16}  # squares of 2, 3 and 4 cells a side, nothing around them
    counts = [(found.sum(axis=(1, 2)) == cells).mean() for cells in (4, 9, 16)]
    assert counts == pytest.approx([1 / 3] * 3, abs=0.06)
    rows, columns = found.any(axis=2).sum(axis=1), found.any(axis=1).sum(axis=1)
    assert (rows == columns).all() and (rows**2 == found.sum(axis=(1, 2))).all()
    open_walls = (1 - tasks[:, : space.inner]).reshape(600, -1)
    ends_of = np.argwhere(found.reshape(600, -1))  # a perfect maze within: one edge less than cells
    inside = np.zeros((600, 16), bool)
    inside[ends_of[:, 0], ends_of[:, 1]] = True
    cells = np.arange(16).reshape(4, 4)
    ends = np.concatenate(
        [
            np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], 1),
            np.stack([cells[:-1].ravel(), cells[1:].ravel()], 1),
        ]
    )
    within = inside[:, ends].all(axis=2)
    assert ((open_walls * within).sum(axis=1) == inside.sum(axis=1) - 1).all()
    assert len(np.unique(places[:, :2], axis=0)) == 16 and len(np.unique(places[:, 2:4], axis=0)) == 16
    with pytest.raises(ValueError, match="smallest is 6; it must be at most size, 5"):
        make("mamlrl/Maze-v0", smallest=6)
    with pytest.raises(ValueError, match=r"split is 'train', of which there are no mazes with size 5 and loops 1"):
        make("mamlrl/Maze-v0", loops=1.0)


def test_layouts_of_training_and_test_are_apart():
    rng = np.random.default_rng(0)
    train, test, both = (MazeSpace(3, 0.1, split).draw(600, rng)[:, :12] for split in ("train", "test", "all"))
    assert not is_test_layout(train > 0).any() and is_test_layout(test > 0).all()
    assert is_test_layout(both > 0).mean() == pytest.approx(0.2, abs=0.08)
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}


def test_which_tasks_are_mazes():
    space = MazeSpace(3, 0.0, "all")
    good = maze(OPEN, (2, 2), (0, 0), 3)
    closed = maze(walled(0, 6), (2, 2), (0, 0))  # around the start
    wrong = [
        closed,
        maze(OPEN, (1, 1), (1, 1)),
        maze(OPEN + 0.5, (2, 2), (0, 0)),
        maze(OPEN, (3, 0), (0, 0)),
        good * np.nan,
    ]
    assert space.accepts(np.stack([good, *wrong])).tolist() == [True] + [False] * 5
    assert space.accepts(space.draw(200, np.random.default_rng(0))).all()
    with pytest.raises(ValueError, match=r"of row 0 is not in the task space MazeSpace\(3 x 3\)"):
        started(closed)


def test_walking_and_turning():
    env = started(maze(OPEN, (2, 2), (0, 0)), move=0.4, turn=90.0)
    assert place(env) == [0.5, 0.5]
    _, reward, terminated, _, info = env.step(FORWARD)
    np.testing.assert_allclose(place(env), [0.9, 0.5])
    assert (reward, terminated, info["success"]) == (pytest.approx(-0.04), False, 0.0)
    env.step(RIGHT)  # from along the columns to along the rows, which go down
    env.step(FORWARD)
    np.testing.assert_allclose(place(env), [0.9, 0.9])
    for _ in range(2):
        env.step(LEFT)
    reward = [env.step(FORWARD)[1] for _ in range(3)][-1]
    np.testing.assert_allclose(place(env), [0.9, MARGIN])
    assert reward == pytest.approx(-0.041)


def test_walls_are_slid_along_and_stop_one():
    env = started(maze(walled(0), (2, 2), (0, 0)), move=0.5, turn=45.0)
    assert env.step(FORWARD)[1] == pytest.approx(-0.041)
    np.testing.assert_allclose(place(env), [1 - MARGIN, 0.5])
    env.step(RIGHT)
    env.step(FORWARD)
    np.testing.assert_allclose(place(env), [1 - MARGIN, 0.5 + np.sqrt(0.125)])
    env.step(FORWARD)  # the wall still
    env.step(FORWARD)  # past it
    assert place(env)[0] > 1


def test_nobody_walks_through_walls():
    envs = make_vec("mamlrl/Maze-v0", num_envs=200, size=5, height=1, width=2, turn=37.0)
    envs.reset(seed=0)
    rows, rng = envs.unwrapped, np.random.default_rng(0)
    cells = rows._positions.astype(int)
    moved = 0
    for _ in range(120):
        envs.step(rng.choice(3, p=[0.15, 0.15, 0.7], size=200))
        reached = rows._positions.astype(int)
        assert (rows._positions > 0).all() and (rows._positions < 5).all()
        for n in np.flatnonzero((reached != cells).any(axis=1)):
            (x, y), (new_x, new_y) = cells[n], reached[n]
            assert abs(new_x - x) <= 1 and abs(new_y - y) <= 1
            assert new_x == x or not rows._upright[n, y, max(x, new_x)]
            assert new_y == y or not rows._level[n, max(y, new_y), new_x]
            moved += 1
        cells = reached
    assert moved > 1000


def test_the_target_ends_the_episode():
    env = started(maze(OPEN, (0, 2), (0, 0)), move=0.5)
    steps = [env.step(FORWARD) for _ in range(4)]
    assert [step[1] for step in steps] == pytest.approx([-0.04, -0.04, -0.04, 0.96])
    assert [step[2] for step in steps] == [False, False, False, True] and steps[-1][4]["success"] == 1.0
    assert REACH < 0.5  # the third step ends half a cell before it


def test_rays_meet_the_walls_that_small_steps_meet():
    rng = np.random.default_rng(0)
    space = MazeSpace(4, 0.2, "all")
    upright, level = space.walls(space.draw(6, rng))
    positions, angles = rng.uniform(0.2, 3.8, (6, 2)), rng.uniform(0, 2 * np.pi, (6, 7))
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    found, colors = nearest_walls(upright, level, positions, rays)
    assert colors.shape == (6, 7, 3) and (found < 6).all()
    step = 1e-3
    for n in range(6):
        for ray in range(7):
            place, walked = positions[n], 0.0
            while True:
                onward = place + step * rays[n, ray]
                (x, y), (new_x, new_y) = np.floor(place).astype(int), np.floor(onward).astype(int)
                if (new_x != x and upright[n, y, max(x, new_x)]) or (new_y != y and level[n, max(y, new_y), x]):
                    break
                place, walked = onward, walked + step
            assert found[n, ray] == pytest.approx(walked, abs=2 * step)


def test_what_is_seen():
    view = View(15, 21)
    upright, level = MazeSpace(3, 0.0, "all").walls(np.stack([maze(OPEN, (1, 2), (1, 0))] * 4))
    upright[1, 1, 1] = True  # right in front of it
    positions, targets = np.full((4, 2), (0.5, 1.5)), np.full((4, 2), (2.5, 1.5))
    headings = np.array([0.0, 0.0, np.pi, np.pi / 2])
    pictures = view.take(upright, level, positions, headings, targets)
    assert pictures.shape == (4, 15, 21, 3) and pictures.min() >= 0 and pictures.max() <= 1

    def is_green(picture):
        return np.abs(picture / picture.max() - GREEN / GREEN.max()).max() < 0.01

    assert [is_green(picture[7, 10]) for picture in pictures] == [True, False, False, False]
    assert not is_green(pictures[0, 7, 0]) and not is_green(pictures[0, 0, 10])
    for colour in (CEILING, FLOOR):  # the walls' colours alone differ
        at = (pictures[0] == colour).all(axis=-1)
        assert at.any() and (at == at[:, ::-1]).all()

    def height(picture):  # of the wall in the middle column
        return ((picture[:, 10] != CEILING) & (picture[:, 10] != FLOOR)).all(axis=-1).sum()

    assert height(pictures[1]) > height(pictures[3]) > 0  # half a cell away, and a cell and a half


def test_only_rows_that_move_are_seen_anew():
    envs = make_vec("mamlrl/Maze-v0", num_envs=3, size=3)
    first, _ = envs.reset(seed=0)
    moved = envs.step(np.array([LEFT, RIGHT, LEFT]))[0]
    assert (moved != first).any(axis=1).all()
    again, _ = envs.reset(options={"reset_mask": np.array([True, False, True]), "task": envs.unwrapped.tasks})
    np.testing.assert_array_equal(again, np.stack([first[0], moved[1], first[2]]))


def test_the_shortest_ways_are_those_of_a_search_cell_by_cell():
    space = MazeSpace(5, 0.2, "all")
    tasks = space.draw(20, np.random.default_rng(0))
    upright, level = space.walls(tasks)
    rows, columns = tasks[:, space.inner : space.inner + 2].astype(int).T
    found = distances(upright, level, rows, columns)
    for n in range(20):
        known, border = {(rows[n], columns[n]): 0}, [(rows[n], columns[n])]
        while border:
            row, column = border.pop(0)
            for wall, other in (
                (upright[n, row, column], (row, column - 1)),
                (upright[n, row, column + 1], (row, column + 1)),
                (level[n, row, column], (row - 1, column)),
                (level[n, row + 1, column], (row + 1, column)),
            ):
                if not wall and other not in known:
                    known[other] = known[row, column] + 1
                    border.append(other)
        assert {(row, column): found[n, row, column] for row in range(5) for column in range(5)} == known


def test_the_shaped_reward_tells_how_much_nearer_the_target_is():
    env = started(maze(OPEN, (1, 2), (1, 0)))
    shaped = [env.step(action)[4]["shaped_reward"] for action in (LEFT, RIGHT, *[FORWARD] * 4)]
    # turned away and back, then half a cell nearer in each step: 2 cells less what is near enough, 3.2 steps
    assert shaped == pytest.approx([-0.08, 0.0, 0.0, 0.0, 0.0, 0.96 + 0.04 * 0.2])
    around = started(maze(walled(1, 3), (0, 2), (0, 1), 1))  # two walls between: 5 cells by the third row
    assert around._rows._left[0] == pytest.approx((5 - REACH) / 0.5)
    assert around.step(LEFT)[4]["shaped_reward"] == pytest.approx(-0.08)


def test_shaped_rewards_add_up_to_those_of_the_environment():
    """But for the difference of potentials between start and end, which is zero at the target."""
    envs = make_vec("mamlrl/Maze-v0", num_envs=50, size=3, max_episode_steps=40)
    envs.reset(seed=0)
    before, rng, total = envs.unwrapped._left.copy(), np.random.default_rng(0), np.zeros(50)
    reached = np.zeros(50, bool)
    for _ in range(40):
        _, rewards, terminated, _, infos = envs.step(rng.choice(3, 50, p=[0.2, 0.2, 0.6]))
        total += np.where(reached, 0.0, infos["shaped_reward"] - rewards)
        reached |= terminated
    assert 10 < reached.sum() < 50
    np.testing.assert_allclose(total, 0.04 * (before - np.where(reached, 0.0, envs.unwrapped._left)))


def test_the_info_tells_where_the_target_is_as_one_looks():
    env = started(maze(OPEN, (2, 1), (0, 0), 0), turn=90.0)  # along the columns, the rows to the right
    told = [env.step(action)[4] for action in (FORWARD, FORWARD, RIGHT, FORWARD, LEFT)]
    expected = [[0.125, 0.5], [0, 0.5], [0.5, 0], [0.375, 0], [0, 0.375]]
    np.testing.assert_allclose([[one["target_ahead"], one["target_aside"]] for one in told], expected, atol=1e-12)
    seen = [[one["target_x"], one["target_y"]] for one in told]
    np.testing.assert_allclose(seen, [[0.25, 0.5]] * 5, atol=1e-12)


def test_the_info_tells_which_way_to_go_on():
    """From (0, 0) down and round a wall to (0, 1), from the middle of a cell to that of the next."""
    env = started(maze(walled(0), (0, 1), (0, 0), 0), turn=90.0)
    actions = RIGHT, FORWARD, FORWARD, FORWARD, LEFT, FORWARD, FORWARD, LEFT
    told = [env.step(action)[4] for action in actions]
    expected = [[1, 0], [0.5, -1], [0, -1], [0.5, -1], [1, 0.5], [0.5, -0.5], [0, -1], [1, 0]]
    norms = np.hypot(*np.transpose(expected))[:, None]
    np.testing.assert_allclose([[one["way_ahead"], one["way_aside"]] for one in told], expected / norms, atol=1e-12)


def test_crumbs_tell_how_often_one_has_been_around():
    env = started(maze(OPEN, (2, 2), (0, 0), 0), turn=90.0, odometry=True, crumbs=True)
    names = "been_ahead", "been_right", "been_behind", "been_left"
    there = LEFT, RIGHT, FORWARD, FORWARD, RIGHT, FORWARD, FORWARD
    back = RIGHT, RIGHT, FORWARD, FORWARD, LEFT, FORWARD, FORWARD
    told = []
    for action in (*there, *back):
        observation, *_, info = env.step(action)
        np.testing.assert_array_equal(observation[-4:], [info[name] for name in names])
        told.append([round(1 / (1 - number)) - 1 if number < 1 else -1 for number in observation[-4:]])
    out = -1  # of the square
    assert told[:2] == [[out, 0, 0, out], [0, 0, out, out]]
    assert told[2:5] == [[0, 0, 1, out], [0, 0, 1, out], [0, 1, out, 0]]  # in (0, 1)
    assert told[5:9] == [[0, 0, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]  # in (1, 1)
    assert told[10] == [out, 0, 1, 1]  # in (0, 1) for the second time
    assert told[13] == [out, out, 2, 0]  # back at the start


def test_crumbs_behind_walls_are_not_seen():
    walls = walled(2, 7)  # to the right of (1, 0), below (0, 1)
    env = started(maze(walls, (2, 2), (0, 0), 0), turn=90.0, crumbs=True)
    actions = FORWARD, FORWARD, RIGHT, LEFT, LEFT, LEFT, FORWARD, FORWARD
    told = [env.step(action)[0][-4:].tolist() for action in actions]
    assert told[1] == [0, 1, 0.5, 1]  # in (0, 1), looking along the columns: nobody ahead, a wall, the start, a wall
    assert told[2] == [1, 0.5, 1, 0]
    assert told[7] == [1, 1, 0.5, 0]  # at the start, looking at the border: another, (0, 1), nobody in (1, 0)
    env.step(LEFT)
    env.step(FORWARD)
    assert env.step(FORWARD)[0][-4:].tolist() == [0, 1, 1 - 1 / 3, 1]  # in (1, 0): (1, 1) is behind a wall


def test_cells_that_have_not_been_seen_are_told_as_one_looks():
    walls = walled(2, 7)  # to the right of (1, 0), below (0, 1)
    env = started(maze(walls, (2, 2), (0, 0), 0), turn=90.0, unseen=True)
    told = [env.step(action)[0][-81:].reshape(9, 9) for action in (FORWARD, FORWARD, RIGHT, LEFT, LEFT)]
    # along the columns, in (0, 1): nothing of the rows beneath has been seen, and they are on the right
    expected = np.zeros((9, 9))
    expected[3:6, 5:7] = 1  # (r, c): a column of the maze is a line, (1, 2) and (2, 2) the first
    np.testing.assert_array_equal(told[1], expected)
    np.testing.assert_array_equal(told[2], np.rot90(expected))  # to the right: what was there is ahead
    np.testing.assert_array_equal(told[4], np.rot90(expected, -1))
    env.step(LEFT)
    for action in (FORWARD, FORWARD, LEFT):
        last = env.step(action)[0][-81:].reshape(9, 9)
    # at the start, along the rows: (1, 0) and (2, 0) are ahead, and seen; the other columns are on the left
    expected = np.zeros((9, 9))
    expected[2:4, 2:4] = 1
    np.testing.assert_array_equal(last, expected)


def test_a_cell_is_seen_if_a_straight_line_to_its_middle_crosses_no_wall():
    """Against a walk along the line in small steps, from places and in directions at random."""
    rng, n, steps = np.random.default_rng(0), 40, 4000
    space, view = MazeSpace(4, 0.2, "all"), View(3, 4)
    upright, level = space.walls(space.draw(n, rng))
    positions, headings = rng.uniform(0.2, 3.8, (n, 2)), rng.uniform(-4, 4, n)
    middles = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(-1, 2) + 0.5
    found = []
    for end in middles:
        ends = np.broadcast_to(end, (n, 2))
        faced, reached = view.faces(positions, headings, ends), view.reaches(upright, level, positions, ends)
        for row in range(n):
            line = positions[row] + np.linspace(0, 1, steps)[:, None] * (end - positions[row])
            (x, y), (next_x, next_y) = (part.astype(int).T for part in (line[:-1], line[1:]))
            free = not (upright[row, y, np.maximum(x, next_x)] & (x != next_x)).any()
            free &= not (level[row, np.maximum(y, next_y), x] & (y != next_y)).any()
            offset = end - positions[row]
            angle = (np.arctan2(offset[1], offset[0]) - headings[row] + np.pi) % (2 * np.pi) - np.pi
            assert reached[row] == free
            assert faced[row] == (abs(angle) < np.deg2rad(37.5))
        found.append(reached)
    assert 0.1 < np.mean(found) < 0.6


@pytest.mark.parametrize("diagonal", [(0, 0), (0, 2), (2, 0), (2, 2)])
@pytest.mark.parametrize("wall", range(4))
def test_the_corner_of_a_wall_hides_what_is_diagonal(diagonal: tuple[int, int], wall: int):
    """From the middle of 3 x 3 cells, whichever of the four walls at that corner there is."""
    x, y = (end // 2 for end in diagonal)  # of the lines of walls that meet at the corner, less 1
    # to the right of (r, c) is 2 r + c, below it 6 + 3 r + c
    at_corner = [2 + x, 2 * 2 * y + x, 6 + 3 * y + 1, 6 + 3 * y + 2 * x]
    tasks = np.concatenate([walled(at_corner[wall]), np.zeros(5)])[None]
    middle, end = np.full((1, 2), 1.5), np.array([diagonal]) + 0.5
    space = MazeSpace(3, 0.0, "all")
    assert not View(3, 4).reaches(*space.walls(tasks), middle, end)
    assert View(3, 4).reaches(*space.walls(0 * tasks), middle, end)


def test_marks_of_episodes_that_begin_later_are_those_of_a_new_environment():
    """Rows that are reset alone, to the same maze or to another, with all that an observation may hold."""
    kwargs = {"size": 4, "smallest": 2, "odometry": True, "crumbs": True, "unseen": True}
    envs = make_vec("mamlrl/Maze-v0", num_envs=6, **kwargs)
    rng, tasks = np.random.default_rng(0), envs.unwrapped.sample_tasks(6, np.random.default_rng(1))
    envs.reset(seed=0, options={"tasks": tasks})
    for turn in range(4):
        for _ in range(15):
            observations, *_ = envs.step(rng.choice(3, 6, p=[0.2, 0.2, 0.6]))
            assert envs.observation_space.contains(observations)
        mask = rng.random(6) < 0.5
        tasks[mask] = envs.unwrapped.sample_tasks(6, rng)[mask] if turn % 2 else tasks[mask]
        observations, _ = envs.reset(seed=0, options={"tasks": tasks, "reset_mask": mask})
        new = make_vec("mamlrl/Maze-v0", num_envs=6, **kwargs)
        expected, _ = new.reset(seed=0, options={"tasks": tasks})
        np.testing.assert_array_equal(observations[mask], expected[mask])
        inside = np.isfinite(envs.unwrapped._distances).sum((1, 2))
        unseen = observations[:, -81:].sum(axis=1)
        assert (unseen < inside).all() and (observations[:, -81:] >= 0).all()


def test_infos_that_were_told_do_not_change_later():
    envs = make_vec("mamlrl/Maze-v0", num_envs=8, size=3, crumbs=True)
    envs.reset(seed=0)
    *_, infos = envs.step(np.full(8, FORWARD))
    told = {name: np.array(numbers) for name, numbers in infos.items()}
    for _ in range(6):
        envs.step(np.random.default_rng(0).choice(3, 8))
    for name, numbers in told.items():
        np.testing.assert_array_equal(infos[name], numbers, name)


def test_the_odometer_tells_where_one_is_as_seen_from_the_start():
    env = started(maze(OPEN, (2, 2), (0, 0), 1), odometry=True, turn=90.0)  # along the rows, the columns to the left
    np.testing.assert_allclose(env._rows._observe()[0, -4:], [0, 0, 1, 0], atol=1e-12)
    told = [env.step(action)[0][-4:] for action in (FORWARD, FORWARD, LEFT, FORWARD)]
    # half a cell a step, a quarter for a cell; what is to the left of the start's direction is below zero
    expected = [[0.125, 0, 1, 0], [0.25, 0, 1, 0], [0.25, 0, 0, -1], [0.25, -0.125, 0, -1]]
    np.testing.assert_allclose(told, expected, atol=1e-12)
    envs = make_vec("mamlrl/Maze-v0", num_envs=30, size=3, odometry=True)
    plain = make_vec("mamlrl/Maze-v0", num_envs=30, size=3)
    rng, (first, _), (seen, _) = np.random.default_rng(0), envs.reset(seed=0), plain.reset(seed=0)
    for _ in range(30):
        assert envs.observation_space.contains(first)
        np.testing.assert_array_equal(first[:, :-4], seen)
        actions = rng.choice(3, 30, p=[0.2, 0.2, 0.6])
        first, seen = envs.step(actions)[0], plain.step(actions)[0]
