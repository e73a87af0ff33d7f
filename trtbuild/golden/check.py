"""The golden check of one build: run both sides, score, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.attribution import attribute
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.gate import judge
from trtbuild.golden.groups import groups_of
from trtbuild.golden.layers import diff_layers
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.outputs import diff_outputs
from trtbuild.golden.scope import outputs_of, scope_of
from trtbuild.golden.scoring import Baseline
from trtbuild.golden.shapes import check_shapes
from trtbuild.golden.thresholds import check_asked
from trtbuild.golden.verdict import Check, Verdict
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import ValidationSection
from trtbuild.targets.base import Side

GIGABYTE = 10**9
HELD_AT_ONCE = 5  # a layer of golden and candidate, its own error, what it inherits, its noise


def check(
    model: Model,
    golden: Side,
    candidate: Side,
    precisions: PrecisionMap,
    shards: ShardSet,
    metric: Metric | None,
    section: ValidationSection,
    baseline: Baseline | None = None,
    seed: int = 0,
) -> Verdict:
    """Diff the outputs and score the metric over all samples, then diff every layer over
    `section.layer_samples` of them.

    `baseline`: what runs the build that this one must not be worse than. `seed`: of confidence intervals.
    Raises InputError when a sample cannot be run or the metric fails on one, and before anything is run
    when a side does not take the shapes of the samples, or what is asked for cannot be told.
    """
    scope = scope_of(model, golden, candidate)
    if not scope.outputs:
        raise InputError(
            f"{model.path}: ONNX Runtime can run no part of this model; there is nothing to compare"
        )
    check_asked(section, [*outputs_of(model, True), *scope.outputs], metric, baseline)
    for side in (golden, candidate, *([baseline.side] if baseline else [])):
        check_shapes(side, shards)
    found = diff_outputs(golden, candidate, scope.outputs, shards, metric, section, baseline, seed)
    outputs = found.results(model, precisions)
    layers, fused = None, dict[str, str]()
    if scope.layers is not None:
        layers, fused = _layers(model, golden, candidate, precisions, shards, section, scope.layers)
    not_checked = {**scope.not_checked, **fused}
    return judge([_interface(golden, candidate)], layers, outputs, found.scores, section, not_checked)


def _layers(
    model: Model,
    golden: Side,
    candidate: Side,
    precisions: PrecisionMap,
    shards: ShardSet,
    section: ValidationSection,
    tensors: Sequence[str],
) -> tuple[list[TensorDiff], dict[str, str]]:
    """Each layer's difference and whose it is; and the layers that were fused away: tensor -> why."""
    memory, sides = section.layer_memory_gb * GIGABYTE, (golden, candidate)
    groups = groups_of(model, tensors, sides, shards, memory / len(sides))
    differs, fused = diff_layers(golden, candidate, groups, shards, section.layer_samples)
    layers = [diff for differ in differs for diff in differ.results(model, precisions)]
    samples = min(section.attribution_samples, section.layer_samples)
    if samples:
        smaller = groups_of(model, tensors, sides, shards, memory / HELD_AT_ONCE)
        found = attribute(golden, candidate, smaller, shards, samples)
        layers = [replace(diff, **vars(found[diff.tensor])) for diff in layers]
    return layers, fused


def _interface(golden: Side, candidate: Side) -> Check:
    """Whether a caller finds the outputs where the golden has them: the model file, as it was given."""
    wanted, seen = golden.outputs, candidate.outputs
    return Check("outputs of the model, in its order", seen == wanted, ", ".join(seen), ", ".join(wanted))
