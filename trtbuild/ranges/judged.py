"""At which tensors a quantized model is judged: its outputs, or what lies in front of a saturating one."""

from __future__ import annotations

from trtbuild.model.model import Model
from trtbuild.ranges.stages import Flow

_SATURATING = frozenset({"Sigmoid", "Softmax"})
_MOVING = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def array_outputs(model: Model) -> list[str]:
    """Those of the outputs that ONNX Runtime hands out as arrays."""
    flow = Flow(model.graph, model.unrunnable)
    return [name for name in model.checked_outputs if flow.is_array(name)]


def judged_outputs(model: Model) -> list[str]:
    """What is looked at of each output: it, or what goes into the Softmax or the Sigmoid that makes it; those
    that ONNX Runtime hands out as arrays. Where these saturate an error is nothing in most samples and all in
    few: 16 say little about the others."""
    makers = {str(value.name): node for node in model.graph for value in node.outputs}
    flow = Flow(model.graph, model.unrunnable)
    judged = []
    for name in model.checked_outputs:
        node = makers.get(name)
        while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        before = node.inputs[0] if node is not None and node.op_type in _SATURATING else None
        judged.append(name if before is None else str(before.name))
    return [name for name in dict.fromkeys(judged) if flow.is_array(name)]
