"""Whether the confidence of predictions is what they turn out to be worth, on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error of golden and candidate over the same samples, 0 to 1."""

    golden: float
    candidate: float

    @property
    def rise(self) -> float:
        return self.candidate - self.golden

    def to_dict(self) -> dict[str, float | int]:
        return {"golden": self.golden, "candidate": self.candidate, "bins": BINS}


def expected_calibration_error(scores: Sequence[float], confidences: Sequence[float]) -> float:
    """Mean over the samples of |mean score - mean confidence| of the bin that the sample falls into.

    scores, confidences: at least one, of the same samples, 0 to 1. The bins are 15 of one width, open below
    and closed above (Guo et al., On Calibration of Modern Neural Networks, 2017, equations 2 and 3), but for
    the first, which has 0 too.
    """
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    bins = np.searchsorted(inner, np.asarray(confidences, np.float64), side="left")
    sums = (np.bincount(bins, np.asarray(values, np.float64), BINS) for values in (scores, confidences))
    score, confidence = sums
    return float(np.abs(score - confidence).sum() / len(bins))
