"""The quantized model cut into stages: what runs from one of them to the outputs, and what leads to the next.
A range is judged without running all that comes before it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir import convenience

from trtbuild.model.graph import with_bodies
from trtbuild.ranges.probe import SCALE, Probe
from trtbuild.ranges.reads import Read, reads_of, through_int8

MOST = 24
"""Stages: each costs two sessions, and with fewer of them more is run again."""
ON = "::judged::on"


@dataclass(frozen=True)
class Stage:
    """tensors: those whose ranges are judged here. switched: those of them that the explicit model leaves in
    float: beside the scale they have a scalar bool input, their name and ON, for float or int8.

    inputs: the values that it starts from, scales of later stages included. rest: from there to the outputs,
    None where no output is left. piece: from there to what the next stage starts from and does not have yet,
    None where it has all.
    """

    tensors: tuple[str, ...]
    switched: tuple[str, ...]
    inputs: tuple[str, ...]
    rest: ir.Model | None
    piece: ir.Model | None


def stages(
    probe: Probe, tensors: Collection[str], outputs: Sequence[str], skip: Collection[str], most: int = MOST
) -> Iterator[Stage]:
    """Up to `most` stages for all of `tensors` that any node reads. skip: nodes that cannot be run."""
    others = reads_of(probe.model.graph, set(tensors) - probe.scales, skip)
    flow = Flow(probe.model.graph, skip)
    first = {tensor: reads[0].node for tensor, reads in others.items()}
    first |= {tensor: flow.first[tensor + SCALE] for tensor in tensors if tensor in probe.scales}
    cuts = _cuts(first, flow, most)
    for index, (start, inside) in enumerate(cuts):
        end = cuts[index + 1][0] if index + 1 < len(cuts) else None
        inputs = flow.live(start)
        left = [name for name in outputs if flow.made.get(name, -1) >= start]
        new = [] if end is None else [name for name in flow.live(end) if flow.made[name] >= start]
        switched = {tensor: others[tensor] for tensor in inside if tensor in others}
        yield Stage(
            tensors=tuple(inside),
            switched=tuple(switched),
            inputs=tuple(inputs),
            rest=_rest(probe.model, switched, inputs, left) if left else None,
            piece=part_of(probe.model, inputs, new) if new else None,
        )


class Flow:
    """Where the values of a graph live.

    made: value -> the position of the node that makes it, -1 for an input; without what `skip` makes.
    first: value -> the position of its first reader. A value lives until its last."""

    def __init__(self, graph: ir.Graph, skip: Collection[str]) -> None:
        self._values = {str(value.name): value for value in graph.inputs}
        self.made = dict.fromkeys(self._values, -1)
        self.first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        for position, node in enumerate(graph):
            if node.name in skip:
                continue
            named = {str(value.name): value for value in node.outputs if value.name}
            self._values |= named
            self.made |= dict.fromkeys(named, position)
            for value in (
                value for inner in with_bodies(node) for value in inner.inputs if value is not None
            ):
                self.first.setdefault(str(value.name), position)
                self._last[str(value.name)] = position

    def live(self, position: int) -> list[str]:
        """What is made before the node at `position` and read by it or later."""
        return [name for name, made in self.made.items() if made < position <= self._last.get(name, -1)]

    def can_cut(self, position: int) -> bool:
        """Whether all that lives there can be handed over as arrays."""
        return all(map(self.is_array, self.live(position)))

    def is_array(self, name: str) -> bool:
        """Whether ONNX Runtime makes this value and hands it out as an array."""
        value = self._values.get(name)
        dtype = value.dtype if value is not None and isinstance(value.type, ir.TensorType) else None
        return dtype is not None and dtype.numpy().kind in "biuf"  # bfloat16 and smaller floats are of kind V


def _cuts(first: Mapping[str, int], flow: Flow, most: int) -> list[tuple[int, list[str]]]:
    """Where each stage starts, and its tensors: as many in each, in the order of their first readers."""
    order = sorted(first, key=first.__getitem__)
    size = -(-len(order) // most)
    cuts: list[tuple[int, list[str]]] = []
    for tensor in order:
        if not cuts:
            cuts.append((0, []))
        elif len(cuts[-1][1]) >= size and flow.can_cut(first[tensor]):
            cuts.append((first[tensor], []))
        cuts[-1][1].append(tensor)
    return cuts


def _rest(
    model: ir.Model, switched: Mapping[str, Sequence[Read]], inputs: Sequence[str], outputs: Sequence[str]
) -> ir.Model:
    copy = model.clone()
    nodes = list(copy.graph)
    for tensor, reads in switched.items():
        seen = _switch(copy.graph, nodes[reads[0].node], reads[0].input, tensor)
        for read in reads:
            nodes[read.node].replace_input_with(read.input, seen)
    switches = [tensor + end for tensor in switched for end in (SCALE, ON)]
    return part_of(copy, [*inputs, *switches], outputs)


def _switch(graph: ir.Graph, reader: ir.Node, index: int, tensor: str) -> ir.Value:
    """What a node reads, through int8 and back where the switch is on; added in front of the node."""
    scale = ir.Value(name=tensor + SCALE, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.FLOAT))
    on = ir.Value(name=tensor + ON, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.BOOL))
    graph.inputs.extend([scale, on])
    back = through_int8(graph, reader, index, scale, f"{tensor}::judged")
    seen = ir.Value(name=f"{tensor}::judged")
    graph.insert_before(
        reader, [ir.node("Where", [on, back, reader.inputs[index]], outputs=[seen], name=seen.name)]
    )
    return seen


def part_of(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The nodes between `inputs`, of which those that nobody reads are left out, and `outputs`."""
    graph = convenience.extract(model.graph, list(inputs), list(outputs))
    read = {value for node in graph for inner in with_bodies(node) for value in inner.inputs}
    for value in list(graph.inputs):
        if value not in read:
            graph.inputs.remove(value)
        elif value.shape is not None:  # inferred lengths may be those of one case: the shards decide
            value.shape = ir.Shape([None] * len(value.shape))
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
