"""The whole model in int8, as far as it goes: what a table of ranges does to the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from calibrators.table import Range, RangeTable
from trtbuild.model.model import Model
from trtbuild.precision.rules import resolve
from trtbuild.ranges.error import error
from trtbuild.ranges.reads import reads_of, through_int8
from trtbuild.ranges.weights import fold_weights
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit, ranges_needed
from trtbuild.targets.session import Tensors, infer, runner

Ranges = Mapping[str, Range]


def quantized(model: Model, ranges: Ranges) -> ir.Model:
    """The explicit model with every node in int8 that has such a form. Tensors that none of these read (the
    others of implicit mode) are quantized wherever they are read.

    Raises InputError when `ranges` lack a tensor that the explicit model reads.
    """
    table = RangeTable(ranges, None, 0)
    written = explicit(model, resolve(model, PrecisionSection(), ()), table, "simulated")
    nodes = list(written.graph)
    others = set(ranges) - set(ranges_needed(model))
    for tensor, reads in reads_of(written.graph, others, model.unrunnable).items():
        prefix = f"{tensor}::everywhere"
        scale = ir.Value(
            name=f"{prefix}::scale",
            shape=ir.Shape(()),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(np.asarray(table.scale(tensor)), name=f"{prefix}::scale"),
        )
        written.graph.register_initializer(scale)
        first, *_ = reads
        seen = through_int8(written.graph, nodes[first.node], first.input, scale, prefix)
        for read in reads:
            nodes[read.node].replace_input_with(read.input, seen)
    return written


def whole_error(
    model: Model, ranges: Ranges, feeds: Sequence[Tensors], reference: Sequence[Tensors]
) -> float:
    """The mean over the samples of the error at the outputs (those of `reference`) with these ranges."""
    written = quantized(model, ranges)
    fold_weights(written.graph)
    cut = with_outputs(written, list(reference[0]), cut=True)
    with runner(cut, "judging ranges") as active:
        errors = [
            error(infer(active, feed, "a sample"), expected)
            for feed, expected in zip(feeds, reference, strict=True)
        ]
    return float(np.mean(errors))
