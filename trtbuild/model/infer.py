"""Types and shapes of tensors, as far as ONNX can infer them."""

from __future__ import annotations

import onnx.defs
import onnx_ir as ir
import onnx_ir.passes.common as passes

from trtbuild.model.graph import NO_TENSOR, bodies_of


def infer_types(model: ir.Model) -> None:
    """Infer types and shapes, in place, as far as ONNX can: one odd node does not stop the rest."""
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    _forget_sequences(model.graph)


def _forget_sequences(graph: ir.Graph) -> set[ir.Value]:
    """Take back the tensor types that onnx-ir's pass gives to sequences and optionals, in place.

    Returns the values of `graph` that are no tensors.
    """
    found: set[ir.Value] = set()
    for node in graph:
        bodies = list(bodies_of(node))
        for body in bodies:
            found |= _forget_sequences(body)
        first = 1 if node.op_type == "Loop" else 0  # of a Loop's body the condition
        for index, value in enumerate(node.outputs):
            inner = [body.outputs[first + index] for body in bodies if first + index < len(body.outputs)]
            passed = [*inner, *node.inputs[:1]] if node.op_type == "Identity" else inner
            if found.intersection(passed) or _yields_no_tensor(node, index):
                found.add(value)
                if isinstance(value.type, ir.TensorType):
                    value.type, value.shape = None, None
                value.meta[NO_TENSOR] = True
    return found


def _yields_no_tensor(node: ir.Node, index: int) -> bool:
    """Whether the operator's schema allows that output no tensor: only sequences, optionals or maps."""
    if node.domain != "" or not onnx.defs.has(node.op_type):
        return False
    schema = onnx.defs.get_schema(node.op_type)
    types = schema.outputs[min(index, len(schema.outputs) - 1)].types if schema.outputs else ()
    return bool(types) and not any(name.startswith("tensor(") for name in types)
