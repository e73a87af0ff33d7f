"""`method = "auto"`: per tensor the method whose range harms the outputs least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from calibrators.histogram import Histogram
from calibrators.method import Method, amax
from calibrators.shards import ShardSet
from calibrators.table import Range
from trtbuild.model.graph import NO_TENSOR
from trtbuild.model.model import Model
from trtbuild.progress import say
from trtbuild.ranges.choose import choose
from trtbuild.ranges.held_back import never_worse
from trtbuild.ranges.samples import FEWEST, split
from trtbuild.ranges.whole import Ranges
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.session import infer, runner

MINMAX = Method("minmax")
METHODS = (
    MINMAX,
    Method("percentile", 99.999),
    Method("percentile", 99.99),
    Method("entropy"),
    Method("mse"),
)
_SAME = 0.01  # two ranges that differ by less are one
_RUNS = 2000
"""About how many passes through part of the model the choice may take: with more tensors, fewer samples."""
_FEWEST_CHOOSING = 2


def candidates(histogram: Histogram) -> tuple[Range, ...]:
    """The distinct ranges that METHODS take from a histogram; min-max first.

    Raises CalibratorError as `calibrators.method.amax` does.
    """
    found: list[Range] = []
    for method in METHODS:
        value = amax(histogram, method)
        if not any(math.isclose(value, other.amax, rel_tol=_SAME) for other in found):
            found.append(Range(value, str(method)))
    return tuple(found)


def choose_ranges(
    model: Model, shards: ShardSet, proposed: Mapping[str, Sequence[Range]], fixed: Ranges
) -> dict[str, Range]:
    """A range for every tensor of `proposed`, whose first is min-max. On the samples that are held back the
    outputs are no further from the float model's than with min-max for all of them; says how far.

    fixed: the ranges of the other tensors, which a recipe gives methods of their own.
    Raises InputError when a sample cannot be run, BuildError when ONNX Runtime refuses the model.
    """
    minmax = {**fixed, **{tensor: ranges[0] for tensor, ranges in proposed.items()}}
    open_ones = {tensor: ranges for tensor, ranges in proposed.items() if len(ranges) > 1}
    samples, outputs = split(shards), _outputs(model)
    if not samples.choosing or not outputs:
        few = f"of the {FEWEST} samples, in two batches, that choosing takes there are {shards.samples}"
        say(f"auto: min-max for every tensor: {few if outputs else 'no output can be compared'}")
        return {tensor: minmax[tensor] for tensor in proposed}
    runs = max(sum(map(len, open_ones.values())), 1)
    step = -(-len(samples.choosing) // max(_RUNS // runs, _FEWEST_CHOOSING))
    choosing = samples.choosing[::step]
    with runner(with_outputs(model.normalised, outputs, cut=True), "choosing ranges") as active:
        expected = [infer(active, feeds, "a sample") for feeds in choosing]
        expected_held = [infer(active, feeds, "a sample") for feeds in samples.held_back]
    choices = choose(model, choosing, expected, open_ones, minmax)
    verdict = never_worse(model, minmax, choices, samples.held_back, expected_held)
    say(
        f"auto: {verdict.kept} of {len(proposed)} tensors clip; error at the outputs on "
        f"{len(samples.held_back)} held-back samples {verdict.error:.4g}, min-max {verdict.minmax_error:.4g}"
    )
    return {tensor: verdict.ranges[tensor] for tensor in proposed}


def _outputs(model: Model) -> list[str]:
    """The outputs that can be compared as arrays."""
    values = {str(value.name): value for value in model.graph.inputs}
    values |= {str(value.name): value for node in model.graph for value in node.outputs}
    return [
        name
        for name in model.checked_outputs
        if name in values and NO_TENSOR not in values[name].meta and name not in model.hidden
    ]
