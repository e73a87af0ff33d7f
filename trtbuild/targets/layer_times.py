"""From the times of the layers of engines to those of the model's nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trtbuild.errors import BuildError
from trtbuild.precision.map import PrecisionMap
from trtbuild.targets.audit import MOVES
from trtbuild.targets.base import Layer

METHOD = "IProfiler, sum of layers"
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Whose precision decides on that of the layer that they are fused into, and on its time."""


@dataclass(frozen=True)
class Profiled:
    """One engine. milliseconds: layer -> its time. layers: which nodes a layer executes; layers of one name
    are taken together."""

    milliseconds: Mapping[str, float]
    layers: Iterable[Layer]


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds by engine. nodes: of each node, in graph order (0 in an engine that has no layer of it).
    other: of the layers of no node, such as reformats. total: of all layers, which is no latency: what a
    profiler reports is longer."""

    nodes: dict[str, dict[str, float]]
    other: dict[str, float]
    total: dict[str, float]
    method: str = METHOD


def layer_times(engines: Mapping[str, Profiled], precisions: PrecisionMap) -> LayerTimes:
    """Share the time of each layer among the model's nodes that it executes.

    A layer is its products' (PRODUCTS), in equal parts: what is fused to them takes its precision from them,
    and has 0. Without one it is that of its nodes that compute, without such a node that of all.

    Raises BuildError for an engine no layer of which can be told to be of a node.
    """
    found: dict[str, dict[str, float]] = {node: dict.fromkeys(engines, 0.0) for node in precisions.nodes}
    other = dict.fromkeys(engines, 0.0)
    seen: set[str] = set()
    for engine, profiled in engines.items():
        nodes_of = _nodes_of(profiled.layers, precisions)
        if not nodes_of.keys() & profiled.milliseconds.keys():
            raise BuildError(
                f"none of the {len(profiled.milliseconds)} layers that TensorRT's profiler reports of engine "
                f"{engine} is known to execute a node of the model; run bench without --layers"
            )
        for layer, milliseconds in profiled.milliseconds.items():
            sharing = _sharing(nodes_of.get(layer, []), precisions)
            for node in sharing:
                found[node][engine] += milliseconds / len(sharing)
            other[engine] += 0.0 if sharing else milliseconds
            seen.update(nodes_of.get(layer, []))
    return LayerTimes(
        nodes={node: times for node, times in found.items() if node in seen},
        other=other,
        total={engine: sum(profiled.milliseconds.values()) for engine, profiled in engines.items()},
    )


def _nodes_of(layers: Iterable[Layer], precisions: PrecisionMap) -> dict[str, list[str]]:
    """Layer -> the model's nodes that it executes, for those that execute any."""
    found: dict[str, dict[str, None]] = {}
    for layer in layers:
        own = dict.fromkeys(node for node in layer.nodes if node in precisions.nodes)
        if own:
            found.setdefault(layer.name, {}).update(own)
    return {name: list(nodes) for name, nodes in found.items()}


def _sharing(nodes: list[str], precisions: PrecisionMap) -> list[str]:
    """Those of a layer's nodes that its time is shared by."""
    op_types = {node: precisions.nodes[node].op_type for node in nodes}
    products = [node for node in nodes if op_types[node] in PRODUCTS]
    return products or [node for node in nodes if op_types[node] not in MOVES] or nodes
