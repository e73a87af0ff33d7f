"""Bias correction: int8 shifts the mean of every output channel, and the biases can take that back.

Rounding and clipping have errors whose mean is not zero; through the layers such shifts add up as noise does
not. The mean over samples and positions of (int8 output - float output) is subtracted from each node's bias,
in graph order, with all before it in effect (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.2, the empirical variant; Finkelstein et al. 2019, "Fighting
Quantization Bias With Bias"). Neither the size nor the speed of the model changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrators.shards import Batch, ShardSet
from calibrators.table import RangeTable
from trtbuild.collect.memory import largest_sample, sizes_of
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.progress import say, track
from trtbuild.ranges.error import clearly_less, error, typical
from trtbuild.ranges.judged import judged_outputs
from trtbuild.ranges.shifts import Piece, float_means, pieces, shifts
from trtbuild.ranges.stages import Flow
from trtbuild.ranges.weights import fold_weights
from trtbuild.rewrite.biases import Bias, Corrections, biases, with_biases
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit
from trtbuild.targets.session import infer, runner

STATE_BYTES = 1e9
"""What all samples may take between two nodes, about: of each, the tensors that live there. Else fewer."""
SEED = 0


class _Samples(NamedTuple):
    """Batches to take the means over, and feeds of single samples (of as many as a fixed batch has)."""

    means: list[Batch]
    held_back: list[Batch]


def corrections(
    model: Model,
    precisions: PrecisionMap,
    table: RangeTable,
    shards: ShardSet,
    samples: int = 32,
    batch: int = 8,
) -> dict[str, NDArray[np.float32]]:
    """What to subtract from the biases of the int8 nodes, by the node that holds the bias, for `with_biases`;
    {} where that does not bring the outputs of samples held back clearly nearer to the float model's. Outputs
    that a Softmax or a Sigmoid makes are judged in front of it.

    samples: for the means, drawn from all; half as many more are held back. batch: samples at a time, which
    makes no difference but for rounding. The samples go through the quantized model once and all together,
    so fewer are taken where they would hold more than STATE_BYTES.
    Raises InputError when a sample cannot be run, BuildError when ONNX Runtime refuses the model.
    """
    written = explicit(model, precisions, table, "simulated")
    fold_weights(written.graph)
    flow = Flow(written.graph, model.unrunnable)
    outputs = judged_outputs(model)
    plan = pieces(list(_correctable(model, precisions)), flow, len(written.graph))
    if not plan or not outputs:
        say(f"bias correction: none, as {'no output can be compared' if plan else 'no int8 node has a bias'}")
        return {}
    chosen = _chosen(shards, _affordable(model, shards, plan, flow, samples), batch)
    if not chosen.held_back:
        say(
            f"bias correction: none, as of {shards.samples} samples, or a single batch, none can be held back"
        )
        return {}
    every = [bias for piece in plan for bias in piece.biases]
    carried, means = float_means(model, every, chosen.means, shards.batched)
    found: dict[str, NDArray[np.float32]] = {}
    for piece in track(plan, "correcting biases, nodes", len(every), lambda piece: len(piece.biases)):
        for bias, shift in shifts(written, piece, flow, carried, means):
            if shift.any():
                found[bias.node] = shift
    return found if _helps(model, written, found, chosen.held_back, outputs) else {}


def _correctable(model: Model, precisions: PrecisionMap) -> Iterator[Bias]:
    """The biases of int8 nodes, which all run here, with an axis of samples beside that of the channels."""
    shapes = {value.name: value.shape for node in model.graph for value in node.outputs}
    for bias in biases(model.graph):
        shape = shapes[bias.tensor]
        if precisions[bias.product] == "int8" and shape is not None and len(shape) > 1:
            yield bias


def _affordable(model: Model, shards: ShardSet, plan: Sequence[Piece], flow: Flow, samples: int) -> int:
    """How many of `samples` may be carried, judged by the largest; at least one, or one fixed batch."""
    largest = largest_sample(shards)
    made = {str(value.name) for node in model.graph for value in node.outputs}
    live = [[name for name in flow.live(piece.end) if name in made] for piece in plan]
    sizes = sizes_of(model, largest, sorted({name for names in live for name in names}), "bias correction")
    fed = sum(array.nbytes for array in largest.feeds.values())
    most = max(1, fed, *(sum(sizes[name] for name in names) for names in live))
    return max(1, min(samples, int(STATE_BYTES / most) * (shards.fixed_batch or 1)))


def _chosen(shards: ShardSet, samples: int, batch: int) -> _Samples:
    """Feeds for the means and half as many others, the same ones every time."""
    fixed = shards.fixed_batch or 1
    feeds = max(-(-samples // fixed) * 3 // 2, 2)
    every = list(shards.drawn(min(feeds * fixed, shards.samples), SEED).batches(1))
    means = [item for index, item in enumerate(every) if index % 3 != 1]
    free = shards.batched and shards.fixed_batch is None
    return _Samples(list(_joined(means, batch)) if free else means, every[1::3])


def _joined(items: Sequence[Batch], batch: int) -> Iterator[Batch]:
    """Neighbours of the same shapes, up to `batch` of them together."""
    group: list[Batch] = []
    for item in items:
        if group and (len(group) == batch or _shapes(item) != _shapes(group[0])):
            yield _concatenated(group)
            group = []
        group.append(item)
    yield _concatenated(group)


def _shapes(item: Batch) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in item.feeds.items()}


def _concatenated(group: Sequence[Batch]) -> Batch:
    feeds = {name: np.concatenate([item.feeds[name] for item in group]) for name in group[0].feeds}
    return Batch(feeds, tuple(name for item in group for name in item.names))


def _helps(
    model: Model, written: ir.Model, found: Corrections, held_back: Sequence[Batch], outputs: Sequence[str]
) -> bool:
    """Whether the outputs of these samples come clearly nearer to the float model's; says how near."""
    before, after = [], []
    mended = with_biases(written, found)
    with (
        runner(with_outputs(model.normalised, outputs, cut=True), "bias correction") as golden,
        runner(with_outputs(written, outputs, cut=True), "bias correction") as plain,
        runner(with_outputs(mended, outputs, cut=True), "bias correction") as corrected,
    ):
        for item in held_back:
            expected = infer(golden, item.feeds, item.label)
            before.append(error(infer(plain, item.feeds, item.label), expected))
            after.append(error(infer(corrected, item.feeds, item.label), expected))
    helps = clearly_less(after, before)
    outcome = f"{len(found)} nodes" if helps else "none, as it does not clearly help"
    say(
        f"bias correction: {outcome}; typical error at the outputs on {len(held_back)} held-back samples "
        f"{typical(after):.4g}, without {typical(before):.4g}"
    )
    return helps
