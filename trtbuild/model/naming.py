"""Names for nodes: every node of the main graph gets one that is unique and does not hang on its position."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir


def name_function_nodes(functions: Iterable[ir.Function]) -> None:
    """Inlining makes names unique, but numbers what has none."""
    for function in functions:
        for node in function.all_nodes():
            node.name = node.name or _after_output(node)


def name_nodes(graph: ir.Graph) -> tuple[int, dict[str, str]]:
    """Name unnamed nodes after their first output and make repeated names unique with `#2`, `#3`, …

    Both depend on the model alone, not on the position of a node, as long as tensor names stay. The
    nodes of the bodies come last: the passes give new names to whatever repeats.
    Returns how many nodes of the graph itself had no name, and new name -> repeated name.
    """
    nodes = sorted(graph.all_nodes(), key=lambda node: node.graph is not graph)
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    named, originals = 0, {}
    for node in nodes:
        original = node.name
        if not original:
            node.name = unique(_after_output(node), taken | seen)
            named += node.graph is graph
        elif original in seen:
            node.name = unique(original, taken | seen)
            if node.graph is graph:
                originals[node.name] = original
        seen.add(str(node.name))
    return named, originals


def name_added(graph: ir.Graph, known: set[str]) -> None:
    """Name what the passes added after its output too: their own names count positions."""
    taken = {str(node.name) for node in graph}
    for node in graph:
        if node.name not in known:
            taken.discard(str(node.name))
            node.name = unique(_after_output(node), taken)
            taken.add(node.name)


def _after_output(node: ir.Node) -> str:
    return f"{node.op_type}_{next((value.name for value in node.outputs if value.name), '')}"


def unique(name: str, taken: set[str]) -> str:
    """`name`, or with the first of `#2`, `#3`, … that is not taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"
