"""Progress bars for long work; on no terminal, a line now and then instead."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 15.0

Show = Callable[[int, str], None]


@contextmanager
def bar(name: str, total: int) -> Iterator[Show]:
    """Gives a function (done, words) that moves the bar; the last state stays on the screen."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from _live(name, total, console)
    else:
        yield from _lines(name, total)


def one_more(show: Show, words: str = "") -> Callable[[], None]:
    """Moves a bar by one each time that it is called."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        show(done, words)

    return advance


def _live(name: str, total: int, console: Console) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total, words="")
        yield lambda done, words: progress.update(task, completed=done, words=words)


def _lines(name: str, total: int) -> Iterator[Show]:
    told = start = monotonic()
    last = (0, "")

    def show(done: int, words: str) -> None:
        nonlocal told, last
        now = monotonic()
        if (done, words) == last if done >= total else now - told < SECONDS_BETWEEN_LINES:
            return
        told, last = now, (done, words)
        sys.stderr.write(f"{name} {done}/{total} {now - start:.0f} s {words}\n")
        sys.stderr.flush()

    yield show
