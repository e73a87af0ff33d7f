"""Runs of batches: what a worker takes, what a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""The batches from the first number up to the second."""


def missing(done: Iterable[Span], total: int) -> Iterator[Span]:
    """The spans of `total` batches that are not in `done`, which do not overlap."""
    start = 0
    for begun, ended in sorted(done):
        if start < begun:
            yield start, begun
        start = ended
    if start < total:
        yield start, total


def joined(done: Iterable[Span]) -> list[Span]:
    """The same batches in as few spans as possible, in order."""
    spans: list[Span] = []
    for start, stop in sorted(done):
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return spans


def cut(spans: Iterable[Span], length: int) -> Iterator[Span]:
    """The same batches in spans of at most `length`."""
    for start, stop in spans:
        for begun in range(start, stop, length):
            yield begun, min(begun + length, stop)
