"""The range with the least squared quantization error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibrators.histogram import Histogram
from calibrators.scale import INT8_MAX

_SMALLEST_SHARE = 2.0**-10
_COARSE = 128
_FINE = 33


def amax(histogram: Histogram) -> float:
    """Return the amax that minimises sum((x - DQ(Q(x)))**2) over the histogram.

    Every bin stands for its centre, which is within 1/4096 of its values. Searched are 128 shares of
    absmax from 1/1024 to 1, spaced evenly in their logarithm (5.6 % apart), then 33 between the
    neighbours of the best one (0.34 % apart). Negative values are taken to saturate at -127 as positive
    ones do at 127; of equal errors the smaller range wins.
    """
    if histogram.absmax == 0:
        return 0.0
    magnitudes, counts = histogram.filled()
    coarse = histogram.absmax * np.geomspace(_SMALLEST_SHARE, 1.0, _COARSE)
    best = int(np.argmin(_errors(coarse, magnitudes, counts)))
    fine = np.geomspace(coarse[max(best - 1, 0)], coarse[min(best + 1, _COARSE - 1)], _FINE)
    return min(float(fine[np.argmin(_errors(fine, magnitudes, counts))]), histogram.absmax)


def _errors(
    candidates: NDArray[np.float64], magnitudes: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the summed squared error per candidate, one at a time: all at once would not fit the cache."""
    weights = counts.astype(np.float64)
    errors = np.empty(candidates.size)
    for i, scale in enumerate(candidates / INT8_MAX):
        represented = np.minimum(np.rint(magnitudes / scale), INT8_MAX) * scale
        # No "@": BLAS would start threads, a hundred times slower where cores are busy.
        errors[i] = np.sum(weights * np.square(magnitudes - represented))
    return errors
