"""TensorRT's entropy calibration step by step, as GTC S7310 writes it down, from the raw values.

Compiled, or the 1921 * 2048 steps for one tensor would take seconds; nothing else is done for speed.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit
def divergence(counts: np.ndarray, kept: int) -> float:
    """KL(P || Q) for one number of kept bins: the loop of page 38, float64 counts."""
    p = counts[:kept].copy()
    for j in range(kept, counts.size):
        p[kept - 1] += counts[j]
    level_count = np.zeros(128)
    level_bins = np.zeros(128)
    for j in range(kept):
        level = j * 128 // kept
        level_count[level] += counts[j]
        level_bins[level] += p[j] > 0
    q = np.zeros(kept)
    for j in range(kept):
        level = j * 128 // kept
        if p[j] > 0:
            q[j] = level_count[level] / level_bins[level]
    p_sum, q_sum = p.sum(), q.sum()
    total = 0.0
    for j in range(kept):
        if p[j] > 0:
            if q[j] == 0:
                return np.inf
            total += p[j] / p_sum * np.log(p[j] / p_sum / (q[j] / q_sum))
    return total


@numba.njit
def divergences(counts: np.ndarray) -> np.ndarray:
    """`divergence` for 128 to 2048 bins kept."""
    found = np.empty(counts.size - 127)
    for kept in range(128, counts.size + 1):
        found[kept - 128] = divergence(counts, kept)
    return found


def amax_of_counts(counts: np.ndarray, absmax: float) -> float:
    """The threshold for the counts of 2048 equal bins of [0, absmax]; see calibrators/entropy.py on bin 0
    and on equal divergences."""
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    found = divergences(counts)
    kept = 128 + int(np.flatnonzero(found <= found.min() + 1e-12)[-1])
    return min((kept + 0.5) * absmax / 2048, absmax)


def amax(x: np.ndarray) -> float:
    """The threshold for raw values."""
    magnitudes = np.abs(x)
    absmax = float(magnitudes.max())
    return amax_of_counts(np.histogram(magnitudes, bins=2048, range=(0, absmax))[0], absmax)
