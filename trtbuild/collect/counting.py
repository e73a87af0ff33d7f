"""Activations into histograms, on all cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from calibrators.histogram import Histogram
from calibrators.shards import Batch
from trtbuild.errors import InputError
from trtbuild.targets.session import Tensors


class Counter:
    """Counts on threads of its own: the histograms let go of Python's lock. Make one with `counter`."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def count(self, batch: Batch, activations: Tensors, histograms: Mapping[str, Histogram]) -> None:
        """Count those that have a histogram; each is let go of as soon as it is counted.

        Raises InputError, naming the samples, when there is NaN or Inf among them: no range could be taken.
        """

        def one(tensor: str) -> None:
            histograms[tensor].update(activations.pop(tensor))

        largest_first = sorted(histograms, key=lambda tensor: -activations[tensor].size)
        for _ in self._pool.map(one, largest_first):
            pass
        for tensor, histogram in histograms.items():
            if histogram.nonfinite:
                raise InputError(
                    f"tensor {tensor!r} has {histogram.nonfinite} NaN or Inf in {batch.label}: no range can "
                    "be taken; mend the model or the samples that make them"
                )


@contextmanager
def counter(threads: int | None = None) -> Iterator[Counter]:
    """A counter on `threads` cores, or on all that this process may use."""
    with ThreadPoolExecutor(threads or cores()) as pool:
        yield Counter(pool)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
