"""The explicit model with its activation scales as inputs: one session serves every choice of ranges."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from calibrators.scale import fake_quantize
from trtbuild.model.graph import is_constant
from trtbuild.model.model import Model
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

    Weights are quantized once, here: in a session that would take longer than the rest of a single sample.
    """
    written = quantized(model, {name: ranges[name] for name in ranges_needed(model) if name in ranges})
    scales: dict[str, ir.Value] = {}
    for node in list(written.graph):
        if node.op_type != "QuantizeLinear":
            continue
        value, scale = node.inputs[0], node.inputs[1]
        assert value is not None
        assert scale is not None
        if is_constant(value):
            _fold(written.graph, node)
            continue
        name = str(value.name)
        if name not in scales:
            scales[name] = ir.Value(
                name=f"{name}{SCALE}", shape=ir.Shape(()), type=ir.TensorType(ir.DataType.FLOAT)
            )
        scale.replace_all_uses_with(scales[name])
        del written.graph.initializers[str(scale.name)]
    written.graph.inputs.extend(scales.values())
    return Probe(written, frozenset(scales))


def _fold(graph: ir.Graph, quantize: ir.Node) -> None:
    """Put what a weight becomes through Q and DQ in their place."""
    ((dequantize, _),) = quantize.outputs[0].uses()
    weight, scale = (value.const_value.numpy() for value in quantize.inputs[:2])  # type: ignore[union-attr]
    axis = quantize.attributes.get("axis")
    back = dequantize.outputs[0]
    data = fake_quantize(weight, scale, axis.as_int() if axis is not None else None)
    folded = ir.Value(
        name=f"{back.name}::folded",
        shape=ir.Shape(data.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(data, name=f"{back.name}::folded"),
    )
    graph.register_initializer(folded)
    back.replace_all_uses_with(folded)
    graph.remove([dequantize, quantize])
