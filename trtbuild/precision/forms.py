"""What each node can run in: its int8 form (the edges that would carry Q/DQ) and its half form.

The int8 placement follows NVIDIA's rules for explicit quantization: all inputs of Conv,
ConvTranspose, Gemm and MatMul, never their outputs; symmetric, per tensor for activations, per
channel for weights; both sides or neither of a product of two activations; on a residual Add that
a Conv feeds the other branch, so that Conv and Add fuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx.defs
import onnx_ir as ir

from trtbuild.model import patterns
from trtbuild.model.graph import QDQ, bodies_of, fed_values, is_constant, is_float_tensor, node_name
from trtbuild.recipe import Precision

HALF_TYPES: dict[str, ir.DataType] = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
HALF_OF: dict[ir.DataType | None, Precision] = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
TYPE_FROM_ATTRIBUTE = frozenset(
    {"Cast", "CastLike", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"}
)


@dataclass(frozen=True)
class Edge:
    """One consumer edge that carries Q/DQ in int8.

    `axis` is the channel axis of a per-channel weight, None for one scale per tensor; `constant`
    edges take their scale from the weight itself, the others need a calibrated range.
    """

    node: str
    index: int
    tensor: str
    constant: bool
    axis: int | None


@dataclass(frozen=True)
class HalfForm:
    """The inputs and outputs (by index) that become fp16/bf16 when the node does."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class NoForm:
    """The node cannot run in that precision, and why."""

    reason: str


Int8Form = tuple[Edge, ...] | NoForm


def int8_forms(graph: ir.Graph) -> dict[str, Int8Form]:
    """The int8 form of every node of a normalised graph, by node name, in graph order."""
    fed = fed_values(graph)
    forms = {node_name(node): _product_form(node, fed) for node in graph}
    for (add,) in patterns.find("residual-add", graph):
        form = _residual_form(add, fed)
        if form is not None:
            forms[node_name(add)] = form
    return forms


def fused_conv(add: ir.Node) -> tuple[ir.Node, int] | None:
    """The Conv that TensorRT fuses with a residual Add, and the index of the other operand.

    None unless one operand comes straight from a Conv (or its BatchNormalization) read by nobody else.
    """
    for index, value in reversed(list(enumerate(add.inputs))):
        node = _maker_for_one(value)
        if node is not None and node.op_type == "BatchNormalization":
            node = _maker_for_one(node.inputs[0])
        if node is not None and node.op_type == "Conv":
            return node, 1 - index
    return None


def _maker_for_one(value: ir.Value | None) -> ir.Node | None:
    """The node that makes `value`, if it makes it for a single reader."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return value.producer()


def _product_form(node: ir.Node, fed: set[ir.Value]) -> Int8Form:
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return NoForm(f"{node.op_type} has no int8 form")
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or {data.dtype, weight.dtype} != {ir.DataType.FLOAT}:
        return NoForm(f"its inputs are {_dtypes(node)}, not float32")
    if any(not is_constant(value) and value not in fed for value in (data, weight)):
        return NoForm("it reads a constant that was not folded")
    if is_constant(data) and is_constant(weight):
        return NoForm("both of its operands are constant")
    if node.op_type in ("Conv", "ConvTranspose") and not is_constant(weight):
        return NoForm("its weight is computed, not constant")
    return (_edge(node, 0), _edge(node, 1))


def _edge(node: ir.Node, index: int) -> Edge:
    value = node.inputs[index]
    assert value is not None
    axis = _weight_axis(node, value) if index == 1 and is_constant(value) else None
    return Edge(node_name(node), index, str(value.name), is_constant(value), axis)


def _weight_axis(node: ir.Node, weight: ir.Value) -> int | None:
    rank = len(weight.shape) if weight.shape is not None else 0
    if rank < 2:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        return 0 if transposed is not None and transposed.as_int() else 1
    return rank - 1


def _residual_form(add: ir.Node, fed: set[ir.Value]) -> Int8Form | None:
    fused = fused_conv(add)
    if fused is None:
        return None
    conv, other = fused
    skip = add.inputs[other]
    if isinstance(_product_form(conv, fed), NoForm) or skip is None or skip.dtype != ir.DataType.FLOAT:
        return None
    return (Edge(node_name(add), other, str(skip.name), constant=False, axis=None),)


def half_form(node: ir.Node, half: str, opset: int) -> HalfForm | NoForm:
    """How `node` runs in `half` ("fp16" or "bf16"), read off its ONNX schema of `opset`."""
    if node.domain != "" or not onnx.defs.has(node.op_type, opset):
        return NoForm(f"{node.op_type} is no standard ONNX operator")
    fixed = typed_by_model(node)
    if fixed is not None:
        return fixed
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if f"tensor({HALF_TYPES[half].name.lower()})" in constraint.allowed_type_strs
    }
    inputs = _float_parameters(node.inputs, schema.inputs)
    outputs = _float_parameters(node.outputs, schema.outputs)
    tied = allowed & set(inputs.values()) & set(outputs.values())  # an output follows the inputs of its type
    if not tied:
        return NoForm(f"{node.op_type} has no {half} form here")
    return HalfForm(*(tuple(i for i, name in side.items() if name in tied) for side in (inputs, outputs)))


def typed_by_model(node: ir.Node) -> NoForm | None:
    """Why the type of what the node makes is not for anybody to choose; None when it is."""
    if list(bodies_of(node)):
        return NoForm(f"the body of a {node.op_type} stays in float")
    if node.op_type in TYPE_FROM_ATTRIBUTE or node.op_type in QDQ:
        return NoForm(f"the type of a {node.op_type} is part of the model")
    return None


def _float_parameters(
    values: Iterable[ir.Value | None], formals: Iterable[onnx.defs.OpSchema.FormalParameter]
) -> dict[int, str]:
    """Index -> type parameter, of the float32 values; of the formals the last may be variadic."""
    listed = list(formals)
    return {
        index: str(listed[min(index, len(listed) - 1)].type_str)
        for index, value in enumerate(values)
        if value is not None and is_float_tensor(value) and value.dtype == ir.DataType.FLOAT
    }


def _dtypes(node: ir.Node) -> str:
    return ", ".join(
        str(v.dtype.name).lower() if v.dtype else "of unknown type" for v in node.inputs[:2] if v
    )
