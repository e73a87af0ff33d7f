"""How far two tensors are apart: one fused pass per pair, sums in float64, mergeable over batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.compiled import compiled

BINS = 4096  # of a float32's upper 12 bits: sign, exponent, three bits of mantissa
COUNT, ERROR, GOLDEN, CANDIDATE, PRODUCT, MAX_ABS, BAD_GOLDEN, BAD_CANDIDATE, UNMATCHED, SUMS = range(10)


@dataclass(frozen=True)
class Difference:
    """Candidate against golden, over all elements seen.

    max_abs, rmse: in the tensor's unit. sqnr_db: 10·log10(golden power / error power), infinite when
    the two are equal. cosine: of the flattened tensors. kl: nats, golden against candidate, between
    the histograms of their values over 4096 log-spaced bins. nonfinite_*: how many NaN and Inf, which
    count for nothing else; nonfinite_unmatched: where the other side has not the same NaN or Inf.
    """

    count: int
    max_abs: float
    rmse: float
    sqnr_db: float
    cosine: float
    kl: float
    nonfinite_golden: int
    nonfinite_candidate: int
    nonfinite_unmatched: int

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON: infinite and undefined figures become null (`max_abs` tells equal from dead)."""
        return {name: _json(value) for name, value in vars(self).items()}


class Comparison:
    """Accumulates the difference of one tensor over batches."""

    def __init__(self) -> None:
        self._sums = np.zeros(SUMS, np.float64)
        self._histograms = np.zeros((2, BINS), np.int64)

    def update(self, golden: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add one pair of arrays of the same shape and any numeric dtype; binned as float32."""
        with np.errstate(over="ignore"):  # of a float64: the outermost bin
            a, b = _flat(golden, np.float32), _flat(candidate, np.float32)
        bits = a.view(np.uint32), b.view(np.uint32)
        if not np.can_cast(golden.dtype, np.float32):  # as an int64 class index, say, must not be rounded
            a, b = _flat(golden, np.float64), _flat(candidate, np.float64)
        _accumulate(a, b, *bits, self._sums, self._histograms)

    def result(self) -> Difference:
        sums = self._sums.tolist()
        count = int(sums[COUNT])
        return Difference(
            count=count,
            max_abs=sums[MAX_ABS],
            rmse=math.sqrt(sums[ERROR] / count) if count else math.nan,
            sqnr_db=_decibel(sums[GOLDEN], sums[ERROR]),
            cosine=_cosine(sums[PRODUCT], sums[GOLDEN], sums[CANDIDATE]),
            kl=_kl(self._histograms[0], self._histograms[1]),
            nonfinite_golden=int(sums[BAD_GOLDEN]),
            nonfinite_candidate=int(sums[BAD_CANDIDATE]),
            nonfinite_unmatched=int(sums[UNMATCHED]),
        )


def _flat(array: NDArray[Any], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype).reshape(-1)


@compiled
def _accumulate(
    golden: Any, candidate: Any, golden_bits: Any, candidate_bits: Any, sums: Any, histograms: Any
) -> None:
    error = power_golden = power_candidate = product = largest = 0.0
    bad_golden = bad_candidate = unmatched = count = 0
    for i in range(golden.size):
        a, b = np.float64(golden[i]), np.float64(candidate[i])
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        bad_golden += not finite_a
        bad_candidate += not finite_b
        if finite_a and finite_b:
            difference = b - a
            count += 1
            error += difference * difference
            power_golden += a * a
            power_candidate += b * b
            product += a * b
            largest = max(largest, abs(difference))
            histograms[0, golden_bits[i] >> 20] += 1
            histograms[1, candidate_bits[i] >> 20] += 1
        elif a != b and not (np.isnan(a) and np.isnan(b)):
            unmatched += 1
    sums[COUNT] += count
    sums[ERROR] += error
    sums[GOLDEN] += power_golden
    sums[CANDIDATE] += power_candidate
    sums[PRODUCT] += product
    sums[MAX_ABS] = max(sums[MAX_ABS], largest)
    sums[BAD_GOLDEN] += bad_golden
    sums[BAD_CANDIDATE] += bad_candidate
    sums[UNMATCHED] += unmatched


def _decibel(power: float, error: float) -> float:
    if error == 0:
        return math.inf
    return 10 * (math.log10(power) - math.log10(error)) if power > 0 else -math.inf


def _cosine(product: float, power_golden: float, power_candidate: float) -> float:
    """1 for two zero tensors, 0 where only one is zero: a dead candidate must not look similar."""
    if power_golden == 0 and power_candidate == 0:
        return 1.0
    if power_golden == 0 or power_candidate == 0:
        return 0.0
    return product / math.sqrt(power_golden) / math.sqrt(power_candidate)


def _kl(golden: NDArray[np.int64], candidate: NDArray[np.int64]) -> float:
    """KL(golden || candidate); half a count is added to each bin that either one occupies."""
    occupied = (golden > 0) | (candidate > 0)
    if not occupied.any():
        return math.nan
    p, q = golden[occupied] + 0.5, candidate[occupied] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return max(0.0, float(np.sum(p * np.log(p / q))))


def _json(value: float) -> float | int | None:
    return value if math.isfinite(value) else None
