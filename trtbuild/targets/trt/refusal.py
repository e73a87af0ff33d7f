"""What TensorRT's parser refuses: node by node, with the reason, in words that a user can act on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from trtbuild.model.graph import FLOATS, downstream, with_bodies
from trtbuild.targets.trt.binding import Binding

if TYPE_CHECKING:
    import tensorrt as trt

NO_IMPORTER = "TensorRT has no importer for it, and no plugin of its name"
_QUOTED = re.compile(r'&& "(.*)"$')
_DETAIL = re.compile(r"Error Code \d+: [^(]+\((.+?)(?:\. In \S+ at .*)?\)$")
_ASSERTION, _NODE = "Assertion failed: ", "Invalid Node - "


@dataclass(frozen=True)
class Refusal:
    """A node that the parser refused, with its `name` and `operator`, and the reason.

    `node` is that node of the main graph, or the If or Loop around it; None where the parser names none.
    """

    node: ir.Node | None
    name: str
    operator: str
    reason: str


def errors_of(parser: trt.OnnxParser, graph: ir.Graph) -> list[Refusal]:
    """The errors of a parser that failed on `graph`.

    An error carries the index of its node in the file; TensorRT 10 and later name the node as well, which
    may then be one of a body, of which the index counts. An error of an input has the input's name where
    others have a file of the parser's source.
    """
    inputs = {str(value.name) for value in graph.inputs}
    refusals = []
    for error in (parser.get_error(index) for index in range(parser.num_errors)):
        outer, inner = _node_of(error, list(graph))
        # not `name`: that of an ErrorCode is a method in TensorRT 8.5
        reason = _reason(error.desc(), str(error.code()).rpartition(".")[2])
        if inner is not None:
            refusals.append(Refusal(outer, _name(inner), inner.op_type, reason))
        else:
            where = f"input {error.file()!r}: " if error.file() in inputs else ""
            refusals.append(Refusal(None, "", "", f"{where}{reason}"))
    return refusals


def _node_of(error: trt.ParserError, nodes: list[ir.Node]) -> tuple[ir.Node | None, ir.Node | None]:
    """The node of the main graph, and the node in it that the error is about: itself, or one of its body."""
    outer = nodes[error.node()] if 0 <= error.node() < len(nodes) else None
    name = error.node_name() if hasattr(error, "node_name") else ""
    if name and (outer is None or outer.name != name):
        inside = ((node, inner) for node in nodes for inner in with_bodies(node) if inner.name == name)
        return next(inside, (outer, outer))
    return outer, outer


def _name(node: ir.Node) -> str:
    return node.name or f"{node.op_type}_{node.outputs[0].name}"


def without(graph: ir.Graph, refused: set[ir.Node]) -> list[ir.Node]:
    """Take nodes out of `graph`, in place, so that what comes after them can be tried by itself.

    Their float outputs become inputs of the graph. Behind an output of unknown shape, and behind integers,
    which may be shapes that must be constant, the parser cannot tell: those nodes go too, and are returned.
    """
    lost = {node for node in refused if not all(_can_be_fed(value) for value in node.outputs)}
    gone = refused | downstream(graph, lost)
    untried = [node for node in graph if node in gone and node not in refused]
    for value in (value for node in refused - lost for value in node.outputs):
        stand_in = ir.Value(name=value.name, shape=value.shape, type=value.type)
        value.replace_all_uses_with(stand_in, replace_graph_outputs=True)
        graph.inputs.append(stand_in)
    kept = [value for value in graph.outputs if value.producer() not in gone and not value.is_graph_input()]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    graph.remove(gone, safe=True)
    return untried


def without_importer(binding: Binding, parser: trt.OnnxParser, nodes: list[ir.Node]) -> list[Refusal]:
    """Those of `nodes` that this parser knows neither itself nor as a plugin."""
    plugins = _plugins(binding)
    return [
        Refusal(node, _name(node), node.op_type, NO_IMPORTER)
        for node in nodes
        if node.op_type not in plugins and not parser.supports_operator(node.op_type)
    ]


def _plugins(binding: Binding) -> set[str]:
    """The names of the registered plugins; TensorRT 10 and later list their new kinds too."""
    registry: Any = binding.get_plugin_registry() if hasattr(binding, "get_plugin_registry") else None
    for creators in ("all_creators", "plugin_creator_list"):
        if hasattr(registry, creators):
            return {str(creator.name) for creator in getattr(registry, creators)}
    return set()


def sentence(refusals: list[Refusal], behind: list[Refusal]) -> str:
    """One line: every node, those with the same operator and reason together."""
    text = f"TensorRT's parser refuses {_list(refusals)}"
    return f"{text}; without these, also {_list(behind)}" if behind else text


def _list(refusals: list[Refusal]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for refusal in refusals:
        names = groups.setdefault((refusal.operator, refusal.reason), [])
        if refusal.name not in names:
            names.append(refusal.name)
    return "; ".join(_group(operator, reason, names) for (operator, reason), names in groups.items())


def _group(operator: str, reason: str, names: list[str]) -> str:
    if not operator:
        return f"the model: {reason}"
    if len(names) == 1:
        return f"node {names[0]!r} ({operator}): {reason}"
    return f"{len(names)} nodes of type {operator} ({', '.join(map(repr, names))}): {reason}"


def _reason(text: str, code: str) -> str:
    """What the parser says, without the C++ around it: the message of an assertion or of TensorRT's error,
    or the first line behind the node's name. A condition alone ("false") says less than the error's code."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith(_NODE):
        del lines[0]
    line = lines[0].removeprefix(_ASSERTION) if lines else ""
    message = _QUOTED.search(line) or _DETAIL.search(line)
    if message:
        return NO_IMPORTER if message[1].startswith("Plugin not found") else message[1]
    words = code.lower().replace("_", " ")
    return line if " " in line else words if line in ("", "false") else f"{words} ({line})"


def _can_be_fed(value: ir.Value) -> bool:
    return value.shape is not None and value.dtype in FLOATS
