"""Which tensors a model shows as outputs, and the part of it that they need."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

SHAPE = "::shape"


def with_outputs(model: ir.Model, outputs: Sequence[str], cut: bool = False) -> ir.Model:
    """A copy of `model` whose outputs are the tensors `outputs`, in that order; weights are shared.

    With `cut`, nodes that these outputs do not need are removed: so ends the model before what ONNX
    Runtime cannot run. Tensors that the model does not have are left out: whoever compares demands
    coverage of the results.
    """
    copy = model.clone()
    values = {str(value.name): value for value in copy.graph.inputs}
    values.update(copy.graph.initializers)  # an output may be constant
    for node in copy.graph:
        values.update((value.name, value) for value in node.outputs if value.name)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in outputs if name in values)
    if cut:
        passes.RemoveUnusedNodesPass()(copy)
    return copy


def with_shapes(model: ir.Model, tensors: Sequence[str], cut: bool = False) -> ir.Model:
    """A copy of `model` whose outputs are the shapes of `tensors`, each under the tensor's name and SHAPE:
    what the tensors would take is known without holding them."""
    copy = with_outputs(model, tensors, cut)
    shapes = [
        ir.node("Shape", [value], outputs=[ir.Value(name=f"{value.name}{SHAPE}")])
        for value in copy.graph.outputs
    ]
    copy.graph.extend(shapes)
    copy.graph.outputs[:] = [node.outputs[0] for node in shapes]
    for node in shapes:
        node.outputs[0].dtype = ir.DataType.INT64
    return copy
