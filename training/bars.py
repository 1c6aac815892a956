"""Progress on the terminal: a bar for the films being prepared and one for each training, with its losses.

Called by tasks of `training`. Without a terminal the bars are left out and each epoch is a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from training.loop import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Screen:
    """What a training tells the person who waits for it."""

    bars: Bars
    console: Console

    def films(self, name: str, total: int) -> Callable[[], None]:
        """A bar over films; the function returned moves it by one."""
        bar = self.bars.add_task(name, total=total)
        return lambda: self.bars.advance(bar)

    def epochs(self, name: str) -> Callable[[Progress], None]:
        """A bar over epochs, to be told of each."""
        bar: TaskID = self.bars.add_task(name, total=None)

        def show(progress: Progress) -> None:
            text = f"{name}: centre {progress.centre:.3f} edges {progress.edges:.3f} picture {progress.picture:.3f}"
            if progress.validation is not None:
                text += f" held back {progress.validation:.3f}"
            self.bars.update(bar, total=progress.epochs, completed=progress.epoch, description=text)
            if not self.console.is_terminal:
                self.console.print(f"{text} ({progress.epoch}/{progress.epochs})", highlight=False)

        return show

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, highlight=False, markup=False)


@contextmanager
def screen(*, quiet: bool = False) -> Iterator[Screen]:
    """Bars while the block runs; `quiet` for the processes that only help."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        yield Screen(bars=bars, console=console)
