"""The golden check of one build: run both sides, score, judge."""

from __future__ import annotations

import onnx_ir as ir

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.gate import Check, MetricScores, Verdict, judge
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.run import Differ, TensorDiff, diff_layers, run_outputs
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import ValidationSection

REMOVED = "folded or inlined when the model was normalised"

HIDDEN = "bfloat16, which ONNX Runtime cannot hand out; the layers after it are compared"


def check(
    model: Model,
    candidate: ir.Model,
    precisions: PrecisionMap,
    shards: ShardSet,
    metric: Metric | None,
    section: ValidationSection,
) -> Verdict:
    """Diff every layer over `section.layer_samples` samples, the outputs and the metric over all.

    Raises InputError when a sample cannot be run or the metric fails on one.
    """
    if not model.checked_outputs:
        raise InputError(
            f"{model.path}: ONNX Runtime can run no part of this model; there is nothing to compare"
        )
    layers = diff_layers(model, candidate, precisions, shards, section.layer_samples)
    outputs, scores = _outputs(model, candidate, precisions, shards, metric, section.max_drop or 0.0)
    not_checked = {
        **model.unrunnable,
        **dict.fromkeys(model.removed, REMOVED),
        **dict.fromkeys(model.hidden, HIDDEN),
    }
    return judge([_interface(model, candidate)], layers, outputs, scores, section.outputs, not_checked)


def _interface(model: Model, candidate: ir.Model) -> Check:
    """Whether a caller finds the outputs where the model file, as it was given, has them."""
    wanted, seen = (
        [str(value.name) for value in side.graph.outputs] for side in (files.read(model.path), candidate)
    )
    return Check("outputs of the model, in its order", seen == wanted, ", ".join(seen), ", ".join(wanted))


def _outputs(
    model: Model,
    candidate: ir.Model,
    precisions: PrecisionMap,
    shards: ShardSet,
    metric: Metric | None,
    max_drop: float,
) -> tuple[list[TensorDiff], MetricScores | None]:
    """One pass over all samples. No score for a candidate that lacks an output: coverage fails it."""
    differ = Differ(model.checked_outputs)
    golden_scores, candidate_scores = [], []
    for batch in run_outputs(model, candidate, shards):
        differ.update(batch.names[0], batch.golden, batch.candidate)
        if metric is not None and differ.complete:
            for sample, golden, seen in batch.rows():
                golden_scores.append(metric(golden, sample))
                candidate_scores.append(metric(seen, sample))
    scores = None
    if metric is not None and differ.complete:
        count = len(golden_scores)
        scores = MetricScores(
            metric.name, count, sum(golden_scores) / count, sum(candidate_scores) / count, max_drop
        )
    return differ.results(model, precisions), scores
