"""Known subgraphs of an ONNX graph: layer norms, softmaxes, GELUs, attention scores, residual adds.

Read-only: `find` names nodes, it never changes them. A match holds the nodes that compute
something, the casts and reshapes between them, and no Constant nodes. Each pattern family has its
own module here, written on what `view.py` knows about a graph.

Why not `onnxscript.rewriter.pattern` (0.7.2, evaluated): it compares constants only when they are
rank-0 initializers (a Constant node never matches), cannot look through the Identity, Cast and
Reshape nodes that exporters put between the operations, cannot follow chains of unknown length,
fails in `commute()` when a pattern has an `OrValue` of two equal operators, and took 1.3 s for two
patterns (72 commuted variants) on 5,000 nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import onnx_ir as ir

from trtbuild.model.patterns.attention import attention_scores
from trtbuild.model.patterns.gelu import gelus
from trtbuild.model.patterns.layernorm import layernorms
from trtbuild.model.patterns.residual import residual_adds
from trtbuild.model.patterns.softmax import logsoftmaxes, softmaxes
from trtbuild.model.patterns.view import Nodes, View

__all__ = ["PATTERNS", "find"]

PATTERNS: Mapping[str, Callable[[View], Iterator[Nodes]]] = MappingProxyType(
    {
        "layernorm": layernorms,
        "softmax": softmaxes,
        "logsoftmax": logsoftmaxes,
        "attention-scores": attention_scores,
        "gelu": gelus,
        "residual-add": residual_adds,
    }
)


def find(name: str, graph: ir.Graph) -> list[tuple[ir.Node, ...]]:
    """Find all matches of a pattern among the graph's own nodes (not inside If or Loop bodies).

    Matches come in topological order of their last node, the nodes of a match in topological order.
    Matches of one pattern never share a node: the one that ends first wins, then the longest.
    """
    if name not in PATTERNS:
        raise ValueError(f"unknown pattern {name!r}; there are: {', '.join(PATTERNS)}")
    view = View(graph)
    matches = [tuple(sorted(nodes, key=view.order.__getitem__)) for nodes in PATTERNS[name](view)]
    matches.sort(key=lambda match: (view.order[match[-1]], -len(match)))
    taken: set[ir.Node] = set()
    result = []
    for match in matches:
        if taken.isdisjoint(match):
            taken.update(match)
            result.append(match)
    return result
