"""Pins on the layers of a parsed network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtbuild.errors import InputError
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import Precision
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.network import MOVES, inputs_of, layers, nodes_of, outputs_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import tensorrt as trt

TYPE_NAMES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
FIXED = frozenset(
    {
        *("SHAPE", "QUANTIZE", "DEQUANTIZE", "CAST", "ASSERTION"),
        *("CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"),
        *("TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT"),
    }
)
"""Layers that compute no floats, or whose types the layers around them fix."""


def hold(
    binding: Binding,
    network: trt.INetworkDefinition,
    graph: ir.Graph,
    precisions: PrecisionMap,
    inputs_too: bool,
) -> int:
    """Give every layer that a pinned node of `graph` became the pin's precision and output types.

    With `inputs_too` what these layers read is held as well: constants, and the outputs of layers that may
    themselves compute in int8. Layers without a float32 output (integers, shapes, casts) are left alone.
    All of this is a wish, unless the builder is told to obey.
    Returns how many layers have a pin's precision. Raises InputError for one that this TensorRT lacks.
    """
    found = layers(network)
    makers = {tensor.name: layer for layer in found for tensor in outputs_of(layer)}
    held: set[str] = set()
    for layer, node in zip(found, _owners(found, graph), strict=True):
        if node is None or node not in precisions.nodes or not precisions.nodes[node].pinned:
            continue
        dtype = data_type(binding, precisions[node])
        if layer.type != binding.LayerType.CONSTANT and _hold(binding, layer, dtype):
            held.add(layer.name)
            if inputs_too:
                _hold_inputs(binding, layer, dtype, makers)
    return len(held)


def data_type(binding: Binding, precision: Precision) -> trt.DataType:
    """TensorRT's name of a float precision. Raises InputError for a bfloat16 that this version lacks."""
    kinds = binding.DataType
    if not hasattr(kinds, TYPE_NAMES[precision]):
        raise InputError(f"TensorRT {binding.__version__} has no {precision}; use fp16 or fp32")
    dtype: trt.DataType = getattr(kinds, TYPE_NAMES[precision])
    return dtype


def _owners(found: list[trt.ILayer], graph: ir.Graph) -> list[str | None]:
    """The node of each layer; what the parser put in between belongs to the node whose layer comes next."""
    owners: list[str | None] = []
    owner: str | None = None
    for node in reversed(nodes_of(found, graph)):
        owner = node or owner
        owners.append(owner)
    return owners[::-1]


def _hold(binding: Binding, layer: trt.ILayer, dtype: trt.DataType) -> bool:
    outputs = _float_outputs(binding, layer)
    if not outputs or _is_fixed(binding, layer, dtype):
        return False
    layer.precision = dtype
    for index in outputs:
        if dtype == binding.DataType.FLOAT or not layer.get_output(index).is_network_output:
            layer.set_output_type(index, dtype)  # what the engine hands out stays what the model says
    return True


def _hold_inputs(
    binding: Binding, layer: trt.ILayer, dtype: trt.DataType, makers: dict[str, trt.ILayer]
) -> None:
    """Have what `layer` reads written in `dtype`, looking through layers that only move data."""
    left, seen = [layer], {layer.name}
    while left:
        for tensor in inputs_of(left.pop()):
            maker = makers.get(tensor.name)
            if maker is None or maker.name in seen or _is_fixed(binding, maker, dtype):
                continue
            seen.add(maker.name)
            if maker.precision_is_set:
                continue  # pinned itself
            if maker.type.name in {*MOVES, "CONSTANT"} and _hold(binding, maker, dtype):
                left.append(maker)
                continue
            for index in _float_outputs(binding, maker):
                if maker.get_output(index).name == tensor.name and not maker.output_type_is_set(index):
                    maker.set_output_type(index, dtype)


def _is_fixed(binding: Binding, layer: trt.ILayer, dtype: trt.DataType) -> bool:
    """Whether no type may be asked for: the output type of an identity is what it converts to, and another
    one than float32 would change its tensor, of which the next layer has the type to match."""
    converts = layer.type == binding.LayerType.IDENTITY and dtype != binding.DataType.FLOAT
    return converts or layer.type.name in FIXED


def _float_outputs(binding: Binding, layer: trt.ILayer) -> list[int]:
    """Indices of the outputs in float32 that are no shape tensors."""
    return [
        index
        for index, tensor in enumerate(outputs_of(layer))
        if tensor.dtype == binding.DataType.FLOAT and not tensor.is_shape_tensor
    ]
