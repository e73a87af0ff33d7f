"""The range whose INT8 distribution diverges least from the float one: TensorRT's entropy calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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

    All sums are differences of running sums: the rows below are the numbers kept, the columns levels.
    """
    kept = np.arange(_LEVELS, counts.size + 1)
    last = kept - 1
    total = counts.sum()
    running = _running(counts)
    running_filled = _running(counts > 0)
    running_p_log_p = _running(_x_log(counts, counts))

    inside = running[kept]
    outliers = total - inside
    folded = counts[last] + outliers
    p_log_p = running_p_log_p[last] + _x_log(folded, folded)

    # Level k of m bins starts at the first j with 128 * j / m >= k.
    starts = -(-kept[:, None] * np.arange(_LEVELS + 1) // _LEVELS)
    q = np.diff(running[starts], axis=1)
    spread = np.diff(running_filled[starts], axis=1)
    spread[:, -1] += (counts[last] == 0) & (outliers > 0)
    p = q.copy()
    p[:, -1] += outliers
    density = np.divide(q, spread, out=np.zeros_like(q), where=spread > 0)
    p_log_q = _x_log(p, density).sum(axis=1)
    # The sums above are of counts: the logarithms of N and S are taken out here, where sum(p) is N.
    log_ratio = np.log(np.divide(inside, total, out=np.full_like(inside, np.inf), where=inside > 0))
    divergences: NDArray[np.float64] = (p_log_p - p_log_q) / total + log_ratio
    return divergences


def _running(values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the sums of values[:0], values[:1], … values[:len]."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x * log(y), 0 where x is 0 (its limit), -Inf where only y is."""
    with np.errstate(divide="ignore"):
        return x * np.log(np.where(x > 0, y, 1.0))
