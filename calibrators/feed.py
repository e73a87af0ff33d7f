"""Samples as a TensorRT calibration profile takes them: every batch of one shape, in the network's dtypes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.errors import CalibratorError, ShardError
from calibrators.shards import ShardSet

READ_BY_TENSORRT = ("float32", "int32", "int64", "bool")
"""What TensorRT reads a calibration batch as. Floats are float32 also where the network declares half, and
so is every type that is not named here."""


class Feed:
    """The samples of `shards` in batches of the profile's OPT shapes; iterate over it as often as you like.

    batch: samples in a batch; 1 where shards are not batched. batches: how many. samples: real ones.
    repeated: how often a sample is used again to fill up the last batch, counted from the first sample of
    the set on, so that no sample weighs more than any other by more than one.

    shapes: input name -> full OPT shape. dtypes: input name -> what TensorRT reads, of READ_BY_TENSORRT.
    Raises CalibratorError when these do not fit the inputs, and ShardError, naming the file, for samples
    of another shape than OPT: TensorRT calibrates at OPT alone.
    """

    def __init__(
        self, shards: ShardSet, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype[Any]]
    ) -> None:
        self._shards = shards
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._check_inputs()
        self.batch = self._batch_length() if shards.batched else 1
        self._check_samples()
        self.samples = shards.samples
        self.batches = -(-self.samples // self.batch)
        self.repeated = self.batches * self.batch - self.samples

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self._shards.inputs)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield input name -> array, C-contiguous, of the OPT shape and the wanted dtype.

        Raises ShardError while streaming, as ``ShardSet.batches`` does, and for a value that the wanted
        dtype cannot hold.
        """
        first: dict[str, NDArray[Any]] | None = None
        for batch in self._shards.batches(self.batch):
            arrays = {}
            for name, array in batch.feeds.items():
                real = array[: len(batch.names)] if self._shards.batched else array
                arrays[name] = self._converted(name, real, batch.names)
            first = first or arrays
            if len(batch.names) < self.batch:
                arrays = {name: _filled(real, first[name], self.batch) for name, real in arrays.items()}
            yield arrays

    def sample_name(self, index: int) -> str:
        """Return the name of the sample at that place in the set, 0 to samples - 1, and its file."""
        for shard in self._shards.shards:
            if index < shard.samples:
                return f"{shard.sample_name(index)} ({shard.path})"
            index -= shard.samples
        raise IndexError(index)

    def _check_inputs(self) -> None:
        for what, given in (("OPT shapes", self._shapes), ("dtypes", self._dtypes)):
            if set(given) != set(self.names):
                raise CalibratorError(f"{what} for {sorted(given)}; expected exactly {sorted(self.names)}")
        for spec in self._shards.inputs:
            opt, dtype = self._shapes[spec.name], self._dtypes[spec.name]
            fits = len(opt) == len(spec.shape) and all(
                length >= 0 and fixed in (None, length) for fixed, length in zip(spec.shape, opt, strict=True)
            )
            if not fits:
                raise CalibratorError(
                    f"input {spec.name!r}: OPT shape {opt} does not fit the model's {spec.shape}; "
                    "every axis needs a length, a static one its own"
                )
            if dtype.name not in READ_BY_TENSORRT:
                raise CalibratorError(
                    f"input {spec.name!r}: TensorRT reads no calibration samples as {dtype}; "
                    f"expected one of {', '.join(READ_BY_TENSORRT)}"
                )

    def _batch_length(self) -> int:
        lengths = {name: shape[0] for name, shape in self._shapes.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            shown = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
            raise CalibratorError(
                f"OPT batch lengths {shown}: a calibration batch has one for all inputs, 1 or more; "
                "make axis 0 of opt the same"
            )
        return next(iter(lengths.values()))

    def _check_samples(self) -> None:
        others: list[str] = []
        for shard in self._shards.shards:
            for spec, shape in zip(self._shards.inputs, shard.shapes, strict=True):
                opt = self._shapes[spec.name]
                of_one = opt[1:] if self._shards.batched else opt
                if shape != of_one:
                    others.append(f"{shard.path}: its samples of {spec.name!r} are {shape}, not {of_one}")
                    break
        if others:
            more = f" (and {len(others) - 1} more such files)" if len(others) > 1 else ""
            raise ShardError(
                f"{others[0]} as in the profile's OPT shapes{more}; TensorRT calibrates at OPT alone: write "
                "all samples in one shape and make opt that shape, or find the ranges without TensorRT"
            )

    def _converted(self, name: str, array: NDArray[Any], samples: tuple[str, ...]) -> NDArray[Any]:
        dtype = self._dtypes[name]
        if array.dtype == dtype:
            return np.require(array, requirements="C")
        with np.errstate(all="ignore"):  # what does not fit is looked for below
            converted = np.require(array.astype(dtype), requirements="C")
            bad = (
                ~np.isfinite(converted)
                if _rounds(array.dtype, dtype)
                else converted.astype(array.dtype) != array
            )
        if np.any(bad):
            row = int(np.argwhere(bad)[0][0]) if self._shards.batched else 0
            value = array[bad].flat[0] if array.ndim else array
            raise ShardError(
                f"sample {samples[row]}: input {name!r} has {value}, and TensorRT reads {dtype}, which does "
                "not hold it; remove the sample or mend what wrote it"
            )
        return converted


def _rounds(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether it is right that values are rounded: from one float type to another."""
    return target.kind == "f" and source.kind not in "iub"


def _filled(real: NDArray[Any], first: NDArray[Any], length: int) -> NDArray[Any]:
    """Return `length` rows: the real ones of the last batch, then those of the set from its start."""
    pool = np.concatenate([real, first])
    return pool[np.arange(length) % len(pool)]
