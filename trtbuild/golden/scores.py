"""The task metric on the same samples with two builds: how much was lost, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from trtbuild.golden.calibration_error import CalibrationError, expected_calibration_error
from trtbuild.golden.metric_file import Score

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
FEW = 10
"""Samples that changed: of fewer, resampling does not make up those that were not seen."""
MOST = 1e6
ROUNDING = 1e-9
"""Of means and shares of floats: what is exactly at its limit must pass."""
_RESAMPLES = 10_000
_AT_ONCE = 1 << 22  # random numbers: 32 MB


@dataclass(frozen=True)
class Paired:
    """The metric per sample with a reference (the golden, or the build in production) and with the candidate.

    reference, candidate: the same samples, at least one, in the same order. seed: of the resampling.
    """

    reference: tuple[float, ...]
    candidate: tuple[float, ...]
    seed: int = 0

    @property
    def samples(self) -> int:
        return len(self.reference)

    @property
    def drop(self) -> float:
        """How much the mean lost; negative where the candidate is better."""
        return mean(self.reference) - mean(self.candidate)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the drop; None for one sample, which tells nothing of the others.

        The percentile bootstrap over samples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
        chapter 13). Pairs stay together, so what is hard for both builds does not widen it. Where fewer than
        FEW samples changed it knows too little of those that do: then it is at least as wide as what so many
        samples may hide on either side (`unseen`).
        """
        if self.samples == 1:
            return None
        low, high = self._resampled
        if np.count_nonzero(np.subtract(self.reference, self.candidate)) < FEW:
            hidden = unseen(self.samples) * self._span
            low, high = min(low, self.drop - hidden), max(high, self.drop + hidden)
        return low, high

    @cached_property
    def _resampled(self) -> tuple[float, float]:
        """The percentile bootstrap's interval."""
        drops = np.subtract(self.reference, self.candidate)
        rng = np.random.default_rng(self.seed)
        rows = max(1, _AT_ONCE // drops.size)
        means = np.concatenate(
            [
                drops[rng.integers(drops.size, size=(min(rows, _RESAMPLES - done), drops.size))].mean(axis=1)
                for done in range(0, _RESAMPLES, rows)
            ]
        )
        low, high = np.quantile(means, [TAIL, 1 - TAIL]).tolist()
        return low, high

    @property
    def _span(self) -> float:
        """How far apart two scores of a sample may be: 1 for scores from 0 to 1, else as far as any are."""
        scores = (*self.reference, *self.candidate)
        return 1.0 if min(scores) >= 0 and max(scores) <= 1 else max(scores) - min(scores)

    def against(self, tolerance: float) -> Literal["not worse", "worse", "undecided"]:
        """Whether the candidate loses more than `tolerance`: a test of non-inferiority, by the interval."""
        if self.interval is None:
            return "undecided"
        low, high = self.interval
        if high <= tolerance + ROUNDING:
            return "not worse"
        return "worse" if low > tolerance + ROUNDING else "undecided"

    def samples_needed(self, tolerance: float) -> int | None:
        """About how many samples, a million at most, would tell that the drop is at most `tolerance`, if it
        stays what it is: what resampling tells narrows with the root of their number, what they may hide with
        their number. None where no number would."""
        room = tolerance - self.drop
        if self.interval is None or room <= 0:
            return None
        half = (self._resampled[1] - self.drop) / room
        hidden = math.log(TAIL) / math.log1p(-min(room / self._span, 0.5)) if self._span else 0.0
        return math.ceil(min(MOST, max(self.samples * min(half, MOST) ** 2, hidden)))


def unseen(samples: int) -> float:
    """The largest share of all samples that so many, drawn from them, may well not show one of: with this
    confidence at least one would be among them (the rule of three, exactly)."""
    return float(1 - TAIL ** (1 / samples))


@dataclass(frozen=True)
class BaselineScores:
    """The candidate against the build in production. `build`: its key; `tolerance`: most that may be lost."""

    build: str
    paired: Paired
    tolerance: float

    @property
    def mean(self) -> float:
        return mean(self.paired.reference)

    def to_dict(self) -> dict[str, Any]:
        return {
            "build": self.build,
            "mean": self.mean,
            "drop": self.paired.drop,
            "interval": _listed(self.paired.interval),
            "tolerance": self.tolerance,
            "outcome": self.paired.against(self.tolerance),
        }


@dataclass(frozen=True)
class MetricScores:
    """The task metric over the same samples with golden and candidate: per sample, and the means.

    `ece` is None for a metric that returns no confidence.
    """

    name: str
    paired: Paired
    max_drop: float
    ece: CalibrationError | None = None
    baseline: BaselineScores | None = None

    @property
    def samples(self) -> int:
        return self.paired.samples

    @property
    def golden(self) -> float:
        return mean(self.paired.reference)

    @property
    def candidate(self) -> float:
        return mean(self.paired.candidate)

    @property
    def drop(self) -> float:
        return self.paired.drop

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.paired.interval

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "samples": self.samples,
            "golden": self.golden,
            "candidate": self.candidate,
            "max_drop": self.max_drop,
            "drop": self.drop,
            "interval": _listed(self.interval),
            "baseline": self.baseline.to_dict() if self.baseline else None,
            "ece": self.ece.to_dict() if self.ece else None,
        }


def pair(reference: Sequence[Score], candidate: Sequence[Score], seed: int) -> Paired:
    return Paired(_values(reference), _values(candidate), seed)


def calibration_error(golden: Sequence[Score], candidate: Sequence[Score]) -> CalibrationError | None:
    """None where the scores have no confidence; `Scorer` lets none be without where others have one."""
    errors = []
    for scores in (golden, candidate):
        confidences = [score.confidence for score in scores if score.confidence is not None]
        if not confidences:
            return None
        errors.append(expected_calibration_error(_values(scores), confidences))
    return CalibrationError(*errors)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _values(scores: Sequence[Score]) -> tuple[float, ...]:
    return tuple(score.value for score in scores)


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
