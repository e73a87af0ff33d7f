"""The biases that can take back what int8 shifts the mean of a channel by, and the model in which they do.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2;
Finkelstein et al. 2019, "Fighting Quantization Bias With Bias".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtbuild.errors import InputError
from trtbuild.model.graph import constant_shape, integer_of, is_constant, node_name

Corrections = Mapping[str, NDArray[np.float32]]
"""Node that holds a bias -> what is subtracted from it, shape (channels,)."""
CORRECTED = "::corrected"


@dataclass(frozen=True)
class Bias:
    """node: holds the bias; that is `product` itself, or the Add behind a MatMul. product: the node whose
    error it takes back. tensor: what `node` makes, with `size` channels along `axis`, 1 or -1."""

    node: str
    product: str
    tensor: str
    axis: int
    size: int


def biases(graph: ir.Graph) -> Iterator[Bias]:
    """Of each Conv, ConvTranspose and Gemm with a constant weight whose bias is constant or can be added,
    and of each MatMul with one whose only reader is the Add of a constant. graph: a normalised one."""
    for node in graph:
        size = _channels(node)
        holder = _following_add(node) if node.op_type == "MatMul" else node
        if size is None or holder is None or not is_constant(node.inputs[1]) or not _can_hold(holder, size):
            continue
        axis = 1 if node.op_type in ("Conv", "ConvTranspose") else -1
        yield Bias(node_name(holder), node_name(node), str(holder.outputs[0].name), axis, size)


def with_biases(model: ir.Model, corrections: Corrections) -> ir.Model:
    """A copy of an explicit model with the corrections subtracted from its biases, which are added where
    there are none. Weights are shared, names stay, and a constant that others read too stays what it is.

    Raises InputError for a node that holds no bias of an int8 node, and for another number of channels.
    """
    copy = model.clone()
    nodes = {node.name: node for node in copy.graph}
    for name, correction in corrections.items():
        node = nodes.get(name)
        product = None if node is None else _product(node)
        if node is None or product is None or correction.shape != (_channels(product),):
            raise InputError(
                f"node {name!r} holds no bias of an int8 node with {correction.size} channels; "
                "correct the biases of this model again"
            )
        _subtract(copy.graph, node, correction)
    return copy


def to_json(corrections: Corrections) -> dict[str, list[float]]:
    return {name: correction.tolist() for name, correction in corrections.items()}


def from_json(data: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """What `to_json` wrote, to the bit. Raises ValueError for anything but lists of finite numbers."""
    found = {name: np.asarray(values, np.float32) for name, values in data.items()}
    for name, values in found.items():
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"the correction of node {name!r} is no list of finite numbers")
    return found


def _channels(node: ir.Node) -> int | None:
    """How many channels a product with such a weight makes; None for another node."""
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight = node.inputs[1]
    if weight is None or weight.shape is None or not weight.shape.is_static() or len(weight.shape) < 2:
        return None
    shape = weight.shape.numpy()
    if node.op_type == "Conv":
        return shape[0]
    if node.op_type == "ConvTranspose":
        return shape[1] * integer_of(node, "group", 1)
    return shape[0] if node.op_type == "Gemm" and integer_of(node, "transB", 0) else shape[-1]


def _following_add(product: ir.Node) -> ir.Node | None:
    """The Add that alone reads what a MatMul makes."""
    made = product.outputs[0]
    if len(made.uses()) != 1 or made.is_graph_output():
        return None
    ((node, _),) = made.uses()
    return node if (node.domain, node.op_type) == ("", "Add") and node.graph is product.graph else None


def _can_hold(node: ir.Node, size: int) -> bool:
    if node.op_type == "Add":
        constants = [value for value in node.inputs if is_constant(value)]
        return len(constants) == 1 and constant_shape(constants[0])[-1:] in ((), (1,), (size,))
    if node.op_type == "Gemm" and not _beta(node):
        return False
    return _bias(node) is None or is_constant(_bias(node))


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _beta(gemm: ir.Node) -> float:
    attribute = gemm.attributes.get("beta")
    return attribute.as_float() if attribute is not None else 1.0


def _product(holder: ir.Node) -> ir.Node | None:
    """The int8 node whose bias `holder` has, in an explicit model."""
    if holder.op_type == "Add":
        made = (_origin(value)[0].producer() for value in holder.inputs if value is not None)
        found = next((node for node in made if node is not None and node.op_type == "MatMul"), None)
    else:
        found = holder if holder.op_type in ("Conv", "ConvTranspose", "Gemm") else None
    data = found.inputs[0] if found is not None else None
    reads = data.producer() if data is not None else None
    return found if reads is not None and reads.op_type == "DequantizeLinear" else None


def _origin(value: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """What comes to `value` through the Casts of a half, and these, the last one first."""
    casts = []
    while (node := value.producer()) is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        casts.append(node)
        value = node.inputs[0]
    return value, casts


def _subtract(graph: ir.Graph, node: ir.Node, correction: NDArray[np.float32]) -> None:
    """A bias of this node's own: others may read the one that is there."""
    index, old, casts = 2, _bias(node), list[ir.Node]()
    if node.op_type == "Add":
        origins = [_origin(value) for value in node.inputs if value is not None]
        index = next(i for i, (value, _) in enumerate(origins) if is_constant(value))
        old, casts = origins[index]
    else:
        node.resize_inputs(3)
    data = np.asarray(-correction / _beta(node) if node.op_type == "Gemm" else -correction, np.float32)
    if old is not None:
        assert old.const_value is not None
        data = np.asarray(old.const_value.numpy() + data, np.float32)
    for cast in reversed(casts):
        data = data.astype(ir.DataType(cast.attributes["to"].as_int()).numpy())
    name = f"{node.name}::{index}{CORRECTED}"
    tensor = ir.tensor(data, name=name)
    new = ir.Value(
        name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(new)
    node.replace_input_with(index, new)
    for cast in casts:
        if not cast.outputs[0].uses():
            graph.remove(cast, safe=True)
    if old is not None and not old.uses() and not old.is_graph_output():
        del graph.initializers[str(old.name)]
