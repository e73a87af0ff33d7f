"""Progress on stderr: a rich bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 5.0
STOP = threading.Event()
"""Set by the CLI on Ctrl-C: libraries below swallow a KeyboardInterrupt now and then (Polygraphy looks
for torch at every inference, inside an `except:`), so `track` looks here too."""


def track(items: Iterable[T], what: str, total: int, size: Callable[[T], int]) -> Iterator[T]:
    """Yield from `items` while showing how many of `total` are done; `size` says how many an item holds.

    Raises KeyboardInterrupt between two items once STOP is set.
    """
    return (_bar if sys.stderr.isatty() else _lines)(_until_stop(items), what, total, size)


def say(line: str) -> None:
    """One line of narration on stderr."""
    print(line, file=sys.stderr, flush=True)


def _until_stop(items: Iterable[T]) -> Iterator[T]:
    for item in items:
        if STOP.is_set():
            raise KeyboardInterrupt
        yield item


def _bar(items: Iterable[T], what: str, total: int, size: Callable[[T], int]) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import Progress

    done = 0
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            done += size(item)
            bar.update(task, completed=done)
    say(f"{what}: {done}")


def _lines(items: Iterable[T], what: str, total: int, size: Callable[[T], int]) -> Iterator[T]:
    last, done = time.monotonic(), 0
    for item in items:
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            say(f"{what}: {done} of {total}")
            last = time.monotonic()
        yield item
        done += size(item)
    say(f"{what}: {done}")
