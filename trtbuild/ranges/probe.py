"""The explicit model with its activation scales as inputs: one session serves every choice of ranges."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtbuild.model.model import Model
from trtbuild.ranges.weights import fold_weights
from trtbuild.ranges.whole import Ranges, quantized
from trtbuild.rewrite.explicit import ranges_needed

SCALE = "::judged::scale"


@dataclass(frozen=True)
class Probe:
    """model: every node in int8 that has such a form. scales: the tensors that these read; what follows their
    name in SCALE is an input, a scalar float32."""

    model: ir.Model
    scales: frozenset[str]


def probe(model: Model, ranges: Ranges) -> Probe:
    """The model that `quantized` makes with those of `ranges` that the explicit model reads, to the bit.

    Weights are folded.
    """
    written = quantized(model, {name: ranges[name] for name in ranges_needed(model) if name in ranges})
    fold_weights(written.graph)
    scales: dict[str, ir.Value] = {}
    for node in written.graph:
        if node.op_type != "QuantizeLinear":
            continue
        value, scale = node.inputs[0], node.inputs[1]
        assert value is not None
        assert scale is not None
        name = str(value.name)
        if name not in scales:
            scales[name] = ir.Value(
                name=f"{name}{SCALE}", shape=ir.Shape(()), type=ir.TensorType(ir.DataType.FLOAT)
            )
        scale.replace_all_uses_with(scales[name])
        del written.graph.initializers[str(scale.name)]
    written.graph.inputs.extend(scales.values())
    return Probe(written, frozenset(scales))
