"""The magnitudes of one tensor, counted as they stream by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.compiled import compiled
from calibrators.errors import CalibratorError

# A bin is what the sign-less bits of a float32 have in common above the lowest 12: 2048 bins to every
# power of two, so near absmax a bin is no wider than the 1/2048 of the range that the entropy search
# works with. No range is needed in advance, and counts of the same data are the same in any order.
_SHIFT = 12
_SIGNLESS = 0x7FFFFFFF
_INF_BITS = 0x7F800000  # from here on: Inf and NaN
_BINS = _INF_BITS >> _SHIFT


@compiled
def _count(bits: NDArray[np.uint32], counts: NDArray[np.int64]) -> tuple[int, int]:
    """Count float32 bit patterns; return the largest finite magnitude's, and how many are not finite."""
    largest = 0
    nonfinite = 0
    for i in range(bits.size):
        magnitude = bits[i] & _SIGNLESS
        if magnitude < _INF_BITS:
            counts[magnitude >> _SHIFT] += 1
            largest = max(largest, magnitude)
        else:
            nonfinite += 1
    return largest, nonfinite


class Histogram:
    """Counts of |x| in bins that are equally wide in each power of two.

    Exact integers: splitting the data over updates or merging histograms in any way gives the same
    histogram. The 4 MB of counts are zero pages until used; a typical activation touches a tenth.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._count = 0
        self._nonfinite = 0
        self._largest_bits = 0

    @property
    def count(self) -> int:
        """How many finite values were counted."""
        return self._count

    @property
    def nonfinite(self) -> int:
        """How many values were NaN or Inf; they are in no bin."""
        return self._nonfinite

    @property
    def absmax(self) -> float:
        """The largest |x| over the finite values, exactly (a float32); 0.0 when there are none."""
        return float(np.uint32(self._largest_bits).view(np.float32))

    def update(self, x: NDArray[np.floating[Any]]) -> None:
        """Count every value of x: float32, or float16 or float64, which are cast to float32; any shape.

        A float64 beyond float32's range counts as not finite.
        Raises CalibratorError when x holds no floats.
        """
        if not np.issubdtype(x.dtype, np.floating):
            raise CalibratorError(f"cannot count {x.dtype}: INT8 ranges are of float tensors only")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
        largest, nonfinite = _count(values.view(np.uint32), self._counts)
        self._largest_bits = max(self._largest_bits, largest)
        self._nonfinite += nonfinite
        self._count += values.size - nonfinite

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram, which is left as it is."""
        filled = np.flatnonzero(other._counts)  # adding whole arrays would touch every page of this one
        self._counts[filled] += other._counts[filled]
        self._largest_bits = max(self._largest_bits, other._largest_bits)
        self._nonfinite += other._nonfinite
        self._count += other._count

    def filled(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the centres (ascending, none above absmax) and the counts of the bins that are not empty.

        float64 and int64, both of shape (bins that are not empty,).
        """
        filled = np.flatnonzero(self._counts)
        return np.minimum(_centres(filled), self.absmax), self._counts[filled]

    def linear(self, bins: int = 2048) -> NDArray[np.int64]:
        """Return the counts over ``bins`` equal bins of [0, absmax], int64, shape (bins,).

        Each of the histogram's own bins goes whole to the bin that its centre lies in, so the sum is
        ``count``. When every value is zero they are all in bin 0.
        """
        centres, counts = self.filled()
        edges = self.absmax * (np.arange(1, bins) / bins)
        first_of_bin = np.searchsorted(centres, edges, side="left")
        below = np.concatenate([[0], np.cumsum(counts)])
        if self.absmax == 0:
            first_of_bin[:] = counts.size
        return np.diff(below[first_of_bin], prepend=0, append=self._count)

    def quantile(self, q: float) -> float:
        """Return a magnitude that a share q (0 to 1) of all values does not exceed; never above absmax.

        It is the upper edge of the bin that holds the value of rank ceil(q * count), so at most 1/2048
        above that value. Raises CalibratorError when q is outside 0 to 1 or nothing was counted.
        """
        if not 0 <= q <= 1:
            raise CalibratorError(f"share {q}: expected a number from 0 to 1")
        if self._count == 0:
            raise CalibratorError("an empty histogram has no quantiles; feed it samples first")
        # A share such as 99.9 / 100 is an ulp too large: without the slack its rank would be one too high.
        rank = max(1, math.ceil(q * self._count * (1 - 4 * np.finfo(np.float64).eps)))
        reached = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(float(_lower_edges(np.array([reached + 1]))[0]), self.absmax)


def _lower_edges(index: NDArray[np.int64]) -> NDArray[np.float64]:
    return (index << _SHIFT).astype(np.uint32).view(np.float32).astype(np.float64)


def _centres(index: NDArray[np.int64]) -> NDArray[np.float64]:
    return ((index << _SHIFT) | (1 << (_SHIFT - 1))).astype(np.uint32).view(np.float32).astype(np.float64)
