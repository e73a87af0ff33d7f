"""The golden check of one build: run both sides, score, judge."""

from __future__ import annotations

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.gate import Check, Verdict, judge
from trtbuild.golden.groups import groups_of
from trtbuild.golden.layers import diff_layers
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.outputs import diff_outputs
from trtbuild.golden.scope import scope_of
from trtbuild.golden.shapes import check_shapes
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import ValidationSection
from trtbuild.targets.base import Side


def check(
    model: Model,
    golden: Side,
    candidate: Side,
    precisions: PrecisionMap,
    shards: ShardSet,
    metric: Metric | None,
    section: ValidationSection,
) -> Verdict:
    """Diff every layer over `section.layer_samples` samples, the outputs and the metric over all.

    Raises InputError when a sample cannot be run or the metric fails on one, and before anything is run
    when a side does not take the shapes of the samples.
    """
    scope = scope_of(model, golden, candidate)
    if not scope.outputs:
        raise InputError(
            f"{model.path}: ONNX Runtime can run no part of this model; there is nothing to compare"
        )
    for side in (golden, candidate):
        check_shapes(side, shards)
    layers: list[TensorDiff] | None = None
    fused: dict[str, str] = {}
    if scope.layers is not None:
        groups = groups_of(model, scope.layers, (golden, candidate), shards)
        differs, fused = diff_layers(golden, candidate, groups, shards, section.layer_samples)
        layers = [diff for differ in differs for diff in differ.results(model, precisions)]
    differ, scores = diff_outputs(golden, candidate, scope.outputs, shards, metric, section.max_drop or 0.0)
    outputs = differ.results(model, precisions)
    not_checked = {**scope.not_checked, **fused}
    return judge([_interface(golden, candidate)], layers, outputs, scores, section.outputs, not_checked)


def _interface(golden: Side, candidate: Side) -> Check:
    """Whether a caller finds the outputs where the golden has them: the model file, as it was given."""
    wanted, seen = golden.outputs, candidate.outputs
    return Check("outputs of the model, in its order", seen == wanted, ", ".join(seen), ", ".join(wanted))
