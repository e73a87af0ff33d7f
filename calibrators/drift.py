"""How far the values of one set of samples lie from those of another: PSI and KL over deciles.

Bins. The deciles of set A's values, and a bin below and one above all of them. Between two deciles lies
always some value of A: where one value fills several deciles (the zeros of a ReLU, a one-hot input), they are
one bin. A limit lies half way between two neighbouring values of A, so rounding moves no value across it.

With a and b the shares of the two sets in a bin, none taken as less than FLOOR (0.0001, as the drift library
Evidently does) and each set's made to sum to 1:

    PSI = sum (b - a) ln(b / a)      population stability index: Siddiqi, Credit Risk Scorecards, 2006,
                                     whose rule of thumb takes more than 0.25 for a significant shift
    KL  = sum b ln(b / a)            KL(B || A), in nats: Kullback and Leibler, 1951

By chance. Values inside a sample are not independent, so no formula on their number says what PSI sets from
one source would have; but then it does not matter which set a sample is in. So the samples of both sets are
dealt out anew at random, a hundred times, and the largest PSI is what chance can do: a permutation test
(Fisher, The Design of Experiments, 1935).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram

FLOOR = 1e-4
_DECILES = 10
_DEALS = 100
# In shares of absmax; a step of INT8 is 1/127. Below the first, a value is taken for the zero that it is in
# float32 arithmetic; by less than the second beyond A's range, for a rounding error and not for outside.
_ZERO, _MARGIN = 1e-6, 1e-3


class SignedHistogram:
    """The values of a tensor with their signs, as they stream by: two histograms of magnitudes."""

    def __init__(self) -> None:
        self._positive, self._negative = Histogram(), Histogram()  # each holds the other's values as zeros

    def update(self, x: NDArray[np.float32]) -> None:
        """Count every value of x, of any shape; all finite."""
        self._positive.update(np.maximum(x, 0))
        self._negative.update(np.minimum(x, 0))

    @property
    def count(self) -> int:
        """How many values were counted."""
        return self._positive.count

    @property
    def absmax(self) -> float:
        """The largest magnitude, exactly (a float32)."""
        return max(self._positive.absmax, self._negative.absmax)

    def values(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The distinct values, ascending, as finely as the histograms have them, and how many there are of
        each."""
        up, ups = self._above_zero(self._positive)
        down, downs = self._above_zero(self._negative)
        zeros = self.count - int(ups.sum()) - int(downs.sum())
        values = np.concatenate([-down[::-1], [0.0], up])
        counts = np.concatenate([downs[::-1], [zeros], ups])
        return values[counts > 0], counts[counts > 0]

    def _above_zero(self, histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        magnitudes, counts = histogram.filled()
        kept = magnitudes > self.absmax * _ZERO
        return magnitudes[kept], counts[kept]

    def limits(self) -> tuple[float, ...]:
        """What parts the bins, ascending: the lowest value, up to nine deciles, the highest value.

        Raises CalibratorError when nothing was counted.
        """
        if not self.count:
            raise CalibratorError("no values were counted: there are no deciles; feed at least one sample")
        values, counts = self.values()
        ranks = np.arange(1, _DECILES) * self.count / _DECILES
        last = np.unique(np.searchsorted(np.cumsum(counts), ranks))  # the last value of each decile
        last = last[last < len(values) - 1]
        between = (values[last] + values[last + 1]) / 2
        margin = self.absmax * _MARGIN
        with np.errstate(over="ignore"):  # outside of float32 is beyond any value: Inf
            limits = np.array([values[0] - margin, *between, values[-1] + margin]).astype(np.float32)
        return tuple(limits.tolist())


def bin_counts(x: NDArray[np.float32], limits: Sequence[float]) -> NDArray[np.int64]:
    """How many values of x are in each bin, shape (len(limits) + 1,); a value on a limit is below it."""
    above = [x.size, *(int(np.count_nonzero(x > limit)) for limit in limits), 0]
    return np.asarray(above[:-1], np.int64) - np.asarray(above[1:], np.int64)


def psi(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """The population stability index of two sets of counts over the same bins; both have values."""
    p, q = _shares(a), _shares(b)
    return float(np.sum((q - p) * np.log(q / p)))


def kl(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """KL(B || A) in nats, of counts over the same bins."""
    p, q = _shares(a), _shares(b)
    return max(float(np.sum(q * np.log(q / p))), 0.0)


def by_chance(a: Sequence[NDArray[np.int64]], b: Sequence[NDArray[np.int64]]) -> float:
    """The PSI that A and B could have were all their samples from one source: the largest of _DEALS deals.

    a, b: the counts of each run of the model (one sample, or a fixed batch), over the same bins. The deals
    are the same each time. Raises CalibratorError for a set of fewer than two runs: chance can do anything.
    """
    if min(len(a), len(b)) < 2:
        raise CalibratorError("one sample cannot be told from chance; give at least two in each set")
    runs = np.stack([*a, *b])
    total = runs.sum(axis=0)
    rng = np.random.default_rng(0)
    dealt = (runs[rng.permutation(len(runs))[: len(a)]].sum(axis=0) for _ in range(_DEALS))
    return max(
        (psi(part, total - part) for part in dealt if part.any() and (total - part).any()), default=0.0
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shares = np.maximum(counts / counts.sum(), FLOOR)
    return np.asarray(shares / shares.sum(), np.float64)
