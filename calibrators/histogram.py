"""The magnitudes of one tensor, counted as they stream by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators import grid, grid_arrays
from calibrators.errors import CalibratorError
from calibrators.grid import Grid


class Histogram:
    """Counts of |x| in bins no wider than 1/2048 of their power of two and than 1/2**18 of absmax.

    No range is needed in advance. Exact integers: splitting the data over updates or merging histograms in
    any way gives the same histogram. It takes the memory of the bins that are filled (see grid.py): 0.7 MB
    where activations are large. Threads may update different histograms at once.
    """

    def __init__(self) -> None:
        self._grid = Grid(top=0)
        self._values = 0
        self._largest_bits = 0

    @property
    def count(self) -> int:
        """How many finite values were counted."""
        return self._values - self.nonfinite

    @property
    def nonfinite(self) -> int:
        """How many values were NaN or Inf; they are in no bin."""
        return self._grid.nonfinite

    @property
    def absmax(self) -> float:
        """The largest |x| over the finite values, exactly (a float32); 0.0 when there are none."""
        return float(np.uint32(self._largest_bits).view(np.float32))

    def update(self, x: NDArray[np.floating[Any]]) -> None:
        """Count every value of x: float32, or float16 or float64, which are cast to float32; any shape.

        A float64 beyond float32's range counts as not finite.
        Raises CalibratorError when x holds no floats, or with it there are 2**48 values.
        """
        if not np.issubdtype(x.dtype, np.floating):
            raise CalibratorError(f"cannot count {x.dtype}: INT8 ranges are of float tensors only")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
        self._take(values.size)
        bits = values.view(np.uint32)
        while bits.size:
            counted, largest_bits = self._grid.count(bits)
            self._reach(largest_bits)
            bits = bits[counted:]
            self._reach(int(grid.largest(bits)))

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram, which is left as it is.

        Raises CalibratorError when with it there are 2**48 values.
        """
        self._take(other._values)
        self._reach(other._largest_bits)
        self._grid.add_from(other._grid)

    def _take(self, values: int) -> None:
        if self._values + values >= grid.LIMIT:
            raise CalibratorError(f"{self._values + values} values: a histogram counts fewer than 2**48")
        self._values += values

    def _reach(self, largest_bits: int) -> None:
        self._largest_bits = max(self._largest_bits, largest_bits)
        top = grid.top_of(self._largest_bits)
        if top > self._grid.top:
            lower, self._grid = self._grid, Grid(top)
            self._grid.add_from(lower)

    def __eq__(self, other: object) -> bool:
        """Whether the same magnitudes were counted, as far as the bins tell them apart."""
        if not isinstance(other, Histogram):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        return all(np.array_equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # its counts change

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know, for ``np.savez`` or another process; see grid_arrays.py."""
        return grid_arrays.pack(self._grid, self._largest_bits)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Histogram:
        """Return the histogram that ``to_arrays`` was called on.

        Raises CalibratorError when no histogram has such arrays.
        """
        histogram = cls()
        histogram._grid, histogram._largest_bits, histogram._values = grid_arrays.unpack(arrays)
        return histogram

    def __reduce__(self) -> tuple[Any, ...]:
        return Histogram.from_arrays, (self.to_arrays(),)

    def filled(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the centres (ascending, none above absmax) and the counts of the bins that are not empty.

        float64 and int64, both of shape (bins that are not empty,). Zeros are a bin of their own.
        """
        bins, counts = self._grid.filled()
        centres = (self._lower(bins) + np.minimum(self._lower(bins + 1), self.absmax)) / 2
        if zeros := self._grid.zeros:
            return np.append(0.0, centres), np.append(zeros, counts)
        return centres, counts

    def linear(self, bins: int = 2048) -> NDArray[np.int64]:
        """Return the counts over ``bins`` equal bins of [0, absmax], int64, shape (bins,).

        A bin of the histogram that lies across an edge is split in proportion, to whole values, so the sum
        is ``count``. When every value is zero they are all in bin 0.
        """
        filled, counts = self._grid.filled()
        below = self._grid.zeros + np.append(0, np.cumsum(counts))
        edges = self.absmax * (np.arange(1, bins) / bins)
        across = grid.bin_of(edges.astype(np.float32).view(np.uint32), self._grid.top)
        lower, upper = self._lower(across), self._lower(across + 1)
        share = np.clip((edges - lower) / (upper - lower), 0.0, 1.0)
        first = below[np.searchsorted(filled, across, side="left")]
        last = below[np.searchsorted(filled, across, side="right")]
        reached = first + np.rint(share * (last - first)).astype(np.int64)
        linear: NDArray[np.int64] = np.diff(reached, prepend=0, append=self.count)
        return linear

    def quantile(self, q: float) -> float:
        """Return a magnitude that a share q (0 to 1) of all values does not exceed; never above absmax.

        It is the upper edge of the bin that holds the value of rank ceil(q * count), so at most 1/2048
        above that value. Raises CalibratorError when q is outside 0 to 1 or nothing was counted.
        """
        if not 0 <= q <= 1:
            raise CalibratorError(f"share {q}: expected a number from 0 to 1")
        if self.count == 0:
            raise CalibratorError("an empty histogram has no quantiles; feed it samples first")
        # A share such as 99.9 / 100 is an ulp too large: without the slack its rank would be one too high.
        rank = math.ceil(q * self.count * (1 - 4 * np.finfo(np.float64).eps)) - self._grid.zeros
        if rank <= 0 and self._grid.zeros:
            return 0.0
        filled, counts = self._grid.filled()
        reached = int(np.searchsorted(np.cumsum(counts), max(rank, 1)))
        return min(float(self._lower(filled[[reached]] + 1)[0]), self.absmax)

    def _lower(self, bins: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the smallest magnitude of each bin."""
        return grid.lower_bits(bins, self._grid.top).view(np.float32).astype(np.float64)
