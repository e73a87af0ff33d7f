"""Progress on stderr: a rich bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 5.0


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield from `items` while showing how many of `total` are done."""
    return _bar(items, what, total) if sys.stderr.isatty() else _lines(items, what, total)


def say(line: str) -> None:
    """One line of narration on stderr."""
    print(line, file=sys.stderr, flush=True)


def _bar(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, what, total, console=Console(stderr=True), transient=True)
    say(f"{what}: {total}")


def _lines(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            say(f"{what}: {done} of {total}")
            last = time.monotonic()
        yield item
    say(f"{what}: {total}")
