"""Bring any ONNX model into the one shape that the rest of trtbuild reads.

Constants become initializers and are folded, the opset is raised, shapes are inferred, and every
node gets a unique, stable name. Tensor names are kept: the golden diff matches by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import onnxscript.version_converter

from trtbuild.errors import InputError, one_line
from trtbuild.model.foreign import checked
from trtbuild.model.infer import infer_types
from trtbuild.model.naming import name_added, name_function_nodes, name_nodes

MIN_OPSET = 17
RAISED_OPSET = 18  # the version converter's result is bit-exact from here on
RESIZE_CHANGED = 11
MIN_IR_VERSION = 8
ORIGINAL_NAME = "trtbuild.original_name"
FOLDED_ELEMENTS = 1 << 24  # larger results (an Expand of zeros, say) stay nodes
KEEP_SIZE = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
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
    named, originals = inline_and_name(model)
    known = {str(node.name) for node in model.graph}
    with checked():
        passes.RemoveInitializersFromInputsPass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        if before < MIN_OPSET:
            _raise_opset(model, unregistered)
        onnxscript.optimizer.fold_constants(
            model,
            input_size_limit=FOLDED_ELEMENTS,
            output_size_limit=FOLDED_ELEMENTS,
            should_fold=lambda node: True if node.op_type in KEEP_SIZE else None,
        )
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.RemoveUnusedNodesPass()(model)
        infer_types(model)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    name_added(model.graph, known)
    for node in model.graph:
        if node.name in originals:
            node.metadata_props[ORIGINAL_NAME] = originals[node.name]
    return Normalisation(before, model.opset_imports[""], named, tuple(originals))


def inline_and_name(model: ir.Model) -> tuple[int, dict[str, str]]:
    """Inline functions and name every node, in place: what comes before any rewriting.

    Returns what `name_nodes` does. Raises InputError when the model is invalid.
    """
    with checked():
        name_function_nodes(model.functions.values())
        passes.InlinePass()(model)
    return name_nodes(model.graph)


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
        resize.attributes["nearest_mode"] = ir.AttrString("nearest_mode", _nearest_mode(resize))
    if len(resizes) == len(upsamples):
        for resize, (name, output) in zip(resizes, upsamples, strict=True):
            resize.name, resize.outputs[0].name = name, output


def _nearest_mode(resize: ir.Node) -> str:
    """How ONNX Runtime rounds in a Resize of opset 10: down where it stretches, up where it shrinks."""
    scales = resize.inputs[2].const_value if resize.inputs[2] is not None else None
    if scales is None or not (scales.numpy() < 1).any():
        return "floor"
    if (scales.numpy() > 1).any():
        raise InputError(
            f"Resize {resize.name!r} of an opset before {RESIZE_CHANGED} shrinks one axis and stretches "
            f"another, which later opsets cannot say; export the model with opset {RESIZE_CHANGED} or later"
        )
    return "ceil"


def _opset_message(before: int, reason: str) -> str:
    return (
        f"cannot raise the model from opset {before} to {RAISED_OPSET} ({reason}); "
        f"export it with opset {MIN_OPSET} or later"
    )
