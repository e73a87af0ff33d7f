"""What is in a folder of shards, and which samples in it are no good."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.errors import ShardError
from calibrators.folder import Shard, find_shards
from calibrators.formats import read_arrays, read_headers
from calibrators.inputs import InputSpec
from calibrators.shards import ShardSet


@dataclass
class InputFigures:
    """One input over all samples. shapes: of one sample -> how many have it. minimum, maximum and mean
    are over the finite values; None where there are none, or where float64 cannot hold the figure."""

    dtype: str
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    nan: int = 0
    inf: int = 0
    minimum: float | None = None
    maximum: float | None = None
    _sum: float = 0.0
    _finite: int = 0

    @property
    def mean(self) -> float | None:
        return self._sum / self._finite if self._finite and math.isfinite(self._sum) else None

    def add(self, array: NDArray[Any]) -> tuple[int, int]:
        """Take in the array of one sample; return how many NaN and Inf it has."""
        self.shapes[array.shape] += 1
        nan, inf = 0, 0
        if np.issubdtype(array.dtype, np.inexact) and not (finite := np.isfinite(array)).all():
            nan = int(np.isnan(array).sum())
            inf = array.size - int(finite.sum()) - nan
            array = array[finite]
        self.nan, self.inf = self.nan + nan, self.inf + inf
        if array.dtype == bool:
            array = array.astype(np.uint8)
        if array.size:
            low, high = array.min().item(), array.max().item()
            self.minimum = low if self.minimum is None else min(self.minimum, low)
            self.maximum = high if self.maximum is None else max(self.maximum, high)
            with np.errstate(over="ignore"):
                self._sum += float(array.sum(dtype=np.float64))
            self._finite += array.size
        return nan, inf


@dataclass(frozen=True)
class Flaw:
    """One input of one sample that no calibration should be fed. what: "3 NaN", "1 Inf", "constant 0.5"."""

    sample: str
    input: str
    what: str


@dataclass
class Findings:
    """duplicates: the names of samples whose inputs are the same to the bit, a list for each such group."""

    samples: int
    inputs: dict[str, InputFigures]
    nonfinite: list[Flaw] = field(default_factory=list)
    constant: list[Flaw] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.nonfinite or self.constant or self.duplicates)


def specs_of(folder: Path) -> tuple[InputSpec, ...]:
    """What a model would take that these shards were made for, going by the first of them: its names,
    dtypes and ranks, every length dynamic. The array of an .npy file is called "array".

    Raises ShardError as ``ShardSet.open`` does.
    """
    first = find_shards(folder)[0]
    headers = read_headers(first, npy_name="array")
    return tuple(
        InputSpec(name, _dtype(first, name, header.dtype), (None,) * len(header.shape))
        for name, header in sorted(headers.items())
    )


def _dtype(path: Path, name: str, dtype: str) -> np.dtype[Any]:
    try:
        return np.dtype(dtype)
    except TypeError as exc:
        raise ShardError(f"{path}: {name!r} is {dtype}, which numpy cannot read") from exc


def check(shards: ShardSet) -> Iterator[Findings]:
    """Read every sample once; yields the growing findings after each shard, the last time all of them.

    Constant is a float input of several values that are all equal. Where an input is not there or does not
    fit, ``ShardSet.open`` said so before.
    Raises ShardError, naming the file, when one is damaged, vanished or changed.
    """
    found = Findings(0, {spec.name: InputFigures(str(spec.dtype)) for spec in shards.inputs})
    seen: dict[bytes, str] = {}
    groups: dict[str, list[str]] = {}
    for shard in shards.shards:
        for name, sample in _samples(shard, shards):
            found.samples += 1
            for input_name, array in sample.items():
                _look(found, name, input_name, array)
            first = seen.setdefault(_digest(sample), name)
            if first != name:
                groups.setdefault(first, [first]).append(name)
        found.duplicates = list(groups.values())
        yield found


def _samples(shard: Shard, shards: ShardSet) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    shard.check_unchanged()
    arrays = read_arrays(shard.path, npy_name=shards.inputs[0].name)
    for index in range(shard.samples):
        yield (
            shard.sample_name(index),
            {
                spec.name: np.asarray(arrays[spec.name][index] if shards.batched else arrays[spec.name])
                for spec in shards.inputs
            },
        )


def _look(found: Findings, sample: str, name: str, array: NDArray[Any]) -> None:
    nan, inf = found.inputs[name].add(array)
    for count, what in ((nan, "NaN"), (inf, "Inf")):
        if count:
            found.nonfinite.append(Flaw(sample, name, f"{count} {what}"))
    if np.issubdtype(array.dtype, np.floating) and array.size > 1 and (array == array.flat[0]).all():
        found.constant.append(Flaw(sample, name, f"constant {array.flat[0]:.6g}"))


def _digest(sample: dict[str, NDArray[Any]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in sample.values():
        digest.update(repr(array.shape).encode() + array.tobytes())
    return digest.digest()
