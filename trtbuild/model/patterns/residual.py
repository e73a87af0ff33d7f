"""Residual additions: an Add whose two operands come from one tensor, one of them through weights.

Found from the Add, going back from both operands to the nearest tensor that both descend from. One
operand (or both) must get there through a Conv, ConvTranspose, Gemm or MatMul; the other must be that
tensor itself (or a reshape of it), or get there through weights too. A match is the Add alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from trtbuild.model.patterns.view import PLUMBING, Nodes, View, is_op

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_UNCHANGING = ("Transpose", "Flatten", "Dropout", *PLUMBING)
_WALK_BACK = 128  # tensors; an attention block written out with rotary embeddings has about 80 nodes

# How an operand of the Add descends from a tensor; a set of these, one for each kind of path.
_ITSELF, _COMPUTED, _THROUGH_WEIGHTS = "itself", "computed", "through weights"
_Descent = frozenset[str]


@dataclass(frozen=True, eq=False)
class _Tensor:
    """An activation and what it was computed from."""

    position: int  # grows along the graph
    node: ir.Node | None
    parents: tuple[_Tensor, ...]


def residual_adds(view: View) -> Iterator[Nodes]:
    tensors: dict[ir.Value, _Tensor] = {}
    for node in view.order:
        operands = view.activations(node.inputs)
        for value in operands:
            if value not in tensors:  # an input of the graph
                tensors[value] = _Tensor(len(tensors), None, ())
        parents = tuple(tensors[value] for value in operands)
        for value in view.activations(node.outputs):
            if value not in tensors:
                tensors[value] = _Tensor(len(tensors), node, parents)
        if is_op(node, "Add") and len(parents) == 2 and _meet(*parents):
            yield frozenset({node})


def _meet(first: _Tensor, second: _Tensor) -> bool:
    """Walk back from both, latest tensor first, to the nearest that both descend from."""
    if first is second:
        return False
    itself = frozenset({_ITSELF})
    from_first, from_second = {first: itself}, {second: itself}
    heap = [(-first.position, first), (-second.position, second)]
    heapq.heapify(heap)
    for _ in range(_WALK_BACK):
        if not heap:
            return False
        _, latest = heapq.heappop(heap)
        if latest in from_first and latest in from_second:
            return _is_residual(from_first[latest], from_second[latest])
        descents = from_first if latest in from_first else from_second
        descent = _one_node_back(latest.node, descents[latest])
        for parent in latest.parents:
            if parent not in from_first and parent not in from_second:
                heapq.heappush(heap, (-parent.position, parent))
            descents[parent] = descents.get(parent, frozenset()) | descent
    return False


def _one_node_back(node: ir.Node | None, descent: _Descent) -> _Descent:
    """How the operand descends from the inputs of this node, given how it does from its output."""
    if node is not None and is_op(node, *_WEIGHTED):
        return frozenset({_THROUGH_WEIGHTS})
    if _ITSELF not in descent or (node is not None and is_op(node, *_UNCHANGING)):
        return descent
    return descent - {_ITSELF} | {_COMPUTED}


def _is_residual(one: _Descent, other: _Descent) -> bool:
    only_computed = {_COMPUTED}
    return (_THROUGH_WEIGHTS in one and other != only_computed) or (
        _THROUGH_WEIGHTS in other and one != only_computed
    )
