"""A histogram's grid as a few small arrays, for files and other processes.

    version    int64, ()
    absmax     uint32, (): the bit pattern of the largest magnitude, a float32
    zeros      int64, ()
    nonfinite  int64, ()
    filled     uint8, (bytes,): one bit for each bin of absmax's grid from grid.FIRST on, lowest bit first
    counts     of the bins whose bit is set, in their order; the smallest unsigned integers that hold them

Equal histograms give equal arrays, whatever they were filled from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators import grid
from calibrators.errors import CalibratorError
from calibrators.grid import Grid

VERSION = 1
"""Of these arrays and of the grid's bins."""

_SCALARS = {"version": np.int64, "absmax": np.uint32, "zeros": np.int64, "nonfinite": np.int64}


def pack(counted: Grid, largest_bits: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of a grid whose largest magnitude has this bit pattern."""
    bins, counts = counted.filled()
    filled = np.zeros(counted.size - grid.FIRST, np.bool_)
    filled[bins - grid.FIRST] = True
    values = (VERSION, largest_bits, counted.zeros, counted.nonfinite)
    scalars = {
        name: np.array(value, dtype) for (name, dtype), value in zip(_SCALARS.items(), values, strict=True)
    }
    smallest = np.min_scalar_type(counts.max(initial=0))
    return {**scalars, "filled": np.packbits(filled, bitorder="little"), "counts": counts.astype(smallest)}


def unpack(arrays: Mapping[str, NDArray[Any]]) -> tuple[Grid, int, int]:
    """Return the grid, the largest magnitude's bit pattern, and how many values were counted in all.

    Raises CalibratorError for arrays that ``pack`` never returns.
    """
    version, largest_bits, zeros, nonfinite = _scalars(arrays)
    _expect(version == VERSION, f"version {version}, expected {VERSION}")
    _expect(grid.is_finite(largest_bits), f"absmax {largest_bits:#x} is no finite float32 without a sign")
    _expect(min(zeros, nonfinite) >= 0, f"{zeros} zeros and {nonfinite} values that are not finite")
    restored = Grid(grid.top_of(largest_bits))
    bins = _bins(arrays["filled"], restored, largest_bits)
    counts = _counts(arrays["counts"], bins.size)
    total = int(counts.sum()) + zeros + nonfinite
    _expect(total < grid.LIMIT, f"{total} values, expected fewer than 2**48")
    restored.add(bins, counts, zeros, nonfinite)
    return restored, largest_bits, total


def _scalars(arrays: Mapping[str, NDArray[Any]]) -> list[int]:
    names = {*_SCALARS, "filled", "counts"}
    _expect(set(arrays) == names, f"they are {sorted(arrays)}, expected {sorted(names)}")
    for name, dtype in _SCALARS.items():
        fits = arrays[name].dtype == dtype and arrays[name].ndim == 0
        _expect(fits, f"{name} is {arrays[name].dtype}{arrays[name].shape}, expected {dtype.__name__}()")
    return [int(arrays[name]) for name in _SCALARS]


def _bins(filled: NDArray[Any], restored: Grid, largest_bits: int) -> NDArray[np.int64]:
    size = -(-(restored.size - grid.FIRST) // 8)
    fits = filled.dtype == np.uint8 and filled.shape == (size,)
    _expect(fits, f"filled is {filled.dtype}{filled.shape}, expected uint8({size},) for this absmax")
    bins = np.flatnonzero(np.unpackbits(filled, bitorder="little")) + grid.FIRST
    lowest, highest = grid.bin_of(np.array([0, largest_bits], np.uint32), restored.top)
    ends_with = [highest] if largest_bits else []
    _expect(bins[-1:].tolist() == ends_with, "the last bin filled is not that of absmax")
    _expect(bool((bins >= lowest).all()), "a bin is filled that no magnitude belongs to")
    return bins


def _counts(counts: NDArray[Any], bins: int) -> NDArray[np.int64]:
    fits = counts.dtype.kind == "u" and counts.shape == (bins,)
    _expect(fits, f"counts is {counts.dtype}{counts.shape}, expected an unsigned type and ({bins},)")
    _expect(bool(counts.all()), "a bin that is filled counts 0 values")
    # In float64 the sum cannot run over; below the limit it is exact.
    total = counts.sum(dtype=np.float64)
    _expect(total < grid.LIMIT, f"{total:.3g} values, expected fewer than 2**48")
    return counts.astype(np.int64)


def _expect(fits: bool, seen: str) -> None:
    if not fits:
        raise CalibratorError(f"arrays that no histogram was stored in: {seen}; calibrate anew")
