"""The task metric on each sample: of the sides of a check, and of the build in production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.metric_file import Metric, Score
from trtbuild.golden.shipped import run_outputs
from trtbuild.targets.base import Side
from trtbuild.targets.session import Tensors


@dataclass(frozen=True)
class Baseline:
    """The build now in production: its key, and what runs it."""

    build: str
    side: Side


class Scorer:
    """Scores samples: all of them with a confidence, or none."""

    def __init__(self, metric: Metric, needs_confidence: bool) -> None:
        self._metric, self._needs = metric, needs_confidence
        self._first: Score | None = None

    def __call__(self, outputs: Tensors, sample: str) -> Score:
        """Raises InputError as the metric does, and for a confidence that is missing."""
        score, name = self._metric(outputs, sample), self._metric.name
        self._first = self._first or score
        if self._needs and score.confidence is None:
            raise InputError(
                f"metric {name} returned no confidence for sample {sample}, and validation.max_ece_rise "
                "needs it; return (score, confidence), or take the key out of the recipe"
            )
        if (score.confidence is None) != (self._first.confidence is None):
            raise InputError(
                f"metric {name} returned a confidence for some samples only, as sample {sample} shows; "
                "return (score, confidence) for all, or the score for all"
            )
        return score


def scores_of(baseline: Baseline, tensors: Sequence[str], shards: ShardSet, metric: Metric) -> list[Score]:
    """The metric with the baseline on every sample, given these outputs as far as it has them.

    Raises InputError, naming the baseline, when a sample cannot be run or scored.
    """
    lacking: list[str] = []
    scores = []
    try:
        for batch in run_outputs((baseline.side,), tensors, shards, "scoring the baseline"):
            lacking = [tensor for tensor in tensors if tensor not in batch.sides[0]]
            scores += [metric(outputs, name) for name, (outputs,) in batch.rows()]
    except InputError as error:
        without = f", which has no output {', '.join(lacking)}" if lacking else ""
        raise InputError(f"baseline {baseline.build}{without}: {error}") from error
    return scores
