"""Progress on stderr: a rich bar on a terminal, plain lines in a log."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 5.0
STOP = threading.Event()
"""Set by the CLI on Ctrl-C: libraries below swallow a KeyboardInterrupt now and then (Polygraphy looks
for torch at every inference, inside an `except:`), so `track` looks here too."""


def track(items: Iterable[T], what: str, total: int | None, size: Callable[[T], int]) -> Iterator[T]:
    """Yield from `items` while showing how many of `total` (None: unknown) are done; `size`: how many an item
    holds.

    Raises KeyboardInterrupt between two items once STOP is set.
    """
    return (_bar if sys.stderr.isatty() else _lines)(_until_stop(items), what, total, size)


def say(line: str) -> None:
    """One line of narration on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Inside, Ctrl-C sets STOP and raises nothing; KeyboardInterrupt follows at the end.

    For calls into a library that calls back into Python: an exception must not pass through it.
    """
    previous = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and callable(previous)
    if ours:
        signal.signal(signal.SIGINT, _keep)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, previous)
    if STOP.is_set():
        if previous is signal.default_int_handler:
            STOP.clear()  # a program that called us, which may go on; the CLI clears it itself
        raise KeyboardInterrupt


def _keep(*_: object) -> None:
    if not STOP.is_set():
        say("stopping as soon as the builder lets go; nothing will be written")
    STOP.set()


class Phases:
    """Nested phases of known length, on a terminal as bars and in a log as a line now and then."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Phases:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bars = Progress(console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, phase: str, steps: int) -> None:
        if self._bars is not None:
            self._tasks[phase] = self._bars.add_task(phase, total=steps)

    def step(self, phase: str, done: int) -> None:
        if self._bars is not None and phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=done)
        elif self._bars is None and time.monotonic() - self._last > SECONDS_BETWEEN_LINES:
            say(f"{phase}: step {done}")
            self._last = time.monotonic()

    def finish(self, phase: str) -> None:
        if self._bars is not None and phase in self._tasks:
            self._bars.remove_task(self._tasks.pop(phase))


def _until_stop(items: Iterable[T]) -> Iterator[T]:
    for item in items:
        if STOP.is_set():
            raise KeyboardInterrupt
        yield item


def _bar(items: Iterable[T], what: str, total: int | None, size: Callable[[T], int]) -> Iterator[T]:
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


def _lines(items: Iterable[T], what: str, total: int | None, size: Callable[[T], int]) -> Iterator[T]:
    last, done = time.monotonic(), 0
    for item in items:
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            say(f"{what}: {done}" if total is None else f"{what}: {done} of {total}")
            last = time.monotonic()
        yield item
        done += size(item)
    say(f"{what}: {done}")
