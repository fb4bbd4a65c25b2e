"""What progress looks like on a terminal."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from mamlrl.messages import say
from mamlrl.progress import ProgressLine, StepsBar


class Terminal(io.StringIO):
    """A terminal that tells no size."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """One for both streams; a fixture would lose to the capture of pytest."""
    screen = Terminal()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        yield screen


def shown(screen: Terminal) -> list[str]:
    """All that ever stood at the left edge."""
    return screen.getvalue().replace("\n", "\r").split("\r")


def test_a_bar_counts_time_steps_and_never_beyond_a_round() -> None:
    with terminal() as screen, StepsBar(rounds=2, steps=10) as bar:
        for steps in (15, 3):  # more rollouts than expected, and episodes that end early
            for _ in range(steps):
                bar.step()
            bar.end_round()
            done = 10 if steps == 15 else 20
            assert bar._bar.n == done
    lines = [line for line in shown(screen) if line.startswith("time steps")]
    assert lines and not any("it/s" in line for line in lines) and max(map(len, lines)) < 80


def test_a_note_stands_on_a_line_of_its_own_beside_a_bar() -> None:
    with terminal() as screen:
        line = ProgressLine(0, 2)
        line.update(1, "return 1.00")
        say("note: a note")
        line.update(2, "return 2.00")
        line.close()
    assert "note: a note" in shown(screen)
