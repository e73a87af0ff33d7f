"""The range with the least squared quantization error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.compiled import compiled
from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram
from calibrators.scale import INT8_MAX

_SMALLEST_SHARE = 2.0**-10
_COARSE = 128
_FINE = 33
# Values within 1/2048 of each other stand together: finer steps than any candidate tells apart.
_MERGED_BITS = 12


def amax(histogram: Histogram) -> float:
    """Return the amax that minimises sum((x - DQ(Q(x)))**2) over the histogram.

    Every value stands for the mean of those within 1/2048 of it. Searched are 128 shares of absmax from
    1/1024 to 1, spaced evenly in their logarithm (5.6 % apart), then 33 between the neighbours of the best
    one (0.34 % apart). Negative values are taken to saturate at -127 as positive ones do at 127; of equal
    errors the smaller range wins.
    """
    if histogram.absmax == 0:
        return 0.0
    return _search(*_merged(histogram), histogram.absmax)


def amax_per_channel(weights: NDArray[np.floating[Any]], axis: int) -> NDArray[np.float64]:
    """Return for each index of ``axis`` the amax that minimises the squared error of the weights there.

    weights: float32, or float16 or float64, which are cast to float32; any shape. float64, shape
    (weights.shape[axis],); 0 for a channel of zeros, and for one without values. The search is that of
    ``amax``, over the values themselves.
    Raises CalibratorError when the weights are no floats or not finite, or the axis is not theirs.
    """
    if not np.issubdtype(weights.dtype, np.floating):
        raise CalibratorError(f"weights of {weights.dtype}: expected floats")
    if not -weights.ndim <= axis < weights.ndim:
        raise CalibratorError(f"axis {axis} of weights of shape {weights.shape}: name one that they have")
    channels = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    magnitudes = np.abs(channels.astype(np.float32)).astype(np.float64)
    if not np.isfinite(magnitudes).all():
        raise CalibratorError("weights with NaN or Inf have no range; mend the model")
    ones = np.ones(magnitudes.shape[1])
    largest = magnitudes.max(axis=1, initial=0.0)
    found = [_search(row, ones, top) if top else 0.0 for row, top in zip(magnitudes, largest, strict=True)]
    return np.array(found, np.float64)


def _search(magnitudes: NDArray[np.float64], counts: NDArray[np.float64], absmax: float) -> float:
    coarse = absmax * np.geomspace(_SMALLEST_SHARE, 1.0, _COARSE)
    best = int(np.argmin(_errors(coarse, magnitudes, counts)))
    fine = np.geomspace(coarse[max(best - 1, 0)], coarse[min(best + 1, _COARSE - 1)], _FINE)
    return min(float(fine[np.argmin(_errors(fine, magnitudes, counts))]), float(absmax))


def _merged(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means and the counts of the histogram's bins that share all but the lowest bits."""
    centres, counts = histogram.filled()
    shared = centres.astype(np.float32).view(np.uint32) >> _MERGED_BITS
    first = np.flatnonzero(np.diff(shared, prepend=~shared[:1]))
    merged = np.add.reduceat(counts, first).astype(np.float64)
    return np.add.reduceat(centres * counts, first) / merged, merged


@compiled
def _errors(
    candidates: NDArray[np.float64], magnitudes: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the summed squared error per candidate."""
    errors = np.zeros(candidates.size)
    scales = candidates / INT8_MAX
    inverses = INT8_MAX / candidates
    for i in range(magnitudes.size):
        for j in range(candidates.size):  # innermost, so that they are computed side by side
            level = min(np.rint(magnitudes[i] * inverses[j]), float(INT8_MAX))
            error = magnitudes[i] - level * scales[j]
            errors[j] += counts[i] * error * error
    return errors
