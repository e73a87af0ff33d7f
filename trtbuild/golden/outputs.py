"""The outputs of golden and candidate on every sample: how far apart, and what the metric says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calibrators.shards import ShardSet
from trtbuild.golden.classes import ClassComparison
from trtbuild.golden.differ import Differ, TensorDiff
from trtbuild.golden.metric_file import Metric, Score
from trtbuild.golden.metrics import incomparable
from trtbuild.golden.scores import BaselineScores, MetricScores, calibration_error, pair
from trtbuild.golden.scoring import Baseline, Scorer, scores_of
from trtbuild.golden.shipped import BatchOutputs, run_outputs
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import ValidationSection
from trtbuild.targets.base import Side


@dataclass(frozen=True)
class OutputsDiff:
    """What was found over all samples. `scores`: None without a metric, and for a candidate that lacks an
    output: coverage fails it."""

    differ: Differ
    classes: dict[str, ClassComparison]
    scores: MetricScores | None

    def results(self, model: Model, precisions: PrecisionMap) -> list[TensorDiff]:
        """One entry per output, in the order given, with its class scores if it has such."""
        return [self._with_classes(diff) for diff in self.differ.results(model, precisions)]

    def _with_classes(self, diff: TensorDiff) -> TensorDiff:
        found = self.classes[diff.tensor].result()
        return replace(diff, classes=found) if diff.difference and found.rows else diff


def diff_outputs(
    golden: Side,
    candidate: Side,
    tensors: Sequence[str],
    shards: ShardSet,
    metric: Metric | None,
    section: ValidationSection,
    baseline: Baseline | None = None,
    seed: int = 0,
) -> OutputsDiff:
    """One pass over all samples, and one with the baseline. `seed`: of the confidence intervals.

    Raises InputError when a sample cannot be run or scored, with the baseline too.
    """
    assert metric is not None or baseline is None, "see check_asked"
    differ = Differ(tensors)
    axes = {tensor: section.class_axis_of(tensor) for tensor in tensors}
    classes = {tensor: ClassComparison(axis) for tensor, axis in axes.items()}
    scorer = Scorer(metric, section.max_ece_rise is not None) if metric else None
    expected_scores: list[Score] = []
    seen_scores: list[Score] = []
    for batch in run_outputs((golden, candidate), tensors, shards, "comparing outputs"):
        expected, seen = batch.sides
        differ.update(batch.names[0], expected, seen)
        for tensor, comparison in classes.items():
            if _has_classes(batch, tensor, axes[tensor]):
                comparison.update(expected[tensor], seen[tensor])
        if scorer is not None and differ.complete:
            for sample, (of_golden, of_candidate) in batch.rows():
                expected_scores.append(scorer(of_golden, sample))
                seen_scores.append(scorer(of_candidate, sample))
    if metric is None or not differ.complete:
        return OutputsDiff(differ, classes, None)
    scores = MetricScores(
        metric.name,
        pair(expected_scores, seen_scores, seed),
        section.max_drop or 0.0,
        calibration_error(expected_scores, seen_scores),
    )
    if baseline is not None:
        paired = pair(scores_of(baseline, tensors, shards, metric), seen_scores, seed)
        in_production = BaselineScores(baseline.build, paired, section.baseline_tolerance)
        scores = replace(scores, baseline=in_production)
    return OutputsDiff(differ, classes, scores)


def _has_classes(batch: BatchOutputs, tensor: str, axis: int) -> bool:
    """Whether both sides have floats with such an axis, and it is not that of the batch."""
    golden, candidate = (outputs.get(tensor) for outputs in batch.sides)
    if golden is None or candidate is None or incomparable(golden, candidate):
        return False
    has_axis = -golden.ndim <= axis < golden.ndim
    is_batch = has_axis and tensor in (batch.rows_of or ()) and axis % golden.ndim == 0
    return "float" in golden.dtype.name and has_axis and not is_batch
