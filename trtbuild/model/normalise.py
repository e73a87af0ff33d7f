"""Bring any ONNX model into the one shape that the rest of trtbuild reads.

Constants become initializers and are folded, the opset is raised, shapes are inferred, and every
node gets a unique, stable name. Tensor names are kept: the golden diff matches by them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx.defs
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import onnxscript.version_converter

from trtbuild.errors import InputError, one_line
from trtbuild.model.foreign import checked
from trtbuild.model.graph import bodies_of

MIN_OPSET = 17
RAISED_OPSET = 18  # the version converter's result is bit-exact from here on
RESIZE_CHANGED = 11
MIN_IR_VERSION = 8
ORIGINAL_NAME = "trtbuild.original_name"
FOLDED_ELEMENTS = 1 << 24  # larger results (an Expand of zeros, say) stay nodes
UNREGISTERED = "trtbuild.unregistered"


@dataclass(frozen=True)
class Normalisation:
    """What was changed: opsets before and after, and the new names of unnamed or repeated nodes."""

    opset_before: int
    opset_after: int
    named: int
    renamed: tuple[str, ...]


def normalise(model: ir.Model, unregistered: frozenset[str]) -> Normalisation:
    """Normalise `model` in place.

    `unregistered` are the operator types of the default domain that no ONNX opset knows (TensorRT
    plugins); they pass through untouched.
    Raises InputError when the opset cannot be raised, or when the model is invalid.
    """
    before = model.opset_imports[""]
    with checked():
        _name_function_nodes(model.functions.values())
        passes.InlinePass()(model)
    named, originals = _name_nodes(model.graph)
    known = {str(node.name) for node in model.graph}
    with checked():
        passes.RemoveInitializersFromInputsPass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        if before < MIN_OPSET:
            _raise_opset(model, unregistered)
        onnxscript.optimizer.fold_constants(
            model, input_size_limit=FOLDED_ELEMENTS, output_size_limit=FOLDED_ELEMENTS
        )
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.RemoveUnusedNodesPass()(model)
        infer_types(model)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    _name_added(model.graph, known)
    for node in model.graph:
        if node.name in originals:
            node.metadata_props[ORIGINAL_NAME] = originals[node.name]
    return Normalisation(before, model.opset_imports[""], named, tuple(originals))


def _raise_opset(model: ir.Model, unregistered: frozenset[str]) -> None:
    """Convert to RAISED_OPSET; operators without a schema sit in a foreign domain meanwhile."""
    nodes = list(model.graph.all_nodes())
    strangers = [node for node in nodes if node.domain == "" and node.op_type in unregistered]
    for node in strangers:
        node.domain = UNREGISTERED
    if strangers:
        model.opset_imports[UNREGISTERED] = 1
    before = model.opset_imports[""]
    upsamples = [(node.name, node.outputs[0].name) for node in nodes if node.op_type == "Upsample"]
    try:
        onnxscript.version_converter.convert_version(model, RAISED_OPSET, fallback=True)
    except Exception as error:  # the converter documents no error of its own
        raise InputError(_opset_message(before, one_line(error))) from error
    if model.opset_imports[""] != RAISED_OPSET:
        raise InputError(_opset_message(before, "the converter left the model as it was"))
    for node in model.graph.all_nodes():
        if node.domain == UNREGISTERED:
            node.domain = ""
    model.opset_imports.pop(UNREGISTERED, None)
    if before < RESIZE_CHANGED:
        _mend_resizes(model.graph, upsamples)


def _mend_resizes(graph: ir.Graph, upsamples: list[tuple[str | None, str | None]]) -> None:
    """What ONNX's converter forgets: how a Resize meant its coordinates before opset 11, and the names
    of an Upsample that it replaces."""
    resizes = [node for node in graph.all_nodes() if node.op_type == "Resize" and node.domain == ""]
    for resize in resizes:
        resize.attributes["coordinate_transformation_mode"] = ir.AttrString(
            "coordinate_transformation_mode", "asymmetric"
        )
        resize.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")
    if len(resizes) == len(upsamples):
        for resize, (name, output) in zip(resizes, upsamples, strict=True):
            resize.name, resize.outputs[0].name = name, output


def _opset_message(before: int, reason: str) -> str:
    return (
        f"cannot raise the model from opset {before} to {RAISED_OPSET} ({reason}); "
        f"export it with opset {MIN_OPSET} or later"
    )


def infer_types(model: ir.Model) -> None:
    """Infer types and shapes, in place, as far as ONNX can: one odd node does not stop the rest."""
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    _forget_sequences(model.graph)


def _forget_sequences(graph: ir.Graph) -> set[ir.Value]:
    """Take back the tensor types that onnx-ir's pass gives to sequences and optionals, in place.

    Returns the values of `graph` that are no tensors.
    """
    found: set[ir.Value] = set()
    for node in graph:
        bodies = list(bodies_of(node))
        for body in bodies:
            found |= _forget_sequences(body)
        first = 1 if node.op_type == "Loop" else 0  # of a Loop's body the condition
        for index, value in enumerate(node.outputs):
            inner = [body.outputs[first + index] for body in bodies if first + index < len(body.outputs)]
            passed = [*inner, *node.inputs[:1]] if node.op_type == "Identity" else inner
            if found.intersection(passed) or _yields_no_tensor(node, index):
                found.add(value)
                if isinstance(value.type, ir.TensorType):
                    value.type, value.shape = None, None
    return found


def _yields_no_tensor(node: ir.Node, index: int) -> bool:
    """Whether the operator's schema allows that output no tensor: only sequences, optionals or maps."""
    if node.domain != "" or not onnx.defs.has(node.op_type):
        return False
    schema = onnx.defs.get_schema(node.op_type)
    types = schema.outputs[min(index, len(schema.outputs) - 1)].types if schema.outputs else ()
    return bool(types) and not any(name.startswith("tensor(") for name in types)


def _name_function_nodes(functions: Iterable[ir.Function]) -> None:
    """Inlining makes names unique, but numbers what has none."""
    for function in functions:
        for node in function.all_nodes():
            node.name = node.name or _after_output(node)


def _name_nodes(graph: ir.Graph) -> tuple[int, dict[str, str]]:
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
            node.name = _unique(_after_output(node), taken | seen)
            named += node.graph is graph
        elif original in seen:
            node.name = _unique(original, taken | seen)
            if node.graph is graph:
                originals[node.name] = original
        seen.add(str(node.name))
    return named, originals


def _name_added(graph: ir.Graph, known: set[str]) -> None:
    """Name what the passes added after its output too: their own names count positions."""
    taken = {str(node.name) for node in graph}
    for node in graph:
        if node.name not in known:
            taken.discard(str(node.name))
            node.name = _unique(_after_output(node), taken)
            taken.add(node.name)


def _after_output(node: ir.Node) -> str:
    return f"{node.op_type}_{next((value.name for value in node.outputs if value.name), '')}"


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"
