"""The gate over all validation samples, and whether it is passed by a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.gate import DEFAULT_THRESHOLDS, judge
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.outputs import diff_outputs
from trtbuild.golden.scope import outputs_of
from trtbuild.golden.scores import MOST, MetricScores
from trtbuild.golden.scoring import Scorer
from trtbuild.golden.shapes import check_shapes
from trtbuild.golden.shipped import run_outputs
from trtbuild.golden.thresholds import check_asked
from trtbuild.golden.verdict import Verdict
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import OutputThresholds, Thresholds, ValidationSection
from trtbuild.targets.base import Side

PASSED, WITH_MARGIN = 1, 2
HALVES = 2


@dataclass(frozen=True)
class Judgement:
    """What the gate says of one side, layers aside.

    figure: the metric's mean, or without a metric the least SQNR of an output, dB. drop, interval: of the
    metric, against the golden, paired, 95 %. margin: it would pass on other samples too: the interval's upper
    end is within max_drop, and where there are thresholds of outputs halves of the samples pass too. failing:
    the checks that failed. samples_needed: about how many would tell, if the drop stays what it is.
    """

    passed: bool
    margin: bool
    figure: float
    drop: float | None
    interval: tuple[float, float] | None
    failing: tuple[str, ...]
    samples_needed: int | None = None

    @property
    def level(self) -> int:
        return WITH_MARGIN if self.margin else PASSED if self.passed else 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Judgement:
        interval = data["interval"]
        pair = None if interval is None else (float(interval[0]), float(interval[1]))
        return cls(**{**data, "interval": pair, "failing": tuple(data["failing"])})


class Judge:
    """Judges sides against one golden. section: the recipe's; seed: of confidence intervals and halves.

    Raises InputError for a golden that does not take the shapes of the samples, and for thresholds of an
    output that the model does not have.
    """

    def __init__(
        self,
        model: Model,
        golden: Side,
        shards: ShardSet,
        metric: Metric | None,
        section: ValidationSection,
        seed: int,
    ) -> None:
        self._model, self._golden, self._shards, self._metric = model, golden, shards, metric
        self._section, self._seed = section.model_copy(update={"layers": Thresholds()}), seed
        self._outputs = model.checked_outputs
        check_asked(section, [*outputs_of(model, True), *self._outputs], metric, None)
        check_shapes(golden, shards)

    def judge(self, side: Side, precisions: PrecisionMap) -> Judgement:
        """Raises InputError when a sample cannot be run or scored."""
        verdict = self._verdict(side, precisions, self._shards)
        scores = verdict.metric
        margin = verdict.passed and (scores is None or self._is_sure(scores))
        if margin and self._has_thresholds:
            margin = all(self._verdict(side, precisions, half).passed for half in self._halves())
        failing = [
            f"{check.name}: {check.seen}, wanted {check.wanted}"
            for check in verdict.checks
            if not check.passed
        ]
        return Judgement(
            passed=verdict.passed,
            margin=margin,
            figure=scores.candidate if scores else _least_sqnr(verdict.outputs),
            drop=scores.drop if scores else None,
            interval=scores.interval if scores else None,
            failing=tuple(failing),
            samples_needed=scores.paired.samples_needed(scores.max_drop) if scores else None,
        )

    def check_reference(self, side: Side, precisions: PrecisionMap, margin: bool) -> Judgement:
        """What the gate says of the float model that the explicit ones are made from.

        Raises InputError for a metric that gives the same outputs another score the second time, a gate that
        even this model fails, and, where a margin is asked for, for samples too few to tell one.
        """
        if self._metric is not None:
            self._check_metric(self._metric)
        found = self.judge(side, precisions)
        if not found.passed:
            raise InputError(
                f"the gate fails the float model itself, so no pins can pass it: {'; '.join(found.failing)}; "
                "mend the metric, the samples or the thresholds of [validation]"
            )
        if margin and not found.margin:
            raise InputError(self._too_few(found))
        return found

    def _verdict(self, side: Side, precisions: PrecisionMap, shards: ShardSet) -> Verdict:
        found = diff_outputs(
            self._golden, side, self._outputs, shards, self._metric, self._section, seed=self._seed
        )
        outputs = found.results(self._model, precisions)
        return judge([], None, outputs, found.scores, self._section, {})

    def _is_sure(self, scores: MetricScores) -> bool:
        return scores.paired.against(scores.max_drop) == "not worse"

    @property
    def _has_thresholds(self) -> bool:
        default = DEFAULT_THRESHOLDS if self._metric is None else OutputThresholds()
        sections = (default, self._section.outputs, *self._section.output.values())
        return any(limit is not None for each in sections for key, limit in each if key != "class_axis")

    def _halves(self) -> list[ShardSet]:
        """Half of the samples, drawn twice."""
        count = (self._shards.samples + 1) // 2
        return [self._shards.drawn(count, self._seed + 1 + index) for index in range(HALVES)]

    def _check_metric(self, metric: Metric) -> None:
        """Also runs the golden on every sample, before anything is compared with it."""
        first, second = (Scorer(metric, self._section.max_ece_rise is not None) for _ in range(2))
        for batch in run_outputs((self._golden,), self._outputs, self._shards, "golden"):
            for sample, (outputs,) in batch.rows():
                copies = {name: array.copy() for name, array in outputs.items()}
                once, again = first(outputs, sample), second(copies, sample)  # it may change what it is given
                if once != again:
                    raise InputError(
                        f"metric {metric.name} is not deterministic: sample {sample} scored {once.value:g}, "
                        f"then {again.value:g}, by the same outputs; take what is random out of it"
                    )

    def _too_few(self, found: Judgement) -> str:
        allowed = self._section.max_drop or 0.0
        seen = f"{self._shards.samples} validation samples"
        if self._shards.samples == 1:
            return "one validation sample tells nothing of others; give more, or --no-margin"
        if found.interval is None or found.interval[1] <= allowed:
            return f"{seen}: halves of them fail a gate that all of them pass; give more, or --no-margin"
        needed = found.samples_needed
        if allowed == 0 or needed is None or needed >= MOST:
            why = f"no number of samples tells a drop of at most {allowed:g} with 95 % confidence"
            return (
                f"{why}; raise validation.max_drop, or give --no-margin to go by the mean, as the gate does"
            )
        return (
            f"{seen} are too few to tell a drop of at most {allowed:g} with 95 % confidence, even of a "
            f"build that loses nothing: about {needed} are needed; give more, raise validation.max_drop, or "
            "give --no-margin to go by the mean, as the gate does"
        )


def _least_sqnr(outputs: Sequence[TensorDiff]) -> float:
    """Infinite where all are equal, -Inf where one cannot be compared."""
    found = [diff.difference.sqnr_db if diff.difference else -math.inf for diff in outputs]
    return min((-math.inf if math.isnan(value) else value for value in found), default=-math.inf)
