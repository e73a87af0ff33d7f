"""The range whose INT8 distribution diverges least from the float one: TensorRT's entropy calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibrators.compiled import compiled
from calibrators.histogram import Histogram

_BINS = 2048
_LEVELS = 128
# Divergences that differ by less than this differ by rounding only.
_TIE = 1e-12


def amax(histogram: Histogram) -> float:
    """Return the clipping threshold with the least Kullback-Leibler divergence.

    The algorithm of S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310). Over 2048 equal bins
    of [0, absmax], for every number m of bins kept, 128 to 2048: P is the kept bins with all outliers
    added to the last; Q is the kept bins without the outliers, merged to 128 levels, each level's count
    spread evenly over those of its bins where P is not zero. The m with the least KL(P || Q) gives
    amax = (m + 0.5) * absmax / 2048, at most absmax.

    Where the slides are silent: bin j of m belongs to level floor(128 * j / m); of equal divergences the
    widest range wins; and bin 0, where ReLU's zeros are, which any scale represents exactly, counts as
    many as bin 1. All three are as in NVIDIA's pytorch-quantization.
    """
    counts = histogram.linear(_BINS).astype(np.float64)
    counts[0] = counts[1]
    if not counts.any():  # every value is zero
        return histogram.absmax
    divergences = _divergences(counts)
    kept = _LEVELS + int(np.flatnonzero(divergences <= divergences.min() + _TIE)[-1])
    return min((kept + 0.5) * histogram.absmax / _BINS, histogram.absmax)


def _divergences(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(P || Q) for every number of bins kept, _LEVELS to len(counts); Inf where Q lacks what P has.

    Within a level Q is constant, so with p the counts of P, N their sum, and for each level its count q
    without outliers, n the bins it is spread over, S the sum of all q:

        KL = sum over bins (p / N) log(p / N)  -  sum over levels (p / N) log(q / n / S)

    All sums are differences of running sums.
    """
    p_log_p = counts * np.log(np.maximum(counts, 1.0))
    return _from_running(counts, _running(counts), _running(counts > 0), _running(p_log_p))


def _running(values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the sums of values[:0], values[:1], … values[:len]."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


@compiled
def _from_running(
    counts: NDArray[np.float64],
    running: NDArray[np.float64],
    running_filled: NDArray[np.float64],
    running_p_log_p: NDArray[np.float64],
) -> NDArray[np.float64]:
    divergences = np.empty(counts.size + 1 - _LEVELS)
    total = running[-1]
    for kept in range(_LEVELS, counts.size + 1):
        outliers = total - running[kept]
        folded = counts[kept - 1] + outliers
        p_log_p = running_p_log_p[kept - 1] + (folded * np.log(folded) if folded else 0.0)
        p_log_q = 0.0
        start = 0
        for level in range(_LEVELS):
            end = -(-kept * (level + 1) // _LEVELS)  # the first j with 128 * j / m >= level + 1
            q = running[end] - running[start]
            spread = running_filled[end] - running_filled[start]
            p = q
            if level == _LEVELS - 1:
                p += outliers
                spread += counts[kept - 1] == 0 and outliers > 0
            if q > 0:
                p_log_q += p * np.log(q / spread)
            elif p > 0:
                p_log_q = -np.inf
            start = end
        # The sums above are of counts: the logarithms of N and S are taken out here, where sum(p) is N.
        inside = running[kept]
        log_ratio = np.log(inside / total) if inside > 0 else np.inf
        divergences[kept - _LEVELS] = (p_log_p - p_log_q) / total + log_ratio
    return divergences
