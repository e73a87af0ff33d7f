"""Which layers of the network each layer of an engine executes.

From TensorRT 8.6 on a layer notes its ONNX nodes in its metadata. Before, its name is made of the names of
the network's layers: `a + b`, `a || b`, `PWN(PWN(a), b)`, `{ForeignNode[first...last]}`. Layers that neither
tells of (a BatchNormalization folded into weights, the middle of a ForeignNode) are found by tensors: a layer
of an engine computes everything between the tensors that it reads and those that it writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from trtbuild.targets.trt.network import NetworkLayer
from trtbuild.targets.trt.report import EngineLayer

MOVES = frozenset({"SHUFFLE", "IDENTITY", "CONCATENATION", "SLICE", "SQUEEZE", "UNSQUEEZE"})
"""Types of network layers that compute nothing: TensorRT often needs no layer for them."""

_CLONE = re.compile(r"_clone_\d+")
_JOINTS = (" + ", " || ", ", ", "PWN(", "(", ")", "{ForeignNode[", "...", "]}")


def claims(
    engine: Sequence[EngineLayer], inert: Sequence[bool], network: Sequence[NetworkLayer]
) -> list[list[NetworkLayer]]:
    """For each layer of the engine the network's layers that it executes, constants left out, in the
    network's order.

    `inert` says which layers of the engine compute nothing (reformats and the like): they claim nothing, but
    rename tensors.
    """
    names = _Names(network)
    named = [
        set() if idle else names.noted(layer) or names.joined(layer.name)
        for layer, idle in zip(engine, inert, strict=True)
    ]
    unclaimed = {index for index, layer in enumerate(network) if layer.floats and layer.type not in MOVES}
    unclaimed -= set().union(*named)
    if unclaimed:
        tensors = _Tensors(engine, inert, network)
        for claimed, layer in zip(named, engine, strict=True):
            claimed.update(unclaimed & tensors.between(layer))
    return [[network[index] for index in sorted(claimed)] for claimed in named]


class _Names:
    """The network's layers by their names, and by those of their nodes."""

    def __init__(self, network: Sequence[NetworkLayer]) -> None:
        self._computing = {index for index, own in enumerate(network) if own.type != "CONSTANT"}
        self._layers = {own.name: index for index, own in enumerate(network)}
        self._longest = max(map(len, self._layers), default=0)
        self._of_node: dict[str | None, set[int]] = {}
        for index in self._computing:
            self._of_node.setdefault(network[index].node, set()).add(index)

    def noted(self, layer: EngineLayer) -> set[int]:
        """The layers of the nodes that the metadata of an engine's layer holds."""
        return set().union(*(self._of_node.get(node, ()) for node in layer.noted))

    def joined(self, name: str) -> set[int]:
        """The layers whose names the name of an engine's layer is made of. The longest match counts, since
        a name may itself hold what joins names."""
        cuts = [cut for joint in _JOINTS for cut in _places(joint, name)]
        starts = sorted({0, *(end for _, end in cuts)})
        clones = (clone.start() for clone in _CLONE.finditer(name))
        ends = sorted({len(name), *(start for start, _ in cuts), *clones}, reverse=True)
        found, done = set(), 0
        for start in starts:
            if start < done:
                continue
            reach = (end for end in ends if start < end <= start + self._longest)
            match = next((end for end in reach if name[start:end] in self._layers), None)
            if match is not None:
                found.add(self._layers[name[start:match]])
                done = match
        return found & self._computing


def _places(joint: str, name: str) -> Iterator[tuple[int, int]]:
    start = name.find(joint)
    while start >= 0:
        yield start, start + len(joint)
        start = name.find(joint, start + 1)


class _Tensors:
    """The tensors of an engine under the names that they have in the network."""

    def __init__(
        self, engine: Sequence[EngineLayer], inert: Sequence[bool], network: Sequence[NetworkLayer]
    ) -> None:
        self._network = network
        self._makers = {tensor: index for index, own in enumerate(network) for tensor in own.outputs}
        known = set(self._makers).union(*(own.inputs for own in network))
        renamed = _renamed((layer for layer, idle in zip(engine, inert, strict=True) if idle), known)
        self._renamed = renamed
        self._made = {self._real(tensor.name) for layer in engine for tensor in layer.outputs}

    def between(self, layer: EngineLayer) -> set[int]:
        """The network's layers between what `layer` reads and what it writes; those of an output for which
        that does not close, because the engine has tensors of its own there, are left out."""
        reads = {self._real(tensor.name) for tensor in layer.inputs}
        writes = {self._real(tensor.name) for tensor in layer.outputs}
        found: set[int] = set()
        left, seen = list(writes), set[str]()
        while left:
            tensor = left.pop()
            if tensor in seen or self._made_elsewhere(tensor, writes):
                continue
            seen.add(tensor)
            maker = self._makers.get(tensor)
            if maker is not None and self._network[maker].type == "CONCATENATION":
                left += self._network[maker].inputs  # one at a time: several layers may write a part each
            else:
                found |= self._behind(tensor, reads, writes) or set()
        return found

    def _behind(self, tensor: str, reads: set[str], writes: set[str]) -> set[int] | None:
        """Everything from `tensor` back to `reads`; None when it leads past them."""
        found: set[int] = set()
        left, seen = [tensor], set(reads)
        while left:
            tensor = left.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            maker = self._makers.get(tensor)
            if maker is not None and not self._network[maker].floats:
                continue  # constants, and the arithmetic of shapes
            if maker is None or self._made_elsewhere(tensor, writes):
                return None
            found.add(maker)
            left += self._network[maker].inputs
        return found

    def _made_elsewhere(self, tensor: str, writes: set[str]) -> bool:
        return tensor in self._made and tensor not in writes

    def _real(self, name: str) -> str:
        seen = {name}
        while (name := self._renamed.get(name, name)) not in seen:
            seen.add(name)
        return name


def _renamed(inert: Iterable[EngineLayer], known: set[str]) -> dict[str, str]:
    """Tensors that the network does not have -> those that they are a reformatted copy, or the source, of; a
    name that stands for several is left out."""
    found: dict[str, set[str]] = {}
    for layer in inert:
        if len(layer.inputs) == len(layer.outputs) == 1:
            source, copy = layer.inputs[0].name, layer.outputs[0].name
            if copy not in known:
                found.setdefault(copy, set()).add(source)
            elif source not in known:
                found.setdefault(source, set()).add(copy)
    return {name: next(iter(names)) for name, names in found.items() if len(names) == 1}
