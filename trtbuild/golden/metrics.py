"""How far two tensors are apart: one fused pass per pair, sums in float64, mergeable over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtbuild.golden import kernels
from trtbuild.golden.kernels import BINS, SUMS

FLOOR = 1e-3
"""Elements smaller than this share of a sample's largest are judged relative to that, not to themselves:
what is nearly zero is off by any factor, and says nothing."""
_POSITIVE = (np.arange((0x7F800000 >> 20) + 1, dtype=np.uint32) << 20).view(np.float32).astype(np.float64)
_POSITIVE[-1] = 2.0**128
_EDGES = np.concatenate([-_POSITIVE[:0:-1], _POSITIVE])
"""Of the bins by value: what sign, exponent and three bits of mantissa tell apart."""
LARGEST = (kernels.MAX_ABS, kernels.MAX_REL)


@dataclass(frozen=True)
class Difference:
    """Candidate against golden, over all elements seen that are finite on both sides.

    max_abs, rmse, l2: in the tensor's unit; l2 is the norm of the error, l2_relative its share of the
    golden's norm. max_rel: largest |error| / max(|golden|, 0.001 · largest |golden| of that sample);
    infinite where the golden's sample is all zeros and the candidate's is not. sqnr_db:
    10·log10(golden power / error power), infinite when the two are equal. cosine: of the flattened
    tensors; 1 for equal ones. kl: nats, golden against candidate, between the histograms of their values
    over 4096 log-spaced bins. nonfinite_*: how many NaN and Inf, which count for nothing else; nan_*: the
    NaN among them; nonfinite_unmatched: where the other side has not the same NaN or Inf.

    NaN, which no threshold passes, is what cannot be told: figures over no elements, and those of float64
    tensors whose squares leave float64's range.
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
    max_rel: float = math.nan
    l2: float = math.nan
    l2_relative: float = math.nan
    nan_golden: int = 0
    nan_candidate: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON: infinite and undefined figures become null (`max_abs` tells equal from dead)."""
        return {name: _json(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Histogram:
    """edges: n + 1 rising bounds. golden, candidate: n counts each."""

    edges: list[float]
    golden: list[int]
    candidate: list[int]


class Comparison:
    """Accumulates the difference of one tensor over samples; threads may update different ones at once.

    Counts and largest values do not depend on the order of samples; sums do by their rounding alone.
    """

    def __init__(self) -> None:
        self._sums = np.zeros(SUMS, np.float64)
        self._counts = np.zeros((2, BINS), np.int64)

    def update(self, golden: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add one sample: two arrays of one shape and one dtype of real numbers; binned as float32.

        Integers beyond 2**53 are rounded to float64. Raises ValueError when the two are `incomparable`.
        """
        if problem := incomparable(golden, candidate):
            raise ValueError(problem)
        if golden.size == 0:
            return
        with np.errstate(over="ignore"):  # of a float64: the outermost bin
            a, b = _flat(golden, np.float32), _flat(candidate, np.float32)
        bits = a.view(np.uint32), b.view(np.uint32)
        if np.can_cast(golden.dtype, np.float32):
            kernels.add_float32(a, b, *bits, FLOOR * _absmax(a), self._sums, self._counts)
        else:  # an int64 class index, say, must not be rounded
            wide = _flat(golden, np.float64), _flat(candidate, np.float64)
            kernels.add_float64(*wide, *bits, FLOOR * _absmax(wide[0]), self._sums, self._counts)

    def merge(self, other: Comparison) -> None:
        """Add what another one has seen; that is left as it is."""
        largest = [max(self._sums[i], other._sums[i]) for i in LARGEST]
        self._sums += other._sums
        self._sums[list(LARGEST)] = largest
        self._counts += other._counts

    def result(self) -> Difference:
        sums = self._sums.tolist()
        count, max_abs = int(sums[kernels.COUNT]), sums[kernels.MAX_ABS]
        error, power = sums[kernels.ERROR], sums[kernels.GOLDEN]
        return Difference(
            count=count,
            max_abs=max_abs,
            rmse=math.sqrt(error / count) if count else math.nan,
            sqnr_db=_decibel(count, max_abs, power, error),
            cosine=_cosine(count, max_abs, sums[kernels.PRODUCT], power, sums[kernels.CANDIDATE]),
            kl=_kl(self._counts[0], self._counts[1]),
            nonfinite_golden=int(sums[kernels.BAD_GOLDEN]),
            nonfinite_candidate=int(sums[kernels.BAD_CANDIDATE]),
            nonfinite_unmatched=int(sums[kernels.UNMATCHED]),
            max_rel=sums[kernels.MAX_REL] if count else math.nan,
            l2=math.sqrt(error) if count else math.nan,
            l2_relative=_relative(count, max_abs, power, error),
            nan_golden=int(sums[kernels.NAN_GOLDEN]),
            nan_candidate=int(sums[kernels.NAN_CANDIDATE]),
        )

    def histogram(self) -> Histogram | None:
        """The values of both sides over the bins that `kl` compares, from the lowest occupied one to the
        highest; None where there are no values."""
        finite = _EDGES.size // 2  # bins of either sign
        counts = np.concatenate(
            [self._counts[:, BINS // 2 :][:, :finite][:, ::-1], self._counts[:, :finite]], 1
        )
        (occupied,) = np.nonzero(counts.sum(axis=0))
        if not occupied.size:
            return None
        first, last = int(occupied[0]), int(occupied[-1]) + 1
        golden, candidate = (side[first:last].tolist() for side in counts)
        return Histogram(_EDGES[first : last + 1].tolist(), golden, candidate)


def incomparable(golden: NDArray[Any], candidate: NDArray[Any]) -> str | None:
    """Why two arrays have no difference to measure; None if they have one."""
    if golden.shape != candidate.shape:
        return f"shape {candidate.shape} where the golden has {golden.shape}"
    if golden.dtype != candidate.dtype:
        return f"dtype {candidate.dtype} where the golden has {golden.dtype}"
    if golden.dtype.kind in "OSUc":
        return f"values of dtype {golden.dtype} cannot be compared as numbers"
    return None


def _flat(array: NDArray[Any], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype).reshape(-1)


def _absmax(values: NDArray[Any]) -> float:
    """The largest finite magnitude; 0.0 where nothing is finite."""
    largest = max(float(values.max()), -float(values.min()))
    if math.isfinite(largest):
        return largest
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _decibel(count: int, max_abs: float, power: float, error: float) -> float:
    relative = _relative(count, max_abs, power, error)
    if relative == 0:
        return math.inf
    return -math.inf if relative == math.inf else -20 * math.log10(relative)


def _relative(count: int, max_abs: float, power: float, error: float) -> float:
    """Norm of the error over the golden's: 0 for equal tensors, infinite for a golden of zeros."""
    if count and max_abs == 0:
        return 0.0
    if count == 0 or error == 0 or math.inf in (power, error):  # nothing seen; squares under- or overflowed
        return math.nan
    return math.sqrt(error) / math.sqrt(power) if power > 0 else math.inf


def _cosine(count: int, max_abs: float, product: float, power: float, power_candidate: float) -> float:
    """1 for two zero tensors, 0 where only one is zero: a dead candidate must not look similar."""
    if count and max_abs == 0:
        return 1.0
    if count == 0 or math.inf in (power, power_candidate):
        return math.nan
    if power == 0 or power_candidate == 0:
        return 0.0
    return max(-1.0, min(1.0, product / math.sqrt(power) / math.sqrt(power_candidate)))


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
