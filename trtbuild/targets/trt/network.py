"""A parsed network: its layers, their tensors, and the ONNX node that each layer came from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import onnx_ir as ir

from trtbuild.errors import BuildError
from trtbuild.model.graph import with_bodies
from trtbuild.targets.trt.binding import Binding

if TYPE_CHECKING:
    import tensorrt as trt

L = TypeVar("L", bound="trt.ILayer")
MOVES = frozenset({"SHUFFLE", "IDENTITY", "CONCATENATION", "SLICE", "SQUEEZE", "UNSQUEEZE"})
"""Types of layers that compute nothing: TensorRT often needs no layer of the engine for them."""

_PREFIX = "[ONNX Layer: "
_SEPARATORS = re.compile(r"\.{2,}|[^\w./:#~-]")


@dataclass(frozen=True)
class NetworkLayer:
    """One layer of a parsed network. `node` is the ONNX node that it came from, or for which the parser added
    it, None where none follows; `floats` says whether it computes floats (constants do not compute)."""

    name: str
    type: str
    node: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    floats: bool


def layers(network: trt.INetworkDefinition) -> list[trt.ILayer]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def inputs_of(layer: trt.ILayer) -> list[trt.ITensor]:
    """The input tensors; optional ones that are not there are left out."""
    found = (layer.get_input(index) for index in range(layer.num_inputs))
    return [tensor for tensor in found if tensor is not None]


def outputs_of(layer: trt.ILayer) -> list[trt.ITensor]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


@contextmanager
def seen_as(binding: Binding, layer: trt.ILayer, kind: type[L]) -> Iterator[L]:
    """The layer with the attributes of its own kind: a network hands out every layer as a plain ILayer.

    Afterwards it is one again, because `type` means another thing in some kinds.
    """
    layer.__class__ = kind
    try:
        yield cast("L", layer)
    finally:
        layer.__class__ = binding.ILayer


def float_dtypes(binding: Binding, tensors: Iterable[trt.ITensor]) -> set[trt.DataType]:
    """FLOAT, HALF and (where TensorRT has it) BF16, as far as the tensors have them."""
    kinds = binding.DataType
    floats = {kinds.FLOAT, kinds.HALF} | ({kinds.BF16} if hasattr(kinds, "BF16") else set())
    return {tensor.dtype for tensor in tensors} & floats


def read(binding: Binding, network: trt.INetworkDefinition, graph: ir.Graph) -> list[NetworkLayer]:
    """The layers in the network's order, each with its ONNX node of `graph`, which was parsed."""
    found = layers(network)
    nodes = nodes_of(found, graph)
    return [
        NetworkLayer(
            name=layer.name,
            type=layer.type.name,
            node=nodes[index],
            inputs=tuple(tensor.name for tensor in inputs_of(layer)),
            outputs=tuple(tensor.name for tensor in outputs_of(layer)),
            floats=layer.type != binding.LayerType.CONSTANT
            and bool(float_dtypes(binding, outputs_of(layer))),
        )
        for index, layer in enumerate(found)
    ]


def nodes_of(found: list[trt.ILayer], graph: ir.Graph) -> list[str | None]:
    """The ONNX node of each layer.

    The parser notes it in the layer's metadata as `[ONNX Layer: name]`, but not in all that it makes of a
    node, and in none before TensorRT 8.6. Those layers belong to the node whose tensor comes next, because
    the parser adds one node's layers after the other's. To the layers of a body belongs the If or Loop
    around it.
    """
    makers = {str(value.name): str(node.name) for node in graph for value in node.outputs}
    nodes = by_tensors([[tensor.name for tensor in outputs_of(layer)] for layer in found], makers)
    if not all(hasattr(layer, "metadata") for layer in found):
        return nodes
    owners = _owners(graph)
    return [_noted(layer, owners) or node for layer, node in zip(found, nodes, strict=True)]


def by_tensors(outputs: list[list[str]], makers: Mapping[str, str]) -> list[str | None]:
    """Layer after layer, the node whose tensor the layer or the next one after it makes."""
    nodes: list[str | None] = []
    node: str | None = None
    for names in reversed(outputs):
        node = next((makers[name] for name in names if name in makers), node)
        nodes.append(node)
    return nodes[::-1]


def _owners(graph: ir.Graph) -> dict[str, str]:
    """Each node by the name that the parser calls it, and the nodes of bodies: to them belongs the If or
    Loop around them."""
    owners = {str(node.name): str(node.name) for node in graph}
    for node in graph:
        for inner in with_bodies(node):
            owners.setdefault(str(inner.name), str(node.name))
    return owners


def _noted(layer: trt.ILayer, owners: Mapping[str, str]) -> str | None:
    """In the branches of an If the parser notes `inner | branch | outer (If)`, in a Loop `inner` alone."""
    metadata = str(layer.metadata)
    if not metadata.startswith(_PREFIX):
        return None
    noted = metadata[len(_PREFIX) : -1]
    outer = noted.rpartition(" | ")[2].rpartition(" (")[0]
    return owners.get(noted) or owners.get(outer, noted)


def types_of(found: Iterable[NetworkLayer]) -> dict[str, frozenset[str]]:
    """ONNX node -> the types of the layers that it became and that compute floats, out of more than
    constants: what the parser does to weights is no layer of the engine."""
    types: dict[str, set[str]] = {}
    constant: set[str] = set()
    for layer in found:
        if layer.type == "CONSTANT" or (layer.inputs and constant.issuperset(layer.inputs)):
            constant.update(layer.outputs)
        elif layer.node is not None and layer.floats:
            types.setdefault(layer.node, set()).add(layer.type)
    return {node: frozenset(kinds) for node, kinds in types.items()}


def tidy_names(network: trt.INetworkDefinition, graph: ir.Graph) -> None:
    """Where an engine says which layers it fused by their names alone (TensorRT 8.5: no metadata), give the
    layers names that can be told apart in `a + b`, `PWN(a, b)` and `{ForeignNode[a...b]}`."""
    found = layers(network)
    if all(hasattr(layer, "metadata") for layer in found):
        return
    taken: set[str] = set()
    for layer, node in zip(found, nodes_of(found, graph), strict=True):
        plain = _SEPARATORS.sub("_", layer.name if not layer.name.startswith("(Unnamed") else str(node))
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain}~{number}", number + 1
        taken.add(name)
        layer.name = name


def mark(network: trt.INetworkDefinition, tensors: Collection[str], unfused: bool) -> None:
    """Make these tensors outputs too, which changes what the builder fuses; with `unfused`, let all that it
    does not fuse away be watched. Raises BuildError where TensorRT refuses the latter."""
    wanted = set(tensors) - {network.get_output(index).name for index in range(network.num_outputs)}
    for tensor in (tensor for layer in layers(network) for tensor in outputs_of(layer)):
        if tensor.name in wanted:
            network.mark_output(tensor)
            wanted.discard(tensor.name)
    if unfused and not network.mark_unfused_tensors_as_debug_tensors():
        raise BuildError("TensorRT could not mark the tensors that it does not fuse for watching")
