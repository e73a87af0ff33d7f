"""Weights quantized once, in front of all samples, instead of in every run."""

from __future__ import annotations

import onnx_ir as ir

from calibrators.scale import fake_quantize
from trtbuild.model.graph import is_constant


def fold_weights(graph: ir.Graph) -> None:
    """Put what each weight becomes through its Q and DQ in their place. To the bit the same model, but in a
    session that does it at each run it takes longer than the rest of a single sample."""
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and is_constant(node.inputs[0]):
            _fold(graph, node)


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
