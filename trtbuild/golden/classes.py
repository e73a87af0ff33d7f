"""How far two tensors of class scores are apart: whether the winner changed, and how the shares moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.compiled import compiled
from trtbuild.golden.metrics import incomparable

ROWS, CHANGED, RANKED, DISTRIBUTIONS, KL_LOGITS, KL_PROBABILITIES, SUMS = range(7)
SUM_TOLERANCE = 0.01  # bfloat16 rounds the largest probability by up to 0.002
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class ClassDifference:
    """Candidate against golden, over all rows of class scores seen.

    argmax_changed: share of the rows whose largest score (the first, among equals) is another one; a row
    with NaN or +Inf, or with -Inf alone, on either side counts as changed. unranked: how many such
    rows. kl: mean over the other rows, in nats, golden against candidate. probabilities: what the rows were
    taken for. True: every golden row is non-negative and sums to 1 within 0.01, and both sides count as
    they are, divided by their sums, the candidate's none below float32's smallest normal number. False:
    logits, and both sides go through softmax; infinite where the candidate alone has -Inf.

    NaN where there is nothing to tell: no rows, or a class axis of one.
    """

    rows: int
    argmax_changed: float
    unranked: int
    kl: float
    probabilities: bool

    def to_dict(self) -> dict[str, float | int | bool | None]:
        """For JSON: infinite and undefined figures become null."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


class ClassComparison:
    """Accumulates the class difference of one output over samples; a second, separate pass over it.

    Threads may update different ones at once.
    """

    def __init__(self, axis: int = -1) -> None:
        """axis: where the classes are."""
        self._axis = axis
        self._sums = np.zeros(SUMS, np.float64)

    def update(self, golden: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add one sample: two arrays of one shape and one dtype of real numbers.

        Raises ValueError when the two are `incomparable`, or have no such axis.
        """
        if problem := incomparable(golden, candidate):
            raise ValueError(problem)
        if golden.ndim and not -golden.ndim <= self._axis < golden.ndim:
            raise ValueError(f"class axis {self._axis}: the tensor has shape {golden.shape}")
        if golden.ndim and golden.size and golden.shape[self._axis] > 1:
            _add_rows(self._rows(golden), self._rows(candidate), self._sums)

    def merge(self, other: ClassComparison) -> None:
        """Add what another one has seen; that is left as it is."""
        self._sums += other._sums

    def result(self) -> ClassDifference:
        sums = self._sums.tolist()
        rows, ranked = int(sums[ROWS]), int(sums[RANKED])
        probabilities = 0 < ranked == sums[DISTRIBUTIONS]
        kl = sums[KL_PROBABILITIES if probabilities else KL_LOGITS]
        return ClassDifference(
            rows=rows,
            argmax_changed=sums[CHANGED] / rows if rows else math.nan,
            unranked=rows - ranked,
            kl=kl / ranked if ranked else math.nan,
            probabilities=probabilities,
        )

    def _rows(self, scores: NDArray[Any]) -> NDArray[Any]:
        """float32 where that holds the dtype, else float64; shape (rows, classes)."""
        dtype = np.float32 if np.can_cast(scores.dtype, np.float32) else np.float64
        last = np.moveaxis(scores, self._axis, -1)
        return np.ascontiguousarray(last, dtype).reshape(-1, last.shape[-1])


@compiled
def _add_rows(golden: Any, candidate: Any, sums: Any) -> None:
    """Add rows of class scores, shape (rows, classes), to `sums` (float64, shape (SUMS,))."""
    for row in range(golden.shape[0]):
        a, b = golden[row], candidate[row]
        best_a, best_b = _best(a), _best(b)
        sums[ROWS] += 1
        if best_a < 0 or best_b < 0:
            sums[CHANGED] += 1
            continue
        sums[CHANGED] += best_a != best_b
        sums[RANKED] += 1
        sums[DISTRIBUTIONS] += _is_distribution(a)
        sums[KL_LOGITS] += _kl_logits(a, b, np.float64(a[best_a]), np.float64(b[best_b]))
        sums[KL_PROBABILITIES] += _kl_probabilities(a, b)


@compiled
def _best(scores: Any) -> int:
    """The first of the largest; -1 where a NaN or +Inf, or nothing but -Inf, leaves no order."""
    best = -1
    for i in range(scores.size):
        x = scores[i]
        if np.isnan(x) or x == np.inf:
            return -1
        if x > -np.inf and (best < 0 or x > scores[best]):
            best = i
    return best


@compiled
def _is_distribution(scores: Any) -> bool:
    total = 0.0
    for x in scores:
        if x < 0:
            return False
        total += np.float64(x)
    return abs(total - 1) <= SUM_TOLERANCE


@compiled
def _kl_logits(golden: Any, candidate: Any, largest_a: float, largest_b: float) -> float:
    """KL(softmax(golden) || softmax(candidate)), in nats. With the largest taken off nothing overflows."""
    total_a = total_b = weighted = 0.0
    for i in range(golden.size):
        a, b = np.float64(golden[i]) - largest_a, np.float64(candidate[i]) - largest_b
        share = np.exp(a)
        total_a += share
        total_b += np.exp(b)
        if share > 0:
            weighted += share * (a - b)
    return max(0.0, float(weighted / total_a + np.log(total_b) - np.log(total_a)))


@compiled
def _kl_probabilities(golden: Any, candidate: Any) -> float:
    """KL(golden || candidate), in nats, each divided by its sum; none of the candidate below TINY."""
    total_a = total_b = weighted = 0.0
    for i in range(golden.size):
        a, b = np.float64(golden[i]), max(np.float64(candidate[i]), TINY)
        total_a += a
        total_b += b
        if a > 0:
            weighted += a * (np.log(a) - np.log(b))
    if total_a <= 0:
        return math.nan  # no distribution: what is asked of such rows is the other KL
    return max(0.0, float(weighted / total_a + np.log(total_b) - np.log(total_a)))
