"""A folder of shards: checked against the model's inputs when opened, then streamed in batches."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.errors import CalibratorError, ShardError
from calibrators.folder import Shard, find_shards, open_shard, unreadable
from calibrators.formats import read_arrays
from calibrators.inputs import InputSpec, sample_axis

__all__ = ["Batch", "InputSpec", "Shard", "ShardSet"]

_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)  # arrays have no one truth value to compare by
class Batch:
    """What one run of the model is fed.

    feeds: input name -> array. names: the samples in it, in order. A model whose batch axis is fixed
    gets full feeds always: where samples run out, those of this batch are repeated from its start, so
    only the first ``len(names)`` rows of the outputs count.
    """

    feeds: dict[str, NDArray[Any]]
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its samples, for messages."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} to {self.names[-1]}"


@dataclass(frozen=True)
class _Slice:
    """The samples start..stop-1 of a shard."""

    shard: Shard
    start: int
    stop: int

    def names(self) -> list[str]:
        return [self.shard.sample_name(i) for i in range(self.start, self.stop)]


class ShardSet:
    """The samples of a folder. Make one with ``ShardSet.open``.

    shards: its files in the order in which they are streamed, as their headers describe them.
    batched: axis 0 of every array enumerates samples. It does when axis 0 of all the model's inputs is
    dynamic or the same constant, unless ``open`` is told otherwise; if not, each file is one feed and
    counts as one sample.
    fixed_batch: how many samples a feed has where the model fixes that; None where any number will do.
    """

    def __init__(
        self,
        shards: tuple[Shard, ...],
        inputs: tuple[InputSpec, ...],
        batched: bool,
        fixed_batch: int | None,
        chosen: tuple[tuple[int, ...], ...] | None = None,
    ) -> None:
        """chosen: which samples of each shard it has, rising; None: all."""
        self.shards = shards
        self.inputs = inputs
        self.batched, self.fixed_batch = batched, fixed_batch
        self._chosen = chosen

    @classmethod
    def open(cls, folder: Path, inputs: Sequence[InputSpec], may_batch: bool = True) -> ShardSet:
        """Find the .npy, .npz and .safetensors files of a folder and check their headers; no data is read.

        ``may_batch=False``: axis 0 is no batch even where it looks like one (the points of one cloud).

        Files are taken in the order of their names; other files and subfolders are ignored. Every file
        must hold each input of the model and nothing else; an .npy file serves a model with one input.

        Raises ShardError for a folder that is missing or has no shards, for two files with one stem (their
        samples would share names), and, naming the file, for one that is damaged, truncated or not
        readable, holds Python objects or no samples, lacks an input or has another, or differs from an
        input in dtype, rank or a static axis (axis 0 of a batched model is free: it counts samples).
        """
        if not inputs:
            raise ShardError(f"{folder}: the model has no inputs, so there is nothing to feed")
        batched, fixed_batch = sample_axis(inputs) if may_batch else (False, None)
        shards = tuple(open_shard(path, inputs, batched) for path in find_shards(folder))
        return cls(shards, tuple(inputs), batched, fixed_batch)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(shard.path for shard in self.shards)

    @property
    def samples(self) -> int:
        if self._chosen is not None:
            return sum(map(len, self._chosen))
        return sum(shard.samples for shard in self.shards)

    def extents(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return input name -> the smallest and the largest length of each axis over all its shards.

        Axis 0 of a batched model counts the samples of a shard.
        """
        extents = {}
        for index, spec in enumerate(self.inputs):
            shapes = [
                (shard.samples, *shard.shapes[index]) if self.batched else shard.shapes[index]
                for shard in self.shards
            ]
            lengths = list(zip(*shapes, strict=True))
            extents[spec.name] = (tuple(map(min, lengths)), tuple(map(max, lengths)))
        return extents

    def fingerprint(self) -> str:
        """Return the sha256 (hex) over name, size and bytes of every file; computed once.

        Raises ShardError when a file vanished or changed after it was checked.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for shard in self.shards:
            name = os.fsencode(shard.path.name)
            digest.update(b"%d %b %d " % (len(name), name, shard.size))
            try:
                with shard.path.open("rb") as stream:
                    while block := stream.read(_HASH_BLOCK_BYTES):
                        digest.update(block)
            except OSError as exc:
                raise unreadable(shard.path, exc) from exc
            shard.check_unchanged()
        return digest.hexdigest()

    def of_one(self, shard: Shard) -> ShardSet:
        """Return the set of one of its shards."""
        chosen = None if self._chosen is None else (self._chosen[self.shards.index(shard)],)
        return ShardSet((shard,), self.inputs, self.batched, self.fixed_batch, chosen)

    def drawn(self, count: int, seed: int) -> ShardSet:
        """Return the set of ``count`` of its samples, drawn without replacement, in their order; of the
        files that have one of them. The same seed draws the same samples of the same files.

        Raises CalibratorError when there are fewer samples, or count is below 1.
        """
        if not 1 <= count <= self.samples:
            raise CalibratorError(f"{count} samples cannot be drawn from {self.samples}")
        numbers = np.sort(np.random.default_rng(seed).permutation(self.samples)[:count])
        shards, chosen, first = [], [], 0
        for shard, has in zip(self.shards, self._choice(), strict=True):
            low, high = np.searchsorted(numbers, (first, first + len(has)))
            if low < high:
                shards.append(shard)
                chosen.append(tuple(has[number - first] for number in numbers[low:high].tolist()))
            first += len(has)
        return ShardSet(tuple(shards), self.inputs, self.batched, self.fixed_batch, tuple(chosen))

    def _choice(self) -> Sequence[Sequence[int]]:
        return self._chosen or [range(shard.samples) for shard in self.shards]

    def resolved(self) -> ShardSet:
        """Return the same set with absolute paths, as a process elsewhere needs them."""
        shards = tuple(replace(shard, path=shard.path.resolve()) for shard in self.shards)
        return ShardSet(shards, self.inputs, self.batched, self.fixed_batch, self._chosen)

    def batch_sizes(self, size: int) -> list[int]:
        """Return how many samples each of ``batches(size)`` has, from the headers alone."""
        return [sum(part.stop - part.start for part in slices) for slices in self._plan(size, None)]

    def batches(
        self, size: int, limit: int | None = None, span: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """Stream the first ``limit`` samples (default: all) in order, ``size`` to a batch; with ``span``,
        of those batches only the ones from its start up to its stop, so that several readers share them.

        A model's own fixed batch size goes before ``size``; a model that is not batched gets one file at
        a time. Batches run across files, but samples of different shapes never share one. No more than
        one shard and one batch is held in memory (of an .npy shard only what the system maps).

        Raises CalibratorError at the call when size or limit is below 1; ShardError while streaming when a
        file vanished, changed or is damaged, or when a float array holds NaN or Inf.
        """
        if size < 1 or (limit is not None and limit < 1):
            raise CalibratorError(f"batch size {size}, limit {limit}: both must be at least 1")
        return self._stream(islice(self._plan(size, limit), *(span or (0, None))))

    def _plan(self, size: int, limit: int | None) -> Iterator[list[_Slice]]:
        if not self.batched:
            size = 1
        runs = [_runs(has) for has in self._choice()]
        return _plan(self.shards, runs, self.fixed_batch or size, limit)

    def _stream(self, plan: Iterator[list[_Slice]]) -> Iterator[Batch]:
        reader = _Reader(self.inputs[0].name, self.batched)
        for slices in plan:
            feeds = _joined([reader.cut(part) for part in slices])
            names = tuple(name for part in slices for name in part.names())
            if self.fixed_batch and len(names) < self.fixed_batch:
                wrapped = np.arange(self.fixed_batch) % len(names)
                feeds = {name: array[wrapped] for name, array in feeds.items()}
            yield Batch(feeds, names)


class _Reader:
    """Cuts samples out of shards; holds the arrays of one shard at a time."""

    def __init__(self, npy_name: str, batched: bool) -> None:
        self._npy_name = npy_name
        self._batched = batched
        self._shard: Shard | None = None
        self._arrays: dict[str, NDArray[Any]] = {}

    def cut(self, part: _Slice) -> dict[str, NDArray[Any]]:
        """Return a copy of the samples of a slice, found finite, from a file found unchanged."""
        part.shard.check_unchanged()  # before: touching a map of a file that has shrunk kills the process
        if part.shard is not self._shard:
            self._arrays = {}  # let go of one shard before the next is read
            self._arrays = read_arrays(part.shard.path, self._npy_name)
            self._shard = part.shard
        taken = {
            name: np.array(array[part.start : part.stop] if self._batched else array, order="C")
            for name, array in self._arrays.items()
        }
        part.shard.check_unchanged()
        for name, array in taken.items():
            self._check_finite(part, name, array)
        return taken

    def _check_finite(self, part: _Slice, name: str, array: NDArray[Any]) -> None:
        if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
            return
        bad = np.argwhere(~np.isfinite(array))
        sample = part.start + int(bad[0][0]) if self._batched else 0
        raise ShardError(
            f"{part.shard.path}: input {name!r} has {len(bad)} NaN or Inf, the first in sample {sample}; "
            "remove the sample or mend what wrote it"
        )


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return start and stop of each run of successive numbers among rising ones."""
    if isinstance(numbers, range):
        return [(numbers.start, numbers.stop)]
    breaks = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    return [
        (numbers[start], numbers[stop - 1] + 1)
        for start, stop in zip([0, *breaks], [*breaks, len(numbers)], strict=True)
    ]


def _plan(
    shards: Sequence[Shard], runs: Sequence[list[tuple[int, int]]], size: int, limit: int | None
) -> Iterator[list[_Slice]]:
    """Say which samples make up each batch, from the headers alone."""
    batch: list[_Slice] = []
    room = size
    left = math.inf if limit is None else limit
    for shard, of_shard in zip(shards, runs, strict=True):
        if batch and batch[0].shard.shapes != shard.shapes:
            yield batch
            batch, room = [], size
        for first, stop in of_shard:
            start = first
            while start < stop and left:
                end = int(min(stop, start + room, start + left))
                batch.append(_Slice(shard, start, end))
                room -= end - start
                left -= end - start
                start = end
                if room == 0:
                    yield batch
                    batch, room = [], size
    if batch:
        yield batch


def _joined(pieces: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
